"""Every right solution gets full marks, whatever its way: the reference, and the alternatives.

`make test` tries a few seeds, so that it stays short; `make mutants` sets SEEDS=50.
"""
import os

import pytest

from common import ROOT
from common.checks import lessons
from common.checks.exercise import Exercise, Lesson
from common.checks.run import run_exercise
from common.grader.worker import Worker
from tests.kill_matrix import graded_labs

SEEDS = int(os.environ.get("SEEDS") or 5)
EXERCISES = [(lesson, exercise) for lesson in lessons() for exercise in lesson.exercises]


@pytest.mark.parametrize("folder", ["solutions", "tests/alternatives"])
@pytest.mark.parametrize("lesson, exercise", EXERCISES, ids=[exercise.id for _, exercise in EXERCISES])
def test_full_marks(lesson: Lesson, exercise: Exercise, folder: str, random_seed: int):
    source = (ROOT / folder / f"{lesson.name}.py").read_text(encoding="utf-8")
    with graded_labs(lesson, source):
        worker = Worker(lesson, exercise, "cpu")
        try:
            for seed in range(random_seed, random_seed + SEEDS):
                for outcome in run_exercise(exercise, "cpu", seed, worker.drive):
                    assert outcome.status == "passed", f"{outcome.check.name}, seed {seed}: {outcome.message}"
        finally:
            worker.close()
