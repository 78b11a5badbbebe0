"""04.7: which batches expose the bug of 04.6."""
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch

from common.checking.compare import expect_equal
from common.checking.draw import integer
from common.checking.exercise import Check, Exercise, Values
from common.lessons.prefill.shared import Rng

Batch = tuple[list[int], int]  # lengths, new tokens


@dataclass(frozen=True, kw_only=True)
class ExposeCheck(Check):
    """Many batches; the judge replays which rows of the packed cache are read in each."""

    batch: Callable[[Rng], Batch]

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        return {"batches": [list(self.batch(rng)) for _ in range(100)]}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"exposed": [lab.exposes(list(lengths), new_tokens) for lengths, new_tokens in inputs["batches"]]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        for (lengths, new_tokens), got in zip(inputs["batches"], outputs["exposed"], strict=True):
            want = any(rows_as_given(lengths, step, request) != own_rows(lengths, step, request)
                       for step in range(1, new_tokens) for request in range(len(lengths)))
            expect_equal(f"exposes({lengths}, {new_tokens})", got, want)


def rows_as_given(lengths: list[int], step: int, request: int) -> list[int]:
    """The rows of the packed cache that the code given in 04.6 reads for a request's new token in a step from 1 on."""
    start, rows = sum(lengths[:request]), range(sum(lengths) + step * len(lengths))
    return list(rows[start : start + lengths[request] + step])


def own_rows(lengths: list[int], step: int, request: int) -> list[int]:
    """The rows that are this request's by then: its prompt, and one of each step's rows."""
    start = sum(lengths[:request])
    added = [sum(lengths) + earlier * len(lengths) + request for earlier in range(step)]
    return [*range(start, start + lengths[request]), *added]


def short_or_long(rng: Rng) -> Batch:
    return rng.permutation([3, 7, 20]).tolist(), integer(rng, 0, 4)


def few_or_many(rng: Rng) -> Batch:
    return rng.integers(1, 30, integer(rng, 1, 3)).tolist(), integer(rng, 4, 19)


def any_lengths(rng: Rng) -> Batch:
    batch, length = integer(rng, 1, 4), integer(rng, 2, 69)
    lengths = ([1] * batch, [length] * batch, rng.integers(1, 70, batch).tolist())[integer(rng, 0, 2)]
    return lengths, integer(rng, 0, 5)


EXERCISE = Exercise("04.7", "What exposes the bug", "exposes", minutes=5, difficulty=2, checks=(
    ExposeCheck("knows how many tokens it takes", 1, batch=short_or_long,
        advice="Try the given code with three prompts and max_new_tokens = 0, 1, 2, 3: when does the cache matter "
               "first?"),
    ExposeCheck("knows how many requests it takes", 1, batch=few_or_many,
        advice="Try the given code with one, two and three prompts: whose rows stand right behind a request's own?"),
    ExposeCheck("knows what does not matter", 1, batch=any_lengths,
        advice="Equal prompts, different ones, prompts of one token: does the given code get any of these batches "
               "right?"),
))
