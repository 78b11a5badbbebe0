"""The course's own decoder beside transformers', from the CSVs."""
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.lessons.transformer import timings
from common.measure import style
from common.measure.plots import Plot


def draw(rows: pd.DataFrame) -> Figure:
    """Our decoder beside transformers', in milliseconds, with the ratio of the medians."""
    figure, [panel] = style.new_figure(height=4.6)
    at = np.arange(len(rows))[::-1]
    present = rows.peer_time.notna()
    panel.errorbar(1e3 * rows.time, at + 0.12, xerr=1e3 * style.spread(rows),
                   capsize=4, **style.MEASURED, label="common/model (bars: p05 to p95)")
    if present.any():
        peer = rows[present]
        panel.errorbar(1e3 * peer.peer_time, at[present] - 0.12, capsize=4, **style.PEER, label=peer.peer.iloc[0],
                       xerr=1e3 * style.spread(peer, "peer_"))
    else:
        panel.plot([], [], " ", label=rows.peer.iloc[0])
    for y, row in zip(at, rows.itertuples(), strict=True):
        note = f"{1e3 * row.time:,.0f} ms" + ("" if np.isnan(row.ratio) else f", {row.ratio:.2f} × theirs")
        panel.text(1e3 * row.time, y + 0.25, note, ha="center", fontsize=13)
    tokens = rows.batch + " × " + rows.tokens + np.where(rows.new_tokens == "0", "", " + " + rows.new_tokens)
    panel.set_yticks(at, rows.task + "\n" + tokens + " tokens")
    low, high = 1e3 * rows.p05.min(), 1e3 * rows.p95.max()
    panel.set(xscale="log", xlabel="time (ms)", xlim=(low / 3, high * 3), ylim=(-1.1, len(rows) - 0.4),
              title=f"story-llama, float32\n{style.machine_name(rows.iloc[0])}")
    panel.legend(loc="lower right", fontsize=12)
    return figure


FIGURES = (Plot("decoder_forward", (timings.TABLE,), draw),)
