"""The CSVs of data/timings: written whole or not at all, added to point by point, and never believed unread."""
import csv
import io
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common.files import write_atomically
from common.measure import stamp


class TableError(Exception):
    """A CSV that cannot be used: one sentence that names the file and the next step."""


@dataclass(frozen=True)
class Table:
    """The columns of `<name>.csv`. Two rows never share all of `key`; `optional` numbers may be missing."""

    name: str
    key: tuple[str, ...]
    numbers: tuple[str, ...]
    optional: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        return [*self.key, *self.numbers, *self.optional, *self.words, *stamp.COLUMNS]

    def file(self, folder: Path) -> Path:
        return folder / f"{self.name}.csv"

    def key_of(self, row: dict) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in self.key)


def read(table: Table, folder: Path) -> pd.DataFrame:
    """All rows of the table, numbers as floats. Raises TableError if the file is missing, damaged or foreign."""
    file = table.file(folder)
    rows = read_rows(table, folder)
    if not rows:
        raise TableError(f"{file} holds no measurement: run `make timings`.")
    frame = pd.DataFrame(rows)
    for column in (*table.numbers, *table.optional):
        numbers = pd.to_numeric(frame[column], errors="coerce")
        allowed = frame[column].eq("") if column in table.optional else False
        bad = numbers.isna() & ~allowed | numbers.lt(0)
        if bad.any():
            line = int(bad.idxmax()) + 2  # line 1 is the heading
            raise TableError(f"{file}, line {line}: {column} is {frame[column][line - 2]!r}, not a number that was "
                             f"measured; {remedy(file)}")
        frame[column] = numbers
    return frame


def read_rows(table: Table, folder: Path) -> list[dict[str, str]]:
    """The rows as text, [] where there is no file yet. Raises TableError for any other table than this one."""
    file = table.file(folder)
    try:
        lines = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (UnicodeDecodeError, OSError) as error:
        raise TableError(f"{file} cannot be read ({type(error).__name__}); {remedy(file)}") from None
    heading, *rows = [row for row in csv.reader(io.StringIO(lines)) if row] or [[]]
    if heading != table.columns:
        raise TableError(f"{file} is not a table of {table.name}: its heading has other columns; {remedy(file)}")
    if not lines.endswith("\n") or any(len(row) != len(heading) for row in rows):
        raise TableError(f"{file} is cut short or has a row of the wrong length; {remedy(file)}")
    rows = [dict(zip(heading, row, strict=True)) for row in rows]
    if len({table.key_of(row) for row in rows}) < len(rows):
        raise TableError(f"{file} has the same point twice; {remedy(file)}")
    return rows


def remedy(file: Path) -> str:
    return f"`git checkout -- {file.name}` in its folder brings a committed one back, or move it away and measure anew."


def by_model(rows: pd.DataFrame, column: str) -> list[pd.DataFrame]:
    """The rows of each model, in the order of the numbers in `column`."""
    return [group.sort_values(column, key=pd.to_numeric) for _, group in rows.groupby("model", sort=False)]


def measured(table: Table, folder: Path) -> set[tuple[str, ...]]:
    """The keys of the points that the table has already."""
    return {table.key_of(row) for row in read_rows(table, folder)}


def append(table: Table, folder: Path, row: dict) -> None:
    """Add one row; a crash leaves the table as it was. Floats keep six significant digits."""
    text = {name: f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
            for name, value in row.items()}
    out = io.StringIO()
    writer = csv.DictWriter(out, table.columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*read_rows(table, folder), text])
    write_atomically(table.file(folder), out.getvalue())
