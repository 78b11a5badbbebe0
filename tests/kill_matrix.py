"""Planted wrong solutions, and `make mutants`: docs/kill_matrix.md says which check kills which, and with what words.

A mutant is the reference with one fragment replaced (tests/mutants/<lesson>.toml). It is graded like a learner's file,
in a worker of its own.
"""
import os
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from common import ROOT
from common.checks import find_exercise, lessons
from common.checks.exercise import Check, Exercise, Lesson
from common.checks.run import Outcome, run_check
from common.files import write_atomically
from common.grader.worker import Worker

SEED = 0  # the matrix is committed, so it is made from the same inputs every time


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
        reference = (ROOT / "solutions" / f"{self.lesson.name}.py").read_text(encoding="utf-8")
        if reference.count(self.find) != 1:
            raise ValueError(f"mutant {self.name!r}: its `find` stands {reference.count(self.find)} times, not once, "
                             f"in solutions/{self.lesson.name}.py")
        return reference.replace(self.find, self.replace)


def all_mutants() -> list[Mutant]:
    mutants = []
    for lesson in lessons():
        file = ROOT / "tests" / "mutants" / f"{lesson.name}.toml"
        for entry in tomllib.loads(file.read_text(encoding="utf-8"))["mutant"]:
            _, exercise = find_exercise(entry.pop("exercise"))
            mutants.append(Mutant(lesson, exercise, **entry))
    return mutants


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


def outcomes_of(lesson: Lesson, exercise: Exercise, source: str, checks: tuple[Check, ...], seed: int) -> list[Outcome]:
    """What `source` as the lesson's lab gets from some checks of one exercise."""
    with graded_labs(lesson, source):
        worker = Worker(lesson, exercise, "cpu")
        try:
            if worker.death:  # no lab is loaded yet, so nobody has been found out
                raise RuntimeError(f"The worker did not start. {worker.death}")
            return [run_check(exercise, check, "cpu", seed, worker.drive) for check in checks]
        finally:
            worker.close()


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


def main() -> None:
    mutants = all_mutants()
    results = {mutant: outcomes_of(mutant.lesson, mutant.exercise, mutant.source(), mutant.exercise.checks, SEED)
               for mutant in track(mutants, "mutants")}
    exercises = [exercise for lesson in lessons() for exercise in lesson.exercises]
    sections = [to_section(exercise, [(mutant, results[mutant]) for mutant in mutants if mutant.exercise is exercise])
                for exercise in exercises]
    survivors = [mutant.name for mutant in mutants
                 if all(o.status == "passed" for o in results[mutant] if o.check.name == mutant.check)]
    head = ("# Kill matrix\n\nWritten by `make mutants`. Each wrong solution must fail the check named for it; the "
            f"last column is the advice that it gets.\n\n{len(mutants)} wrong solutions, {len(survivors)} survive.\n")
    write_atomically(ROOT / "docs" / "kill_matrix.md", "\n".join([head, *sections]))
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} mutants killed; see docs/kill_matrix.md.")
    if survivors:
        raise SystemExit(f"Survivors: {', '.join(survivors)}. Sharpen the check that each one names.")


if __name__ == "__main__":
    main()
