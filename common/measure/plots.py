"""Every figure from the CSVs alone: `make plots`."""
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.files import write_atomically
from common.measure import PLOTS, TIMINGS, decoder_forward, no_kv, style
from common.measure.tables import Table, TableError, read


def draw_all(timings: Path = TIMINGS, plots: Path = PLOTS) -> tuple[list[Path], list[str]]:
    """Redraw plots/<machine>/<name>.png for every timings/<machine>/<name>.csv.

    Returns the files written and one sentence for each CSV that could not be drawn; these never stop the others.
    """
    written, problems = [], []
    for csv in sorted(timings.glob("*/*.csv")):
        try:
            figure = draw(csv.stem, csv.parent)
        except TableError as error:
            problems.append(str(error))
            continue
        written.append(plots / csv.parent.name / f"{csv.stem}.png")
        write_atomically(written[-1], style.png(figure))
    return written, problems


def draw(name: str, folder: Path) -> Figure:
    """The figure of one CSV of one machine's folder."""
    if name not in FIGURES:
        raise TableError(f"{folder / name}.csv is no table of this course: move it out of data/timings.")
    table, picture = FIGURES[name]
    with style.in_style():
        return picture(read(table, folder))


# --- Lesson 02 ---


def fit_times(rows: pd.DataFrame) -> np.ndarray:
    """(a, b, c) of time = a + b n + c n^2, in seconds, with the relative errors as small as they get."""
    n, seconds = rows.output_length.astype(float), rows.time
    return np.polynomial.polynomial.polyfit(n, seconds, deg=min(2, len(rows) - 1), w=1 / seconds)


def describe_fit(coefficients: np.ndarray) -> str:
    units = ((1, "s"), (1e3, "ms·n"), (1e6, "µs·n²"))
    return " + ".join(f"{value * scale:.3g} {unit}" for value, (scale, unit) in
                      zip(coefficients, units, strict=False)).replace("+ -", "− ")


def no_kv_times(rows: pd.DataFrame) -> Figure:
    """Seconds of a whole generation against its length, one panel for each model."""
    groups = [group.sort_values("output_length", key=pd.to_numeric) for _, group in rows.groupby("model", sort=False)]
    figure, panels = style.new_figure(len(groups))
    for panel, group in zip(panels, groups, strict=True):
        first = group.iloc[0]
        n = group.output_length.astype(int)
        dense = np.geomspace(n.min(), n.max(), 200)
        coefficients = fit_times(group)
        spread = np.array([group.time - group.p05, group.p95 - group.time])
        panel.plot(dense, np.polynomial.polynomial.polyval(dense, coefficients), **style.FITTED,
                   label=f"fit: {describe_fit(coefficients)}")
        if group.predicted.notna().any():
            panel.plot(n, group.predicted, **style.PREDICTED, label="predicted from two calls")
        panel.errorbar(n, group.time, yerr=spread, capsize=4, **style.MEASURED, label="measured (bars: p05 to p95)")
        panel.plot(n, group.limit_seconds, **style.LIMIT, label="limit: FLOPs or bytes at this machine's rates")
        panel.set(xscale="log", yscale="log", xlabel="output length n (tokens)", ylabel="whole generation (s)",
                  title=f"{first.model}, {first['dtype']}, prompt of {first.prompt_length} tokens\n"
                        f"{style.machine_name(first)}")
        panel.set_xticks(n, [str(length) for length in n])
        panel.minorticks_off()
        panel.legend(loc="upper left", fontsize=12)
        panel.set_ylim(top=panel.get_ylim()[1] * 12)  # room for the legend
    return figure


# --- The decoder itself ---


def decoder_forward_times(rows: pd.DataFrame) -> Figure:
    """Our decoder beside transformers', in milliseconds, with the ratio of the medians."""
    figure, [panel] = style.new_figure(height=4.6)
    at = np.arange(len(rows))[::-1]
    present = rows.peer_time.notna()
    panel.errorbar(1e3 * rows.time, at + 0.12, xerr=1e3 * np.array([rows.time - rows.p05, rows.p95 - rows.time]),
                   capsize=4, **style.MEASURED, label="common/model (bars: p05 to p95)")
    if present.any():
        peer = rows[present]
        panel.errorbar(1e3 * peer.peer_time, at[present] - 0.12, capsize=4, **style.PEER, label=peer.peer.iloc[0],
                       xerr=1e3 * np.array([peer.peer_time - peer.peer_p05, peer.peer_p95 - peer.peer_time]))
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


FIGURES: dict[str, tuple[Table, Callable[[pd.DataFrame], Figure]]] = {
    "no_kv_times": (no_kv.TABLE, no_kv_times),
    "decoder_forward": (decoder_forward.TABLE, decoder_forward_times),
}
