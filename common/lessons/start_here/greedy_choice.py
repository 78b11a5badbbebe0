"""00.1: the greedy choice of the next token."""
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from common.checking.compare import expect_equal
from common.checking.draw import integer, randn
from common.checking.exercise import KERNEL_ON_CPU, KERNEL_ON_GPU, Check, Exercise, Rng, Values


@dataclass(frozen=True, kw_only=True)
class GreedyCheck(Check):
    logits: Callable[[Rng], Tensor]

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        return {"logits": self.logits(rng).to(dtype)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"token": lab.greedy_token(inputs["logits"])}

    def judge(self, inputs: Values, outputs: Values) -> None:
        last = inputs["logits"][-1].tolist()
        expect_equal("token id", outputs["token"], last.index(max(last)))


def many_large_rows(rng: Rng) -> Tensor:
    logits = 40 * randn(rng, integer(rng, 2, 39), integer(rng, 20, 899))
    logits[-1] = torch.where(logits[-1] == logits[-1].min(), 2 * logits[-1], logits[-1])  # large, but negative
    return logits


def equal_logits(rng: Rng) -> Tensor:
    return torch.from_numpy(rng.integers(-3, 4, (integer(rng, 1, 4), integer(rng, 50, 199))))


EXERCISE = Exercise("00.1", "The greedy choice of the next token", "greedy_token", minutes=5, difficulty=1,
                    refused=("common.model.generate.greedy",), checks=(
    GreedyCheck("picks the largest of eight logits", 1, logits=lambda rng: randn(rng, 1, 8),
        advice="The answer is the position of the largest logit, as a plain int: torch.argmax finds it, int() "
               "unwraps it."),
    GreedyCheck("reads only the last of many rows", 2, draws=5, logits=many_large_rows,
        advice="Row i scores the token after token i: only logits[-1] speaks about the next token."),
    GreedyCheck("takes the lowest id among equal logits", 1, draws=5, cpu=KERNEL_ON_CPU, cuda=KERNEL_ON_GPU,
        logits=equal_logits,
        advice="Where several logits are equally large the lowest id wins, as torch.argmax does."),
))
