"""How every figure looks: legible at half its size, in greyscale, and to the colour-blind."""
import io
from contextlib import AbstractContextManager

import matplotlib
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


def machine_name(row: pd.Series) -> str:
    """What computed, as a title says it."""
    return row.gpu or f"{row.cpu}, {row.cores} core{'s' * (row.cores != '1')}"
