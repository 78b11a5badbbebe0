"""04.1: what padding wastes."""
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch

from common.checking.compare import expect_equal
from common.checking.draw import integer
from common.checking.exercise import Check, Exercise, Values
from common.lessons.prefill.shared import Rng


@dataclass(frozen=True, kw_only=True)
class CountCheck(Check):
    prompts: Callable[[Rng], tuple[list[int], int]]  # draws their lengths and the batch size
    draws: int = 5

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        return dict(zip(("lengths", "batch_size"), self.prompts(rng), strict=True))

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return dict(zip(("real", "padding"), lab.count_tokens(**inputs), strict=True))

    def judge(self, inputs: Values, outputs: Values) -> None:
        lengths, size = inputs["lengths"], inputs["batch_size"]
        padding = 0
        for place, length in enumerate(lengths):
            first = place - place % size
            padding += max(lengths[first : first + size]) - length
        what = f"for lengths {str(lengths)[:80]} in batches of {size}"
        expect_equal(f"real tokens {what}", outputs["real"], sum(lengths))
        expect_equal(f"padding {what}", outputs["padding"], padding)


def full_batches(rng: Rng) -> tuple[list[int], int]:
    size, batches = integer(rng, 1, 7), integer(rng, 2, 5)
    return rng.integers(1, 400, size * batches).tolist(), size


def partial_batch(rng: Rng) -> tuple[list[int], int]:
    size = integer(rng, 3, 8)
    return rng.integers(1, 400, size * integer(rng, 0, 3) + integer(rng, 1, size - 1)).tolist(), size


EXERCISE = Exercise("04.1", "Count what padding wastes", "count_tokens", minutes=5, difficulty=1, checks=(
    CountCheck("counts one batch of four prompts", 1, prompts=lambda rng: (rng.integers(1, 100, 4).tolist(), 4),
        advice="A batch of B prompts fills B * (its longest) places; padding is what the prompts' tokens leave of "
               "them."),
    CountCheck("pads each batch to its own longest prompt", 1, prompts=full_batches,
        advice="Take batch_size prompts at a time, lengths[start : start + batch_size]; each has a longest of its "
               "own."),
    CountCheck("counts a last batch that is not full", 1, prompts=partial_batch,
        advice="The last batch may have fewer than batch_size prompts: it has only as many rows as prompts."),
))
