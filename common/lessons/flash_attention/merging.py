"""06.2: the attention over two sets of keys together, from the attention over each."""
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch

from common.checking.compare import expect_close, expect_equal
from common.checking.draw import integer
from common.checking.exercise import F32, Check, Exercise, Values
from common.lessons.flash_attention.shared import draw_heads, items
from common.oracles.attention import plain_attention


@dataclass(frozen=True, kw_only=True)
class MergeCheck(Check):
    """Queries meet keys in two portions; the judge sees them meet all keys at once."""

    lift: float = 0.0  # added to every lse: scores that are all larger by this give the same `out`
    out_tolerance: float = 6e-6  # seen: 6.3e-7
    lse_tolerance: float = 5e-6  # seen: 4.6e-7
    draws: int = 3

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = draw_heads(rng, F32, integer(rng, 20, 59), integer(rng, 30, 79), 3, 3, 8)
        at = integer(rng, 5, 24)
        for name, keys in (("a", slice(at)), ("b", slice(at, None))):
            out, lse = plain_attention(inputs["q"], inputs["k"][keys], inputs["v"][keys])
            inputs |= {f"out_{name}": out.float(), f"lse_{name}": (lse + self.lift).float()}
        return inputs

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        given = {name: inputs[name].clone() for name in ("out_a", "lse_a", "out_b", "lse_b")}
        out, lse = items("merge", lab.merge(**given), ("out", "lse"))
        return {"out": out, "lse": lse, "after": given}

    def judge(self, inputs: Values, outputs: Values) -> None:
        out, lse = plain_attention(inputs["q"], inputs["k"], inputs["v"])
        expect_close("out", outputs["out"], out, atol=self.out_tolerance)
        expect_close("lse", outputs["lse"], lse + self.lift, atol=self.lse_tolerance)


class NoKeyCheck(MergeCheck):
    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        sees_none = torch.from_numpy(rng.integers(0, 4, inputs["q"].shape[:2]))  # 1: of a, 2: of b, 3: of neither
        for bit, name in ((1, "a"), (2, "b")):
            none = sees_none & bit > 0
            inputs |= {f"out_{name}": inputs[f"out_{name}"].masked_fill(none[..., None], 0),
                       f"lse_{name}": inputs[f"lse_{name}"].masked_fill(none, -torch.inf)}
        return inputs

    def judge(self, inputs: Values, outputs: Values) -> None:
        nothing = inputs["lse_a"] == -torch.inf, inputs["lse_b"] == -torch.inf
        both = nothing[0] & nothing[1]
        lse = torch.logaddexp(inputs["lse_a"].double(), inputs["lse_b"].double())
        share = [(inputs[f"lse_{name}"].double() - lse).exp().masked_fill(none, 0)[..., None]
                 for name, none in zip("ab", nothing, strict=True)]
        out = (share[0] * inputs["out_a"] + share[1] * inputs["out_b"]).masked_fill(both[..., None], 0)
        expect_close("out", outputs["out"], out, atol=self.out_tolerance)
        expect_equal("which lse are -inf", outputs["lse"] == -torch.inf, both)
        expect_close("lse elsewhere", outputs["lse"][~both], lse[~both], atol=self.lse_tolerance)


class ArgumentsCheck(MergeCheck):
    def judge(self, inputs: Values, outputs: Values) -> None:
        for name, after in outputs["after"].items():
            expect_equal(f"{name} afterwards", after, inputs[name])


EXERCISE = Exercise("06.2", "Merge two partial softmaxes", "merge", minutes=10, difficulty=2, checks=(
    MergeCheck("gives the attention over both sets of keys", 2,
        advice="Each out counts with its share exp(lse_a - lse) of the whole sum, and lse = log(exp(lse_a) + "
               "exp(lse_b))."),
    MergeCheck("takes an lse beyond what exp can", 1, lift=500.0,
               out_tolerance=3e-4, lse_tolerance=3e-4,  # seen: 3.2e-5 and 3.0e-5: an lse of 500 has few digits left
               advice="Never exp(lse) alone: subtract the larger one, or the merged one, first; torch.logaddexp does."),
    NoKeyCheck("takes queries that saw no key in one set, or in either", 2,
        advice="Where both lse are -inf their difference is NaN: give 0 and -inf there."),
    ArgumentsCheck("leaves its arguments as they were", 1,
        advice="An operation whose name ends in _, or +=, changed an argument: make new tensors."),
))
