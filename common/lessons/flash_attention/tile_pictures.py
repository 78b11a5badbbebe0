"""Two pictures of an attention: which tiles it loads, and in which tiles it weighs the keys wrongly."""
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from common.lessons.flash_attention.tile_traces import BLOCK
from common.measure import style

KINDS = {"not loaded": "#FFFFFF", "loaded, and hidden by the mask": "#F0C879", "loaded, and seen": "#0072B2",
         "seen, but not loaded": "#000000"}


def picture_of_loads(panels: list[tuple[str, Bool[Tensor, "Nq Nk"], Bool[Tensor, "Nq blocks"]]]) -> Figure:
    """For each panel its title, what every query has to see, and which blocks of keys its program loaded."""
    with style.in_style():
        figure, axes = panels_of(max(seen.shape[0] / seen.shape[1] for _, seen, _ in panels), len(panels))
        for panel, (title, seen, loaded) in zip(axes, panels, strict=True):
            loaded = loaded.repeat_interleave(BLOCK, dim=1)[:, :seen.shape[1]]
            kinds = loaded.int() + (loaded & seen) + 3 * (seen & ~loaded)
            panel.imshow(kinds.numpy(), cmap=ListedColormap(list(KINDS.values())), vmin=0, vmax=len(KINDS) - 1,
                         interpolation="nearest", extent=(0, seen.shape[1], seen.shape[0], 0))
            label(panel, title, *seen.shape)
        figure.legend(handles=[Patch(facecolor=colour, edgecolor="#666666", label=kind)
                               for kind, colour in KINDS.items()], loc="outside lower center", ncols=4, fontsize=12)
        return figure


def picture_of_errors(panels: list[tuple[str, Float[Tensor, "Nq blocks"]]]) -> Figure:
    """For each panel its title and by how much each query's weight of each block of keys is off."""
    with style.in_style():
        figure, axes = panels_of(len(panels[0][1]) / (BLOCK * panels[0][1].shape[1]), len(panels))
        for panel, (title, error) in zip(axes, panels, strict=True):
            rows = [tile.nan_to_num(1).amax(0) for tile in error.split(BLOCK)]
            shown = panel.imshow(np.maximum(np.stack(rows), 1e-7), cmap="cividis", norm=LogNorm(1e-7, 1),
                                 extent=(0, BLOCK * error.shape[1], len(error), 0))
            label(panel, title, len(error), BLOCK * error.shape[1])
        figure.colorbar(shown, ax=axes, label="largest error of a tile's weights", shrink=0.9)
        return figure


def panels_of(ratio: float, count: int) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side that are `ratio` times as high as they are wide."""
    figure = Figure(figsize=(4.2 * count + 1, 3.6 * ratio + 1.6), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def label(panel: Axes, title: str, nq: int, nk: int) -> None:
    panel.set(title=title, xlabel="key", ylabel="query", xticks=range(0, nk + 1, 2 * BLOCK),
              yticks=range(0, nq + 1, BLOCK if nq <= 4 * BLOCK else 2 * BLOCK))
    panel.set_xticks(range(0, nk + 1, BLOCK), minor=True)
    panel.set_yticks(range(0, nq + 1, BLOCK), minor=True)
    panel.grid(visible=True, which="both", color="#999999", linewidth=0.5, alpha=0.6)
