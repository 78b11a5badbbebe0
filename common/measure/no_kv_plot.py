"""Lesson 02's figure: the seconds of a generation without a cache against its length."""
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.measure import style


def fit_times(rows: pd.DataFrame) -> np.ndarray:
    """(a, b, c) of time = a + b n + c n^2, in seconds, with the relative errors as small as they get."""
    n, seconds = rows.output_length.astype(float), rows.time
    return np.polynomial.polynomial.polyfit(n, seconds, deg=min(2, len(rows) - 1), w=1 / seconds)


def describe_fit(coefficients: np.ndarray) -> str:
    units = ((1, "s"), (1e3, "ms·n"), (1e6, "µs·n²"))
    return " + ".join(f"{value * scale:.3g} {unit}" for value, (scale, unit) in
                      zip(coefficients, units, strict=False)).replace("+ -", "− ")


def draw(rows: pd.DataFrame) -> Figure:
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
