"""04.6: the bug hunt in a packed cache, which is right for one new token."""
from dataclasses import dataclass
from types import ModuleType

import torch

from common.checking.draw import integer
from common.checking.exercise import Check, Exercise, Values
from common.device import DEVICE
from common.lessons.prefill.shared import Lengths, PackedCheck, Rng, draw_prompts, expect_greedy, ragged
from common.oracles.generation import story_model

NEW_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class GoesOnCheck(Check):
    """Tokens from `generate_packed`, held against each prompt's own oracle."""

    lengths: Lengths

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        return {"prompts": draw_prompts(rng, self.lengths(rng))}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"tokens": lab.generate_packed(story_model(DEVICE), inputs["prompts"], NEW_TOKENS, frozenset())}

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_greedy(inputs["prompts"], outputs["tokens"], NEW_TOKENS)


EXERCISE = Exercise("04.6", "Bug hunt: a cache that is right for one token", "PackedCache", minutes=20, difficulty=3,
                    checks=(
    GoesOnCheck("goes on with prompts of equal length as with each alone", 1,
        lengths=lambda rng: [integer(rng, 20, 39)] * 4,
        advice="For each request and each step write down which rows of the cache belong to it, and print which ones "
               "it reads."),
    GoesOnCheck("goes on with prompts of any lengths as with each alone", 2,
        lengths=ragged(batch=(3, 5), longest=(100, 249)),
        advice="Work out where in the packed row the tokens of step 2 lie, those of request 0 and of the last "
               "request."),
    PackedCheck("attends to its own request alone, in every step and layer", 3, steps=5,
        attention=lambda lab, cu_seqlens: lab.PackedCache(cu_seqlens), lengths=ragged(batch=(2, 5), longest=(3, 11)),
        advice="Each new token sees its prompt, the tokens added to its own request since, and itself: count these "
               "rows."),
))
