"""How every figure looks: legible at half its size, in greyscale, and to the colour-blind."""
import io
from collections.abc import Iterable
from contextlib import AbstractContextManager

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito 2008, "Color Universal Design". Each role also has its own marker or line, so that grey suffices.
MEASURED = {"color": "#000000", "marker": "o", "linestyle": "none", "markersize": 9}
OTHER = {"color": "#0072B2", "marker": "^", "linestyle": "none", "markersize": 10}  # measured too, done otherwise
FITTED = {"color": "#0072B2", "linestyle": "-", "linewidth": 2.2}
PREDICTED = {"color": "#D55E00", "linestyle": ":", "marker": "s", "markersize": 9, "markerfacecolor": "white",
             "markeredgewidth": 2, "linewidth": 2.6}
LIMIT = {"color": "#666666", "linestyle": "--", "linewidth": 2.2}
PEER = {"color": "#009E73", "linestyle": "none", "marker": "D", "markersize": 8, "markerfacecolor": "white",
        "markeredgewidth": 2}

RC = {"font.size": 14, "axes.titlesize": 14, "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False,
      "axes.spines.right": False, "legend.frameon": False}


def new_figure(panels: int = 1, height: float = 5.2) -> tuple[Figure, list[Axes]]:
    """A figure, and its panels side by side. Use it within `with in_style():`."""
    figure = Figure(figsize=(2.2 + 6.0 * panels, height), layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def in_style() -> AbstractContextManager:
    return matplotlib.rc_context(RC)


def png(figure: Figure) -> bytes:
    """The figure as a picture, the same for the same data and the same matplotlib."""
    out = io.BytesIO()
    figure.savefig(out, dpi=100, metadata={"Software": None})
    return out.getvalue()


def spread(rows: pd.DataFrame, whose: str = "") -> np.ndarray:
    """How far error bars from p05 to p95 reach below and above the median time; `whose` may be "peer_"."""
    median = rows[f"{whose}time"]
    return np.array([median - rows[f"{whose}p05"], rows[f"{whose}p95"] - median])


def label_generations(panel: Axes, row: pd.Series, lengths: Iterable[int]) -> None:
    """Title and axes of a panel that shows whole generations of one model against their lengths."""
    panel.set(xscale="log", yscale="log", xlabel="output length n (tokens)", ylabel="whole generation (s)",
              title=f"{row.model}, {row['dtype']}, prompt of {row.prompt_length} tokens\n{machine_name(row)}")
    panel.set_xticks(lengths, [str(length) for length in lengths])
    panel.minorticks_off()


def machine_name(row: pd.Series) -> str:
    """What computed, as a title says it."""
    return row.gpu or f"{row.cpu}, {row.cores} core{'s' * (row.cores != '1')}"
