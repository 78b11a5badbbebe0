"""Exercises and their checks. `check("00.1")` is what the notebooks call."""
import importlib
from functools import cache
from textwrap import indent

from common import ROOT
from common.checks.exercise import Check, Exercise, Lesson
from common.checks.lab import attempt, load_lab
from common.checks.run import new_seed, perform, run_exercise
from common.device import DEVICE

__all__ = ["attempt", "check", "find_lesson", "lessons", "load_lab"]


@cache
def lessons() -> tuple[Lesson, ...]:
    """All lessons in order. A lesson exists when `notebooks/source/NN_name.py` does."""
    names = sorted(file.stem for file in (ROOT / "notebooks" / "source").glob("[0-9][0-9]_*.py"))
    return tuple(importlib.import_module(f"common.checks.{name[3:]}").LESSON for name in names)


def find_lesson(number: str) -> Lesson:
    """The lesson with this number; "3" and "03" both do."""
    wanted = number.strip().zfill(2)
    for lesson in lessons():
        if lesson.number == wanted:
            return lesson
    raise ValueError(f"There is no lesson {number!r}; there are {', '.join(x.number for x in lessons())}.")


def find_exercise(id: str) -> tuple[Lesson, Exercise]:
    known = [(lesson, exercise) for lesson in lessons() for exercise in lesson.exercises]
    for lesson, exercise in known:
        if exercise.id == id:
            return lesson, exercise
    raise ValueError(f"There is no exercise {id!r}; there are {', '.join(exercise.id for _, exercise in known)}.")


def check(id: str, seed: int | None = None) -> None:
    """Self-check one exercise on the lab file as it is saved now. Prints, never raises, and is worth no points.

    `seed` repeats the inputs of a failure that printed it.
    """
    try:
        lesson, exercise = find_exercise(id)
    except ValueError as error:
        print(error)
        return
    seed = new_seed() if seed is None else seed

    def drive(exercise: Exercise, check: Check, request: bytes) -> bytes:
        return perform(lesson.name, exercise, check, request)

    outcomes = []
    for outcome in run_exercise(exercise, DEVICE.type, seed, drive):
        outcomes.append(outcome)
        if outcome.status == "stub":
            print(outcome.message)
            return
    passed = [outcome for outcome in outcomes if outcome.status == "passed"]
    if len(passed) == len(outcomes):
        print(f"{id} {exercise.symbol}: all {len(passed)} checks pass (self-check; points: `make grade`).")
        return
    print(f"{id} {exercise.symbol}: {len(passed)} of {len(outcomes)} checks pass (self-check).")
    explained = False
    for outcome in outcomes:
        print(f"  {'✓' if outcome.status == 'passed' else '✗'} {outcome.check.name}")
        if outcome.message and not explained:  # later failures are mostly the first one's, and their advice misleads
            print(indent(outcome.message, "      "))
            explained = True
    print(f'Mend the first ✗ first. check("{id}", seed={seed}) repeats these inputs.')
