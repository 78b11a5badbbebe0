"""How every figure looks: legible at half its size, in greyscale, and to the colour-blind."""
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

# Okabe and Ito 2008, "Color Universal Design". Each role also has its own marker or line, so that grey suffices.
MEASURED = {"color": "#000000", "marker": "o", "linestyle": "none", "markersize": 9}
FITTED = {"color": "#0072B2", "linestyle": "-", "linewidth": 2.2}
PREDICTED = {"color": "#D55E00", "linestyle": ":", "marker": "s", "markersize": 9, "markerfacecolor": "white",
             "markeredgewidth": 2, "linewidth": 2.6}
LIMIT = {"color": "#666666", "linestyle": "--", "linewidth": 2.2}
OURS = {"color": "#0072B2"}
PEER = {"color": "#E69F00", "hatch": "//", "edgecolor": "white"}

RC = {"font.size": 14, "axes.titlesize": 14, "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False,
      "axes.spines.right": False, "legend.frameon": False, "svg.hashsalt": "transformers-lab"}


def new_figure(panels: int = 1, height: float = 5.2):
    """A figure, and its panels side by side in a list."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(2.2 + 6.0 * panels, height), layout="constrained")
        return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def png(figure: Figure) -> bytes:
    """The figure as a picture that is the same for the same data."""
    import io

    out = io.BytesIO()
    with matplotlib.rc_context(RC):
        figure.savefig(out, dpi=100, metadata={"Software": None})
    return out.getvalue()


def machine_name(row) -> str:
    """What computed, as a title says it."""
    return row.gpu or f"{row.cpu}, {row.cores} core{'s' * (str(row.cores) != '1')}"


def save(figure: Figure, file: Path) -> None:
    from common.files import write_atomically

    write_atomically(file, png(figure))
