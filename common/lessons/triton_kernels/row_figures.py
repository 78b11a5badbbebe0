"""How near to a plain copy each row kernel comes, and RMSNorm from one row to thousands."""
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.lessons.triton_kernels.row_cases import COMPILED, CUDA, FLASHINFER, LESSON, LIGER, TORCH
from common.measure import style

STYLES = {  # markers apart in shape as well as in colour
    LESSON: style.MEASURED,
    TORCH: style.PEER | {"marker": "x", "color": "#666666"},
    COMPILED: style.PEER,
    LIGER: style.PEER | {"marker": "^", "color": "#0072B2"},
    FLASHINFER: style.PEER | {"marker": "P", "color": "#E69F00"},
    CUDA: style.PEER | {"marker": "v", "color": "#CC79A7"},
}


def draw(rows: pd.DataFrame) -> Figure:
    figure, panels = style.new_figure(2, height=6.8)
    rows = rows.assign(rows=rows.rows.astype(int), columns=rows["columns"].astype(int))
    first = rows.iloc[0]
    draw_kernels(panels[0], rows)
    draw_sizes(panels[1], rows[rows.kernel == "rms_norm"])
    figure.suptitle(f"Row kernels, {first['dtype']}, {style.machine_name(first)}", fontsize=14)
    return figure


def draw_kernels(panel: Axes, rows: pd.DataFrame) -> None:
    """Every kernel at its largest size: bytes that must move, per second. `copy` is a copy of that same size."""
    full = rows[rows.bytes >= 1e8]
    full = full.assign(label=[f"{kernel}\n{n:,} × {c:,}" for kernel, n, c in
                              zip(full.kernel, full.rows, full["columns"], strict=True)])
    labels = list(full.label.unique())[::-1]  # the first on top
    for place, (name, look) in enumerate(STYLES.items()):
        points = full[(full.implementation == name) & full.time.notna()]
        if len(points):
            at = points.label.map(labels.index) + 0.3 - 0.12 * place  # a little apart, for many are equally fast
            panel.plot(points.bytes_per_second / 1e12, at, **look, label=name)
    panel.axvline(full.copy_bytes_per_second.max() / 1e12, **style.LIMIT, label="limit: a copy of 1 GiB")
    panel.set_yticks(range(len(labels)), labels, fontsize=12)
    panel.set(xlabel="bytes that must move (TB/s)", xlim=(0, None), ylim=(-0.6, len(labels) - 0.4),
              title="Bandwidth at full size")
    panel.legend(loc="upper center", bbox_to_anchor=(0.4, -0.13), ncols=4, fontsize=12, columnspacing=1.2)


def draw_sizes(panel: Axes, rows: pd.DataFrame) -> None:
    """The time of RMSNorm against the number of rows: launch-bound, then memory-bound."""
    rows = rows[rows.time.notna()].sort_values("rows")
    for name in (LESSON, TORCH):
        points = rows[rows.implementation == name]
        panel.errorbar(points.rows, 1e6 * points.time, yerr=1e6 * style.spread(points), capsize=4, **STYLES[name],
                       label=name)
    ours = rows[(rows.implementation == LESSON) & rows.predicted.notna()]
    panel.plot(ours.rows, 1e6 * ours.predicted, **style.PREDICTED | {"marker": ""}, label="predicted by 05.1")
    limit = rows.drop_duplicates("rows")
    panel.plot(limit.rows, 1e6 * limit.bytes / limit.copy_bytes_per_second, **style.LIMIT,
               label="limit: its bytes at a copy's rate")
    panel.set(xscale="log", yscale="log", xlabel=f"rows of {rows['columns'].max():,}", ylabel="time (µs)",
              title="rms_norm against its size")
    panel.legend(loc="upper left", fontsize=12)
