"""Every figure from the CSVs alone: `make plots`. How each one is drawn stands in its own `..._plot.py`."""
from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from common.files import write_atomically
from common.measure import (
    PLOTS,
    TIMINGS,
    copies,
    copies_plot,
    decoder_forward,
    decoder_forward_plot,
    flash,
    flash_plot,
    flash_steps,
    no_kv,
    no_kv_plot,
    prefill,
    prefill_plot,
    row_kernels,
    row_kernels_plot,
    single_batch,
    single_batch_plot,
    style,
)
from common.measure.tables import Table, TableError, read

# Each figure's name, the tables that it is drawn from, and the function that takes their rows in this order.
FIGURES: dict[str, tuple[tuple[Table, ...], Callable[..., Figure]]] = {
    "no_kv_times": ((no_kv.TABLE,), no_kv_plot.draw),
    "time_comparison": ((single_batch.TABLE, no_kv.TABLE), single_batch_plot.draw),
    "uniform_prefill": ((prefill.UNIFORM,), prefill_plot.draw),
    "prefill_comparison": ((prefill.DIFFERENT,), prefill_plot.draw),
    "decoder_forward": ((decoder_forward.TABLE,), decoder_forward_plot.draw),
    "row_kernels": ((row_kernels.TABLE,), row_kernels_plot.draw),
    "copies": ((copies.TABLE,), copies_plot.draw),
    "attention_performance_seq": ((flash.TABLE,), partial(flash_plot.draw_lengths, "forward")),
    "attention_performance_backward": ((flash.TABLE,), partial(flash_plot.draw_lengths, "backward")),
    "attention_performance_batch": ((flash.TABLE,), flash_plot.draw_batches),
    "attention_steps": ((flash_steps.TABLE,), flash_plot.draw_steps),
}
TABLES: dict[str, Table] = {table.name: table for needed, _ in FIGURES.values() for table in needed}


def draw_all(timings: Path = TIMINGS, plots: Path = PLOTS) -> tuple[list[Path], list[str]]:
    """Redraw plots/<machine>/<figure>.png for every machine in timings/ that has all tables of the figure.

    Returns the files written and one sentence for each CSV that could not be used; these never stop other figures.
    """
    written, problems = [], []
    for folder in sorted(path for path in timings.glob("*") if path.is_dir()):
        present = {csv.stem for csv in folder.glob("*.csv")}
        problems += [f"{folder / name}.csv is no table of this course: move it out of data/timings."
                     for name in sorted(present - TABLES.keys())]
        for name, (needed, _) in FIGURES.items():
            if not present >= {table.name for table in needed}:
                continue
            try:
                figure = draw(name, folder)
            except TableError as error:
                problems.append(str(error))
                continue
            written.append(plots / folder.name / f"{name}.png")
            write_atomically(written[-1], style.png(figure))
    return written, list(dict.fromkeys(problems))  # two figures may need the same damaged table


def draw(name: str, folder: Path) -> Figure:
    """One figure of one machine's folder. Raises TableError if a table of it is missing, damaged or foreign."""
    needed, picture = FIGURES[name]
    with style.in_style():
        return picture(*(read(table, folder) for table in needed))
