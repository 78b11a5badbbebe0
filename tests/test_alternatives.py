"""Every right solution gets full marks, whatever its way: the reference, and the alternatives.

`make test` takes a few seeds, always the same; `make mutants` sets SEEDS, and takes so many fresh ones.
"""
import os
import secrets

import pytest

from common import ROOT
from common.authoring.stubs import kernel_exercises
from common.checking.exercise import Exercise, Lesson
from common.checking.run import run_exercise
from common.lessons import find_lesson, lessons
from tests.kill_matrix import INTERPRETED, SEED, worker_on

FRESH = int(os.environ.get("SEEDS") or 0)
FEW = 2
KERNELS = kernel_exercises()
LAB = os.environ.get("LAB") if FRESH else None  # `make test` is always about all lessons
EXERCISES = [(lesson, exercise) for lesson in ([find_lesson(LAB)] if LAB else lessons())
             for exercise in lesson.exercises]


def seeds_for(exercise: Exercise) -> range:
    if not FRESH:
        return range(SEED, SEED + FEW)
    first = secrets.randbits(31)
    return range(first, first + (-(-FRESH // INTERPRETED) if exercise.id in KERNELS else FRESH))


@pytest.mark.parametrize("folder", ["solutions", "tests/alternatives"])
@pytest.mark.parametrize("lesson, exercise", EXERCISES, ids=[exercise.id for _, exercise in EXERCISES])
def test_full_marks(lesson: Lesson, exercise: Exercise, folder: str):
    source = (ROOT / folder / f"{lesson.name}.py").read_text(encoding="utf-8")
    with worker_on(lesson, exercise, source) as worker:
        for seed in seeds_for(exercise):
            for outcome in run_exercise(exercise, "cpu", seed, worker.drive):
                assert outcome.status == "passed", f"{outcome.check.name}, seed {seed}: {outcome.message}"
