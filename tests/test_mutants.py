"""Every planted wrong solution is killed by its named check, alone; and passes the worked example where it can.

One fixed seed here, so that nothing fails by chance; `make mutants SEEDS=200` tries fresh ones.
"""
import pytest

from common.lessons import lessons
from tests.kill_matrix import SEED, Mutant, all_mutants, outcomes_of

MUTANTS = all_mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=[f"{mutant.exercise.id}-{mutant.name}" for mutant in MUTANTS])
def test_named_check_kills(mutant: Mutant):
    checks = (mutant.exercise.checks[0], mutant.named_check)
    plain, kill = outcomes_of(mutant.lesson, mutant.exercise, mutant.source(), checks, SEED)
    assert kill.status == "failed", f"survives {mutant.check!r}"
    if mutant.plain_wrong:
        assert plain.status == "failed", "passes the worked example after all: remove plain_wrong"
    else:
        assert plain.status == "passed", f"fails the worked example ({plain.message}): say why in plain_wrong"


def test_every_check_kills_a_mutant():
    killers = {(mutant.exercise.id, mutant.check) for mutant in MUTANTS}
    checks = {(exercise.id, check.name) for lesson in lessons() for exercise in lesson.exercises
              for check in exercise.checks}
    assert not checks - killers, "these checks are named by no mutant"
