"""The seconds of a generation without a cache against its length, as points on a fitted curve."""
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.measure import style
from common.measure.generation import NO_KV_TIMES
from common.measure.plots import Plot
from common.measure.tables import by_model


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
    groups = by_model(rows, "output_length")
    figure, panels = style.new_figure(len(groups))
    for panel, group in zip(panels, groups, strict=True):
        n = group.output_length.astype(int)
        dense = np.geomspace(n.min(), n.max(), 200)
        coefficients = fit_times(group)
        panel.plot(dense, np.polynomial.polynomial.polyval(dense, coefficients), **style.FITTED,
                   label=f"fit: {describe_fit(coefficients)}")
        if group.predicted.notna().any():
            panel.plot(n, group.predicted, **style.PREDICTED, label="predicted from two calls")
        panel.errorbar(n, group.time, yerr=style.spread(group), capsize=4, **style.MEASURED,
                       label="measured (bars: p05 to p95)")
        panel.plot(n, group.limit_seconds, **style.LIMIT, label="limit: FLOPs or bytes at this machine's rates")
        style.label_generations(panel, group.iloc[0], n)
        panel.legend(loc="upper left", fontsize=12)
        panel.set_ylim(top=panel.get_ylim()[1] * 12)  # room for the legend
    return figure


FIGURES = (Plot("no_kv_times", (NO_KV_TIMES,), draw),)
