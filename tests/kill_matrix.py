"""Planted wrong solutions, and `make mutants`: docs/kill_matrix.md says which check kills which, and with what words.

A mutant is the reference with one fragment replaced (tests/mutants/<lesson>.toml). It is graded like a learner's file,
in a worker of its own. `make mutants SEEDS=200` tries each mutant on so many fresh seeds and says which ever escape;
`LAB=08` those of one lesson.
"""
import os
import secrets
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
from rich.progress import track

from common import GRADE, ROOT
from common.authoring.stubs import SOLUTIONS, kernel_exercises
from common.checking.exercise import Check, Exercise, Lesson
from common.checking.run import Outcome, run_check
from common.files import write_atomically
from common.grader.worker import Worker
from common.lessons import find_lesson, lessons

SEED = 0  # the matrix is committed, so it is made from the same inputs every time
RATES = GRADE / "kill_rates.csv"
INTERPRETED = 4  # Triton's interpreter is slow: where it runs, a fourth of the seeds has to do


@dataclass(frozen=True)
class Mutant:
    lesson: Lesson
    exercise: Exercise
    name: str
    check: str  # the name of the check that must kill it alone
    find: str
    replace: str
    plain_wrong: str = ""  # why it cannot pass its exercise's first check

    def source(self) -> str:
        reference = (SOLUTIONS / f"{self.lesson.name}.py").read_text(encoding="utf-8")
        if reference.count(self.find) != 1:
            raise ValueError(f"mutant {self.name!r}: its `find` stands {reference.count(self.find)} times, not once, "
                             f"in solutions/{self.lesson.name}.py")
        return reference.replace(self.find, self.replace)

    @property
    def named_check(self) -> Check:
        return next(check for check in self.exercise.checks if check.name == self.check)


def mutants_of(lesson: Lesson) -> list[Mutant]:
    entries = tomllib.loads((ROOT / "tests" / "mutants" / f"{lesson.name}.toml").read_text(encoding="utf-8"))["mutant"]
    exercises = {exercise.id: exercise for exercise in lesson.exercises}
    return [Mutant(lesson, exercises[entry.pop("exercise")], **entry) for entry in entries]


def all_mutants() -> list[Mutant]:
    return [mutant for lesson in lessons() for mutant in mutants_of(lesson)]


@contextmanager
def graded_labs(lesson: Lesson, source: str) -> Iterator[None]:
    """Within the block, `labs` is a folder that holds `source` as the lesson's module."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{lesson.name}.py").write_text(source, encoding="utf-8")
        before = os.environ.get("LABS")
        os.environ["LABS"] = folder
        try:
            yield
        finally:
            os.environ.pop("LABS")
            if before is not None:
                os.environ["LABS"] = before


@contextmanager
def worker_on(lesson: Lesson, exercise: Exercise, source: str) -> Iterator[Worker]:
    """Within the block, a worker that drives one exercise of `source` as the lesson's lab."""
    with graded_labs(lesson, source):
        worker = Worker(lesson, exercise, "cpu")
        try:
            if worker.death:  # no lab is loaded yet, so nobody has been found out
                raise RuntimeError(f"The worker did not start. {worker.death}")
            yield worker
        finally:
            worker.close()


def outcomes_of(lesson: Lesson, exercise: Exercise, source: str, checks: tuple[Check, ...], seed: int) -> list[Outcome]:
    """What `source` as the lesson's lab gets from some checks of one exercise."""
    with worker_on(lesson, exercise, source) as worker:
        return [run_check(exercise, check, "cpu", seed, worker.drive) for check in checks]


# The matrix -----------------------------------------------------------------------------------------------------------


def outcomes_of_mutant(lesson_number: str, place: int) -> list[Outcome]:
    mutant = mutants_of(find_lesson(lesson_number))[place]
    return outcomes_of(mutant.lesson, mutant.exercise, mutant.source(), mutant.exercise.checks, SEED)


def to_section(exercise: Exercise, rows: list[tuple[Mutant, list[Outcome]]]) -> str:
    lines = [f"## {exercise.id} {exercise.title}", "", "| wrong solution | killed by | what the learner reads |",
             "|---|---|---|"]
    for mutant, outcomes in rows:
        killers = [outcome.check.name for outcome in outcomes if outcome.status != "passed"]
        named = next(outcome for outcome in outcomes if outcome.check.name == mutant.check)
        others = f" (and {len(killers) - 1} more)" if len(killers) > 1 else ""
        verdict = f"{mutant.check}{others}" if named.status != "passed" else f"**SURVIVES** {mutant.check}"
        lines.append(f"| {mutant.name} | {verdict} | {named.message.splitlines()[0] if named.message else ''} |")
    return "\n".join(lines) + "\n"


def write_matrix() -> None:
    mutants = all_mutants()
    outcomes = on_all_cores(outcomes_of_mutant, [(mutant,) for mutant in mutants])
    exercises = [exercise for lesson in lessons() for exercise in lesson.exercises]
    rows = list(zip(mutants, outcomes, strict=True))
    sections = [to_section(exercise, [row for row in rows if row[0].exercise is exercise]) for exercise in exercises]
    survivors = [mutant.name for mutant, seen in rows
                 if all(o.status == "passed" for o in seen if o.check.name == mutant.check)]
    head = ("# Kill matrix\n\nWritten by `make mutants`. Each wrong solution must fail the check named for it; the "
            f"last column is the advice that it gets.\n\n{len(mutants)} wrong solutions, {len(survivors)} survive.\n")
    write_atomically(ROOT / "docs" / "kill_matrix.md", "\n".join([head, *sections]))
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} mutants killed; see docs/kill_matrix.md.")
    if survivors:
        raise SystemExit(f"Survivors: {', '.join(survivors)}. Sharpen the check that each one names.")


# The rates ------------------------------------------------------------------------------------------------------------


def escapes_of_mutant(lesson_number: str, place: int, seeds: list[int]) -> list[int]:
    """The seeds with which a mutant passes the check that is named to kill it."""
    mutant = mutants_of(find_lesson(lesson_number))[place]
    with worker_on(mutant.lesson, mutant.exercise, mutant.source()) as worker:
        escaped = []
        for seed in seeds:
            outcome = run_check(mutant.exercise, mutant.named_check, "cpu", seed, worker.drive)
            if outcome.status == "passed":
                escaped.append(seed)
            elif worker.death:  # it hangs or crashes, and would with every seed
                break
        return escaped


def report_rates(seeds: int, lab: str) -> None:
    """Try all mutants on fresh seeds: each one's rate goes to grade/kill_rates.csv, escapes are named on the screen."""
    mutants = mutants_of(find_lesson(lab)) if lab else all_mutants()
    interpreted = kernel_exercises()
    first = secrets.randbits(31)
    tries = [-(-seeds // INTERPRETED) if mutant.exercise.id in interpreted else seeds for mutant in mutants]
    escapes = on_all_cores(escapes_of_mutant, [(mutant, list(range(first, first + count)))
                                               for mutant, count in zip(mutants, tries, strict=True)])
    rates = pd.DataFrame([{"exercise": mutant.exercise.id, "mutant": mutant.name, "check": mutant.check, "seeds": count,
                           "escapes": len(escaped), "such as": escaped[0] if escaped else ""}
                          for mutant, count, escaped in zip(mutants, tries, escapes, strict=True)])
    write_atomically(RATES, rates.to_csv(index=False))
    print(rates.groupby("exercise").agg(mutants=("mutant", "size"), runs=("seeds", "sum"), escapes=("escapes", "sum")))
    print(f"{len(mutants)} mutants, {rates.seeds.sum()} runs from seed {first} on: {rates.escapes.sum()} escapes. "
          f"Each one's rate: {RATES.relative_to(ROOT)}")
    if rates.escapes.any():
        print(rates[rates.escapes > 0].to_string(index=False))
        raise SystemExit("Build the draw of each check that is named here so that it always shows its mistake.")


def on_all_cores(function, tasks: list[tuple]) -> list:
    """`function(lesson number, place in its mutants, *rest)` for each (mutant, *rest), in processes of their own."""
    numbers = {mutant.lesson.number for mutant, *_ in tasks}
    places = {(number, mutant.name): place for number in numbers
              for place, mutant in enumerate(mutants_of(find_lesson(number)))}
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        futures = [pool.submit(function, mutant.lesson.number, places[mutant.lesson.number, mutant.name], *rest)
                   for mutant, *rest in tasks]
        for _ in track(as_completed(futures), "mutants", total=len(futures)):
            pass
        return [future.result() for future in futures]


def main() -> None:
    seeds, lab = os.environ.get("SEEDS"), os.environ.get("LAB", "")
    if seeds or lab:
        report_rates(int(seeds or 50), lab)
    else:
        write_matrix()


if __name__ == "__main__":
    sys.exit(main())
