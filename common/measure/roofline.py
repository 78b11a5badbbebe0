"""The roofline: operations per second against operations per byte, under what memory and arithmetic allow.

Source: Williams, Waterman and Patterson 2009, "Roofline".
"""
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from common.measure import style
from common.measure.ceilings import Ceilings


@dataclass(frozen=True)
class Spot:
    """One thing that was timed."""

    label: str
    flops: int
    bytes_moved: int
    seconds: float

    @property
    def intensity(self) -> float:
        """Operations per byte: how often what was fetched is used."""
        return self.flops / self.bytes_moved

    @property
    def flops_per_second(self) -> float:
        return self.flops / self.seconds


def draw(title: str, ceilings: Ceilings, series: dict[str, list[Spot]]) -> Figure:
    """At most three series of spots, each with its name in the legend, under the roof of one machine."""
    figure, [panel] = style.new_figure(height=5.6)
    spots = [spot for group in series.values() for spot in group]
    ridge = ceilings.flops_per_second / ceilings.bytes_per_second
    low, high = min(ridge, *(spot.intensity for spot in spots)) / 4, max(ridge, *(spot.intensity for spot in spots)) * 4
    intensity = np.geomspace(low, high, 200)
    roof = np.minimum(ceilings.flops_per_second, intensity * ceilings.bytes_per_second)
    panel.plot(intensity, roof / 1e9, **style.LIMIT, label=f"roof: {ceilings.bytes_per_second / 1e9:,.0f} GB/s, then "
                                                           f"{ceilings.flops_per_second / 1e9:,.0f} GFLOP/s")
    panel.axvline(ridge, color=style.LIMIT["color"], linewidth=1, alpha=0.5)
    for side, words in (("right", "memory-bound  "), ("left", "  compute-bound")):
        panel.text(ridge, 0.02, words, ha=side, fontsize=12, color=style.LIMIT["color"],
                   transform=panel.get_xaxis_transform())  # x in data, y in parts of the panel
    for (name, group), look in zip(series.items(), (style.MEASURED, style.OTHER, style.PEER), strict=False):
        x, y = zip(*((spot.intensity, spot.flops_per_second / 1e9) for spot in group), strict=True)
        panel.plot(x, y, **look, label=name)
        for spot in group:
            panel.annotate(spot.label, (spot.intensity, spot.flops_per_second / 1e9), xytext=(9, -13),
                           textcoords="offset points", fontsize=11)
    panel.set(xscale="log", yscale="log", xlabel="arithmetic intensity (FLOP per byte)", ylabel="attained (GFLOP/s)",
              title=title)
    panel.legend(loc="upper left", fontsize=12)
    bottom, top = panel.get_ylim()
    panel.set_ylim(bottom / 2.5, top * 8)  # room for the words below and the legend above
    return figure
