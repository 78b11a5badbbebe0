"""What notebooks call: `check` an exercise, `load_lab` and `attempt` what was written, take a `part` of the engine."""
from contextlib import suppress
from textwrap import indent

from common.checking.exercise import Check, Exercise
from common.checking.lab import attempt, load_lab
from common.checking.run import new_seed, perform, run_exercise
from common.device import DEVICE
from common.lessons import find_exercise
from common.parts import fingerprint, part, record

__all__ = ["attempt", "check", "load_lab", "part"]


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
    file = fingerprint(lesson.name)

    def drive(exercise: Exercise, check: Check, request: bytes) -> bytes:
        return perform(lesson.name, exercise, check, request)

    outcomes = []
    for outcome in run_exercise(exercise, DEVICE.type, seed, drive):
        outcomes.append(outcome)
        if outcome.status == "stub":
            print(outcome.message)
            return
    passed = [outcome for outcome in outcomes if outcome.status == "passed"]
    with suppress(OSError):  # a full disk costs the memory of this, not the answer
        record(file, id, len(passed) == len(outcomes))  # what passes here speaks in the next cell
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
