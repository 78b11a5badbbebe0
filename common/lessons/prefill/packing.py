"""04.5: prompts packed into one row, and attention within each."""
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from types import ModuleType

import torch
from torch import Tensor

from common.checking.compare import expect_equal
from common.checking.draw import draw_config, integer
from common.checking.exercise import Check, Exercise, Mismatch, Values
from common.lessons.prefill.shared import Lengths, PackedCheck, Rng, draw_ids, expect_alone, ragged


@dataclass(frozen=True, kw_only=True)
class PackCheck(Check):
    lengths: Lengths

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        return {"prompts": draw_ids(rng, self.lengths(rng))}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return dict(zip(("token_ids", "positions", "cu_seqlens"), lab.pack(inputs["prompts"]), strict=True))

    def judge(self, inputs: Values, outputs: Values) -> None:
        prompts = inputs["prompts"]
        ends, own = accumulate(map(len, prompts)), [position for prompt in prompts for position in range(len(prompt))]
        expect_equal("token_ids", outputs["token_ids"], torch.tensor(sum(prompts, [])))
        expect_equal("cu_seqlens", outputs["cu_seqlens"], torch.tensor([0, *ends], dtype=torch.int32))
        expect_equal("positions", outputs["positions"], torch.tensor(own))


@dataclass(frozen=True, kw_only=True)
class RaggedCheck(PackedCheck):
    attention: Callable[[ModuleType, Tensor], Callable] = lambda lab, cu_seqlens: lab.RaggedAttention(cu_seqlens)
    config: Callable[[Rng], Values] = lambda rng: draw_config(rng) | {"n_layers": 1}


def expect_no_scores_between(inputs: Values, outputs: Values) -> None:
    expect_alone(inputs, outputs)
    counts = inputs["calls"][0]["counts"]
    n = sum(counts)
    if outputs["largest"] >= n * n:
        raise Mismatch(f"a tensor of {outputs['largest']} elements was made for N = {n} tokens of {len(counts)} "
                       f"prompts, and N * N is {n * n}")


EXERCISE = Exercise("04.5", "Pack instead of pad", "RaggedAttention", minutes=15, difficulty=2, checks=(
    PackCheck("packs a single prompt", 1, lengths=lambda rng: [4],
        advice="For one prompt of four ids: those ids, positions 0 to 3 (both int64), and cu_seqlens [0, 4] in int32."),
    PackCheck("packs prompts of any lengths, each from position 0 on", 2, draws=4,
        lengths=ragged(batch=(2, 7), longest=(30, 30)),
        advice="positions begin again at 0 with each prompt; cu_seqlens = [0, n0, n0 + n1, ...], one entry more than "
               "B."),
    RaggedCheck("attends within one packed prompt", 1, lengths=lambda rng: [integer(rng, 2, 19)],
        advice="One prompt is the whole row: causal attention over all of it, out in the shape of q."),
    # Of four or more prompts, one of several tokens has neighbors on both sides: there a wrong cut shows.
    RaggedCheck("lets each prompt see itself alone, whatever the lengths", 3,
        lengths=ragged(batch=(4, 7), longest=(5, 39), between=True),
        advice="Prompt i is rows cu_seqlens[i] to cu_seqlens[i + 1]: attend causally within, join the pieces in "
               "order."),
    # With so many, even all heads of all prompts' own scores are less than N * N / 2.
    RaggedCheck("computes no scores between different prompts", 1, draws=1, judged=expect_no_scores_between,
        lengths=lambda rng: rng.integers(18, 25, 24).tolist(),
        advice="Cut first, then score: with many prompts an N x N block mask wastes more than any padding."),
))
