"""TFLOP/s of attention, against the length of the sequences, and against how many there are."""
from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.lessons.flash_attention import attention_timings, step_timings
from common.lessons.flash_attention.attention_timings import TOKENS
from common.measure import style
from common.measure.plots import Plot

LINES = {  # every line differs in colour, marker and dashes
    "lesson 06": {"color": "#000000", "marker": "o", "linestyle": "-", "linewidth": 2.6},
    "second version": {"color": "#0072B2", "marker": "s", "linestyle": "-", "linewidth": 2.6},
    "torch FA2": {"color": "#D55E00", "marker": "^", "linestyle": ":"},
    "torch cuDNN": {"color": "#009E73", "marker": "D", "linestyle": "--"},
    "FlashAttention-3": {"color": "#CC79A7", "marker": "v", "linestyle": "-."},
    "FlashInfer": {"color": "#E69F00", "marker": "P", "linestyle": (0, (5, 1, 1, 1, 1, 1))},
    "plain torch": {"color": "#666666", "marker": "x", "linestyle": ":"},
}


def draw_lengths(direction: str, rows: pd.DataFrame) -> Figure:
    """Heads of 64 and of 128, without a mask (left) and causal (right)."""
    grid = rows[rows.direction.eq(direction) & rows.heads.eq(rows.kv_heads)
                & (rows.batch.astype(int) * rows.sequence.astype(int)).eq(TOKENS)]
    head_dims = sorted(grid.head_dim.unique(), key=int)
    figure = Figure(figsize=(14.2, 4.1 * len(head_dims) + 1.6), layout="constrained")
    for head_dim, pair in zip(head_dims, figure.subplots(len(head_dims), 2, squeeze=False), strict=True):
        for causal, panel in zip("01", pair, strict=True):
            here = grid[grid.head_dim.eq(head_dim) & grid.causal.eq(causal)]
            draw_panel(panel, here, "sequence", "sequence length (tokens)")
            panel.set_title(f"{here.iloc[0].heads} heads of {head_dim}, {'causal' if causal == '1' else 'no mask'}")
    finish(figure, f"{direction}, {TOKENS:,} tokens in all", rows)
    return figure


def draw_batches(rows: pd.DataFrame) -> Figure:
    """More and more sequences of one length (left), and the heads of Llama-3-8B (right)."""
    figure, (left, right) = style.new_figure(2, height=6.4)
    causal = rows[rows.direction.eq("forward") & rows.head_dim.eq("128") & rows.causal.eq("1")]
    equal = causal[causal.heads.eq(causal.kv_heads)]
    one_length = equal[equal.sequence.eq(equal.groupby("sequence").batch.nunique().idxmax())]
    draw_panel(left, one_length, "batch", "batch size")
    left.set_title(f"{one_length.iloc[0].heads} heads of 128, sequences of {one_length.iloc[0].sequence}, causal")
    grouped = causal[causal.heads.ne(causal.kv_heads)]
    draw_panel(right, grouped, "sequence", "sequence length (tokens)")
    right.set_title(f"{grouped.iloc[0].heads} query heads, {grouped.iloc[0].kv_heads} key/value heads of 128, causal")
    finish(figure, "forward", rows)
    return figure


def draw_steps(rows: pd.DataFrame) -> Figure:
    """How fast each version is, and how fast it would be with each of its steps undone."""
    figure, panels = style.new_figure(2, height=5.2)
    for causal, panel in zip("01", panels, strict=True):
        here = rows[rows.causal.eq(causal) & rows.time.notna()]
        places = range(len(here))
        panel.barh(places, here.tflops, color=[LINES[version]["color"] for version in here.version])
        panel.set_yticks(places, here.step)
        panel.invert_yaxis()
        panel.bar_label(panel.containers[0], fmt="%.0f", padding=4)
        panel.set(xlabel="TFLOP/s", xlim=(0, 1.12 * here.tflops.max()), title="causal" if causal == "1" else "no mask")
    panels[1].set_yticklabels([])
    first = rows.iloc[0]
    figure.suptitle(f"{' (black) and '.join(rows.version.unique())} (blue), heads of {first.head_dim}, sequences of "
                    f"{first.sequence}, {first['dtype']}, {style.machine_name(first)}", fontsize=14)
    return figure


def draw_panel(panel: Axes, rows: pd.DataFrame, across: str, label: str) -> None:
    """TFLOP/s of each implementation, and the rate of a plain matrix product, which none can beat."""
    for name, line in LINES.items():
        curve = rows[rows.implementation.eq(name) & rows.time.notna()].sort_values(across, key=pd.to_numeric)
        if curve.empty:
            continue
        x, tflop = curve[across].astype(int), curve.tflops * curve.time  # TFLOP of a call
        spread = [curve.tflops - tflop / curve.p95, tflop / curve.p05 - curve.tflops]
        panel.errorbar(x, curve.tflops, yerr=spread, capsize=3, markersize=8, label=name, **line)
        if curve.predicted.notna().any():
            panel.plot(x, tflop / curve.predicted, color=line["color"], linewidth=2, linestyle=(0, (1, 2)),
                       label=f"{name}, predicted by 06.1")
    limit = rows.matmul_flops_per_second.median() / 1e12
    panel.axhline(limit, **style.LIMIT, label="limit: a matrix product in the same run")
    ticks = sorted(rows[across].astype(int).unique())
    panel.set(xscale="log", xlabel=label, ylabel="TFLOP/s", ylim=(0, 1.08 * limit))
    panel.set_xticks(ticks, [f"{tick // 1024}k" if tick >= 1024 else str(tick) for tick in ticks])
    panel.minorticks_off()
    share = panel.secondary_yaxis("right", functions=(lambda y: 100 * y / limit, lambda y: y * limit / 100))
    share.set_ylabel("% of the limit")


def finish(figure: Figure, what: str, rows: pd.DataFrame) -> None:
    """A title, and one legend for all panels: the implementations, then what they are compared with."""
    first = rows.iloc[0]
    figure.suptitle(f"{what}, {first['dtype']}, {style.machine_name(first)}", fontsize=14)
    named = {label: handle for panel in figure.axes for handle, label in zip(*panel.get_legend_handles_labels(),
                                                                            strict=True)}
    order = [name for name in LINES if name in named] + [name for name in named if name not in LINES]
    figure.legend([named[name] for name in order], order, loc="outside lower center", ncols=3, fontsize=13)


FIGURES = (
    Plot("attention_performance_seq", (attention_timings.TABLE,), partial(draw_lengths, "forward")),
    Plot("attention_performance_backward", (attention_timings.TABLE,), partial(draw_lengths, "backward")),
    Plot("attention_performance_batch", (attention_timings.TABLE,), draw_batches),
    Plot("attention_steps", (step_timings.TABLE,), draw_steps),
)
