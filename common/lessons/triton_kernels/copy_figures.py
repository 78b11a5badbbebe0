"""Copies between host and GPU against their size, and what a column costs."""
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.lessons.triton_kernels.copy_timings import TO_GPU, TO_HOST, WITHIN
from common.measure import style

BLACK, ORANGE, BLUE = ({"color": color, "linestyle": "none", "markersize": 6}
                       for color in ("#000000", "#D55E00", "#0072B2"))


def fit(rows: pd.DataFrame) -> tuple[float, float]:
    """(seconds, bytes per second) of time = seconds + bytes / bytes per second: from small copies, and the largest."""
    rows = rows.sort_values("bytes")
    start = float(rows.time[rows.bytes <= 2**14].median())
    return start, float(rows.bytes.iloc[-1] / (rows.time.iloc[-1] - start))


def draw(rows: pd.DataFrame) -> Figure:
    figure, panels = style.new_figure(2, height=6.2)
    rows = rows.assign(bytes=rows.bytes.astype(int))
    draw_whole(panels[0], rows[rows.layout == "whole"])
    draw_columns(panels[1], rows)
    for panel in panels:
        panel.set(xscale="log", yscale="log", xlabel="bytes")
        panel.set_xticks([1, 2**10, 2**20, 2**26], ["1", "1 KiB", "1 MiB", "64 MiB"])
        panel.minorticks_off()
        panel.legend(loc="upper left", fontsize=11)
        panel.set_ylim(top=panel.get_ylim()[1] * 30)  # room for the legend
    figure.suptitle(f"Copies, {style.machine_name(rows.iloc[0])}", fontsize=14)
    return figure


def draw_whole(panel: Axes, rows: pd.DataFrame) -> None:
    """Seconds of a copy between host and GPU: a start that every copy pays, then the rate of the bus."""
    for direction, look in ((TO_GPU, {"marker": "o"}), (TO_HOST, {"marker": "s", "markerfacecolor": "white"})):
        for memory, colour in (("pageable", ORANGE), ("pinned", BLACK)):
            curve = rows[(rows.direction == direction) & (rows.host_memory == memory)]
            if curve.empty:  # a machine may lack what it takes
                continue
            panel.plot(curve.bytes, 1e6 * curve.time, **colour, **look, label=f"{direction}, {memory}")
    pinned = rows[(rows.direction == TO_GPU) & (rows.host_memory == "pinned")]
    start, rate = fit(pinned)
    dense = np.geomspace(1, pinned.bytes.max(), 200)
    panel.plot(dense, 1e6 * (start + dense / rate), **style.FITTED,
               label=f"pinned: {1e6 * start:.0f} µs + bytes / ({rate / 1e9:.0f} GB/s)")
    panel.set(ylabel="time (µs)", title="Between host and GPU")


def draw_columns(panel: Axes, rows: pd.DataFrame) -> None:
    """Gigabytes per second, of whole tensors and of one column."""
    for direction, memory, name, colour in ((TO_GPU, "pinned", "host to GPU", BLACK), (WITHIN, "none", WITHIN, BLUE)):
        for layout, look in (("whole", {"marker": "o"}), ("column", {"marker": "s", "markerfacecolor": "white"})):
            curve = rows[(rows.direction == direction) & (rows.host_memory == memory) & (rows.layout == layout)]
            panel.plot(curve.bytes, curve.bytes / curve.time / 1e9, **colour, **look, label=f"{name}, {layout}")
    panel.set(ylabel="bytes copied (GB/s)", title="Whole tensors, and one column of 64")
