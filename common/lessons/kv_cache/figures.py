"""The seconds of a generation against its length: the same prompts without a cache and with one."""
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.lessons.kv_cache import timings
from common.measure import style
from common.measure.generation import NO_KV_TIMES
from common.measure.plots import Plot
from common.measure.tables import by_model


def draw(cached: pd.DataFrame, plain: pd.DataFrame) -> Figure:
    """Seconds of a whole generation against its length, one panel for each model, from both lessons' tables."""
    groups = by_model(cached, "output_length")
    figure, panels = style.new_figure(len(groups), height=5.8)
    for panel, group in zip(panels, groups, strict=True):
        plain_group = plain.merge(group[["model", "dtype", "prompt_length"]].drop_duplicates())
        drawn = draw_model(panel, group, plain_group.sort_values("output_length", key=pd.to_numeric))
        lengths = sorted({*group.output_length.astype(int), *plain_group.output_length.astype(int)})
        style.label_generations(panel, group.iloc[0], lengths)
        panel.legend(handles=drawn, loc="upper left", fontsize=12)
        panel.set_ylim(top=panel.get_ylim()[1] * 60)  # room for the legend
    return figure


def draw_model(panel: Axes, cached: pd.DataFrame, plain: pd.DataFrame) -> list[Artist]:
    """Draw one model's points and lines; return them in the order in which a reader needs their names."""
    n, present = cached.output_length.astype(int), cached.peer_time.notna()
    drawn = []
    if len(plain):
        drawn.append(panel.errorbar(plain.output_length.astype(int), plain.time, yerr=style.spread(plain), capsize=4,
                                    **style.OTHER | {"linestyle": "-"}, label="without a cache (lesson 02)"))
    drawn.append(panel.errorbar(n, cached.time, yerr=style.spread(cached), capsize=4, **style.MEASURED, zorder=3,
                                label=f"with a cache ({cached.code.iloc[0]}; bars: p05 to p95)"))
    if cached.predicted.notna().any():
        drawn += panel.plot(n, cached.predicted, **style.PREDICTED, label="with a cache, predicted")
    if present.any():
        drawn += panel.plot(n[present], cached.peer_time[present], **style.PEER,
                            label=f"{cached.peer.iloc[0]}, default cache")
    else:
        drawn += panel.plot([], [], " ", label=cached.peer.iloc[0])
    return drawn + panel.plot(n, cached.limit_seconds, **style.LIMIT, label="limit with a cache: FLOPs or bytes")


FIGURES = (Plot("time_comparison", (timings.TABLE, NO_KV_TIMES), draw),)
