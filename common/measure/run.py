"""Measure point after point, keep each one as soon as it is known, and go on where an earlier run stopped."""
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from common.checking.lab import explain
from common.measure.tables import Table, append, measured


@dataclass(frozen=True)
class Point:
    """A row to measure: its key, and the function that gives the rest of it."""

    table: Table
    key: dict[str, str | int]
    measure: Callable[[], dict]

    def __str__(self) -> str:
        return f"{self.table.name}: {' '.join(map(str, self.key.values()))}"


class Interrupted(Exception):
    """Ctrl-C between or within points; the message says what is kept."""


def run(points: list[Point], folder: Path, stamp: dict) -> tuple[int, int]:
    """Measure the points that the tables in `folder` lack, with a progress bar. Returns how many are new, and left out.

    A point whose lab is unfinished or broken is left out, with one sentence, and does not stop the others. Raises
    TableError before anything is measured if a table is damaged, and Interrupted on Ctrl-C.
    """
    new = left_out = 0
    done = {table: measured(table, folder) for table in {point.table for point in points}}
    missing = [point for point in points if point.table.key_of(point.key) not in done[point.table]]
    with tqdm(total=len(points), initial=len(points) - len(missing), unit="point") as bar:
        try:
            for point in missing:
                bar.set_description(str(point))
                try:
                    row = point.measure()
                except Exception as error:
                    bar.write(f"{point} is left out. {explain(error)}")
                    left_out += 1
                    continue
                append(point.table, folder, point.key | row | stamp)
                new += 1
                bar.update()
        except KeyboardInterrupt:
            raise Interrupted(f"Stopped: {bar.n} of {len(points)} points are measured and kept in {folder}. The same "
                              "command goes on with the rest.") from None
    return new, left_out
