"""The broken code of a bug hunt earns nothing, even from a learner who has solved all the rest of the lesson."""
import pytest

from common.authoring.stubs import SOLUTIONS, exercise_id, find_regions, uncomment
from common.lessons import find_lesson
from tests.kill_matrix import SEED, outcomes_of


def hunts():
    """(lesson number, exercise id) of every solution that holds broken code."""
    for solution in sorted(SOLUTIONS.glob("[a-z]*.py")):
        for region in find_regions(solution.read_text(), solution.stem):
            if region.kind == "GIVEN":
                [id] = {exercise_id(owner) for owner in region.owners} - {None}
                yield pytest.param(solution.stem, id, id=id)


def with_broken_code(name):
    """The reference, with the broken code in the place of its own."""
    text = (SOLUTIONS / f"{name}.py").read_text()
    lines, regions = text.split("\n"), find_regions(text, name)
    given = {region.owners[-1]: region for region in regions if region.kind == "GIVEN"}
    for region in reversed(regions):
        if region.kind == "SOLUTION" and region.owners[-1:] and region.owners[-1] in given:
            broken = given[region.owners[-1]]
            lines[region.begin : region.end - 1] = uncomment(lines[broken.begin : broken.end - 1], broken, name)
    return "\n".join(lines)


@pytest.mark.parametrize("name, id", list(hunts()))
def test_the_broken_code_passes_no_check(name, id):
    lesson = find_lesson(id[:2])
    exercise = next(exercise for exercise in lesson.exercises if exercise.id == id)
    broken = with_broken_code(name)
    for seed in range(SEED, SEED + 3):
        for outcome in outcomes_of(lesson, exercise, broken, exercise.checks, seed):
            assert outcome.status == "failed", f"{outcome.check.name}, seed {seed}: {outcome.status}"
