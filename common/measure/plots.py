"""Every figure is drawn from the CSVs alone. A lesson's figures.py says which ones there are."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from common.files import write_atomically
from common.measure import PLOTS, TIMINGS, style
from common.measure.tables import Table, TableError, read


@dataclass(frozen=True)
class Plot:
    """A figure's name, the tables that it is drawn from, and the function that takes their rows in this order."""

    name: str
    tables: tuple[Table, ...]
    draw: Callable[..., Figure]


def draw_all(figures: Sequence[Plot], timings: Path = TIMINGS, plots: Path = PLOTS) -> tuple[list[Path], list[str]]:
    """Redraw plots/<machine>/<figure>.png for every machine in timings/ that has all tables of the figure.

    Returns the files written and one sentence for each CSV that could not be used; these never stop other figures.
    """
    written, problems = [], []
    known = tables_of(figures)
    for folder in sorted(path for path in timings.glob("*") if path.is_dir()):
        present = {csv.stem for csv in folder.glob("*.csv")}
        problems += [f"{folder / name}.csv is drawn by no figure of this course: move it out of data/timings, or "
                     "name its table in a lesson's FIGURES."
                     for name in sorted(present - known.keys())]
        for figure in figures:
            if not present >= {table.name for table in figure.tables}:
                continue
            try:
                picture = draw(figure, folder)
            except TableError as error:
                problems.append(str(error))
                continue
            written.append(plots / folder.name / f"{figure.name}.png")
            write_atomically(written[-1], style.png(picture))
    return written, list(dict.fromkeys(problems))  # two figures may need the same damaged table


def draw(figure: Plot, folder: Path) -> Figure:
    """The figure of one machine's folder. Raises TableError if a table of it is missing, damaged or foreign."""
    with style.in_style():
        return figure.draw(*(read(table, folder) for table in figure.tables))


def tables_of(figures: Sequence[Plot]) -> dict[str, Table]:
    """Every table that some figure is drawn from, by its name."""
    return {table.name: table for figure in figures for table in figure.tables}


def find(name: str, figures: Sequence[Plot]) -> Plot:
    """The figure of this name, for a notebook that shows one."""
    by_name = {figure.name: figure for figure in figures}
    if name not in by_name:
        raise ValueError(f"There is no figure {name!r}; there are {', '.join(by_name)}.")
    return by_name[name]
