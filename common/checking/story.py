"""A check that several lessons share: their `generate` tells a story as the oracle does."""
from dataclasses import dataclass
from types import ModuleType

import torch

from common.checking.compare import expect_equal
from common.checking.draw import integer
from common.checking.exercise import Check, Rng, Values
from common.device import DEVICE
from common.model.generate import greedy
from common.oracles.generation import CPU, draw_clear_prompt, oracle, story_model


@dataclass(frozen=True, kw_only=True)
class StoryCheck(Check):
    """A lab's `generate` on a prompt from a fresh story, after which the oracle is sure of every token."""

    new_tokens: int
    length: tuple[int, int] = (32, 32)  # the shortest and the longest prompt

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        return {"prompt_ids": draw_clear_prompt(rng, integer(rng, *self.length), self.new_tokens)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        tokens = lab.generate(story_model(DEVICE), inputs["prompt_ids"], self.new_tokens, frozenset(), greedy)
        return {"tokens": list(tokens)}

    def judge(self, inputs: Values, outputs: Values) -> None:
        want, _ = oracle(story_model(CPU), inputs["prompt_ids"], self.new_tokens)
        expect_equal(f"tokens after {len(inputs['prompt_ids'])}", outputs["tokens"], want)
