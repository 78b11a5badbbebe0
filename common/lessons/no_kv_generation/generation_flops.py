"""02.4: the operations of a whole generation."""
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch

from common.checking.compare import expect_equal
from common.checking.draw import draw_config, integer
from common.checking.exercise import Check, Exercise, Rng, Values
from common.model.llama import Config
from common.oracles.flops import counted_flops


@dataclass(frozen=True, kw_only=True)
class GenerationCheck(Check):
    new_tokens: Callable[[Rng], int]
    prompt: tuple[int, int] = (1, 19)  # the shortest and the longest
    draws: int = 1

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        return {"config": draw_config(rng), "prompt_length": integer(rng, *self.prompt),
                "new_tokens": self.new_tokens(rng)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        flops = lab.generation_flops(Config(**inputs["config"]), inputs["prompt_length"], inputs["new_tokens"])
        return {"flops": flops}

    def judge(self, inputs: Values, outputs: Values) -> None:
        config, prompt_length, new_tokens = inputs["config"], inputs["prompt_length"], inputs["new_tokens"]
        want = sum(counted_flops(config, n) for n in range(prompt_length, prompt_length + new_tokens))
        expect_equal(f"FLOPs of {new_tokens} tokens after {prompt_length}", outputs["flops"], want)


EXERCISE = Exercise("02.4", "The operations of a whole generation", "generation_flops", minutes=5, difficulty=2,
                    refused=("common.model.costs.forward_flops",
                             "torch.utils.flop_counter.FlopCounterMode.get_total_flops"), checks=(
    GenerationCheck("is one call's for one new token", 1, prompt=(5, 29), new_tokens=lambda rng: 1,
        advice="One new token costs one call, on the prompt alone: nothing runs on the token that comes last."),
    GenerationCheck("adds up calls on ever longer prefixes", 2, draws=4, new_tokens=lambda rng: integer(rng, 2, 11),
        advice="Token number i (from 0) costs a call on prompt_length + i tokens: add them up."),
    GenerationCheck("is 0 where no token is asked for", 1, new_tokens=lambda rng: 0,
        advice="Without a token to generate the model is not called."),
))
