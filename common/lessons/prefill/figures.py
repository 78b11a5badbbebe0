"""Prefill and decode of whole batches, in tokens per second against the batch size."""
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from common.lessons.prefill import timings
from common.measure import style
from common.measure.plots import Plot
from common.measure.tables import by_model


def draw(rows: pd.DataFrame) -> Figure:
    """Two panels for each model: prompts' tokens per second of prefill, new tokens per second of decode."""
    groups = by_model(rows, "batch_size")
    figure, panels = style.new_figure(2 * len(groups), height=5.8)
    for group, prefill, decode in zip(groups, panels[::2], panels[1::2], strict=True):
        draw_prefill(prefill, group)
        draw_decode(decode, group)
        first, sizes = group.iloc[0], group.batch_size.astype(int)
        for panel, what in ((prefill, "prefill"), (decode, "decode")):
            panel.set(xscale="log", xlabel="batch size (requests)",
                      title=f"{what}: {first.model}, {first['dtype']}\n{style.machine_name(first)}")
            panel.set_xticks(sizes, [str(size) for size in sizes])
            panel.minorticks_off()
            panel.legend(loc="upper left", fontsize=12)
        top = (group.prompt_tokens / group.limit_prefill_s).max()
        prefill.set_ylim(0, 1.7 * top)  # room for the legend
        prefill.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        low, high = decode.get_ylim()
        decode.set(yscale="log", ylim=(low, high * (high / low) ** 0.4))
    return figure


def draw_prefill(panel: Axes, rows: pd.DataFrame) -> None:
    """Padding does not count as work done: each side's rate is that of the prompts' own tokens."""
    sizes, tokens = rows.batch_size.astype(int), rows.prompt_tokens
    if (rows.padded_tokens > tokens).any():
        expected = tokens / rows.padded_prefill_s * rows.padded_tokens / tokens
        panel.plot(sizes, expected, **style.PREDICTED, label="padded, times padded / real tokens")
    panel.plot(sizes, tokens / rows.padded_prefill_s, **style.OTHER, label="padded rectangle")
    if rows.peer_prefill_s.notna().any():
        panel.plot(sizes, tokens / rows.peer_prefill_s, **style.PEER, label=rows.peer.iloc[0])
    else:
        panel.plot([], [], " ", label=rows.peer.iloc[0])
    rate = tokens / rows.prefill_s
    spread = [rate - tokens / rows.prefill_p95, tokens / rows.prefill_p05 - rate]
    panel.errorbar(sizes, rate, yerr=spread, capsize=4, **style.MEASURED,
                   label=f"packed ({rows.code.iloc[0]}; bars: p05 to p95)")
    panel.plot(sizes, tokens / rows.limit_prefill_s, **style.LIMIT, label="limit: FLOPs or bytes")
    panel.set_ylabel("prompt tokens per second")


def draw_decode(panel: Axes, rows: pd.DataFrame) -> None:
    sizes = rows.batch_size.astype(int)
    if rows.peer_tokens_per_s.notna().any():
        panel.plot(sizes, rows.peer_tokens_per_s, **style.PEER, label=f"{rows.peer.iloc[0]}, default cache")
    else:
        panel.plot([], [], " ", label=rows.peer.iloc[0])
    panel.plot(sizes, rows.tokens_per_s, **style.MEASURED, label=f"slots ({rows.code.iloc[0]})")
    decoded = sizes * (rows.new_tokens - 1)
    panel.plot(sizes, decoded / rows.limit_decode_s, **style.LIMIT, label="limit: FLOPs or bytes")
    panel.set(yscale="log", ylabel="new tokens per second")


FIGURES = (Plot("uniform_prefill", (timings.UNIFORM,), draw), Plot("prefill_comparison", (timings.DIFFERENT,), draw))
