"""`python -m common.timings measure` measures this machine; `python -m common.timings plots` draws what is known.

Lessons say what to measure (timings.py) and what to draw (figures.py); common/measure does it.
"""
import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from common.lessons import modules
from common.measure import PLOTS, TIMINGS
from common.measure.tables import TableError

if TYPE_CHECKING:
    import torch

    from common.measure.plots import Plot
    from common.measure.run import Point


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m common.timings", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("plots", help="redraw every figure from data/timings")
    measuring = verbs.add_parser("measure", help="measure this machine; an interrupted run is taken up again")
    measuring.add_argument("--out", type=Path, default=TIMINGS, help="folder of the machines' folders (data/timings)")
    options = parser.parse_args(arguments)
    try:
        return plots() if options.verb == "plots" else measure(options.out)
    except OSError as error:
        print(f"{error.filename or 'A file'}: {error.strerror or error}. What was written before is kept.",
              file=sys.stderr)
        return 1


def points(device: "torch.device") -> list["Point"]:
    """Every lesson's points, in teaching order."""
    return [point for timings in modules("timings") for point in timings.points(device)]


def all_figures() -> tuple["Plot", ...]:
    """Every lesson's figures, in teaching order."""
    return tuple(figure for figures in modules("figures") for figure in figures.FIGURES)


def plots() -> int:
    from common.measure.plots import draw_all

    written, problems = draw_all(all_figures())
    for file in written:
        print(f"{file.relative_to(PLOTS.parent.parent)} drawn")
    for problem in problems:
        print(problem, file=sys.stderr)
    if not written and not problems:
        print(f"Nothing is measured yet in {TIMINGS}: run `make timings`.", file=sys.stderr)
    return 0 if written and not problems else 1


def measure(out: Path) -> int:
    from common.device import DEVICE
    from common.measure.run import Interrupted, run
    from common.measure.stamp import stamp

    mark = stamp(DEVICE)
    folder = out / mark["machine"]
    busy = os.getloadavg()[0]
    if busy > 0.5 * mark["cores"]:
        print(f"This machine is busy (load {busy:.1f} on {mark['cores']} cores): close what else runs, or the timings "
              "will say more about that.", file=sys.stderr)
    try:
        new, left_out = run(points(DEVICE), folder, mark)
    except TableError as error:
        print(error, file=sys.stderr)
        return 1
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return 130
    report(folder)
    if new or left_out:
        print(f"{new} new points in {folder}, {left_out} left out. Next: make plots")
    else:
        print(f"All points of {folder} were measured before: move a CSV away to measure it anew. Next: make plots")
    return 1 if left_out else 0


def report(folder: Path) -> None:
    """A short table of each CSV: its key, its times, its limit."""
    from common.measure.plots import tables_of
    from common.measure.tables import read

    for table in tables_of(all_figures()).values():
        if table.file(folder).exists():
            columns = [*table.key, *table.numbers, *table.optional, *table.words]
            print(f"\n{table.name}\n{read(table, folder)[columns].to_string(index=False)}\n")


if __name__ == "__main__":
    sys.exit(main())
