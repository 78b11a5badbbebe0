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
                  title=f"{first.model}, {first.dtype}, prompt of {first.prompt_length} tokens\n"
                        f"{style.machine_name(first)}")
        panel.set_xticks(n, [str(length) for length in n])
        panel.minorticks_off()
        panel.legend(loc="upper left", fontsize=12)
        panel.set_ylim(top=panel.get_ylim()[1] * 12)  # room for the legend
    return figure


# --- The decoder itself ---


def decoder_forward_times(rows: pd.DataFrame) -> Figure:
    """Our decoder beside transformers', in milliseconds; the bars' ends say the ratio."""
    figure, [panel] = style.new_figure()
    at = np.arange(len(rows))[::-1]
    peer = rows.peer[rows.peer_time.notna()].iloc[0] if rows.peer_time.notna().any() else rows.peer.iloc[0]
    panel.barh(at + 0.2, 1e3 * rows.time, 0.4, **style.OURS, label="common/model",
               xerr=1e3 * np.array([rows.time - rows.p05, rows.p95 - rows.time]), capsize=4)
    panel.barh(at - 0.2, 1e3 * rows.peer_time.fillna(0), 0.4, **style.PEER, label=peer)
    for y, row in zip(at, rows.itertuples(), strict=True):
        note = f"{1e3 * row.time:.3g} ms" + ("" if np.isnan(row.ratio) else f", {row.ratio:.2f} × theirs")
        panel.text(1.15e3 * row.p95, y + 0.2, note, va="center", fontsize=12)
    panel.set(xscale="log", xlabel="time (ms)", title=f"story-llama, float32\n{style.machine_name(rows.iloc[0])}")
    panel.set_yticks(at, [f"{row.task}\n{row.batch} × {row.tokens} tokens" + f" + {row.new_tokens}" * (row.new_tokens != "0")
                          for row in rows.itertuples()])
    panel.set_xlim(right=panel.get_xlim()[1] * 6)
    panel.legend(loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=2, fontsize=12)
    return figure


FIGURES: dict[str, tuple[Table, Callable[[pd.DataFrame], Figure]]] = {
    "no_kv_times": (no_kv.TABLE, no_kv_times),
    "decoder_forward": (decoder_forward.TABLE, decoder_forward_times),
}
