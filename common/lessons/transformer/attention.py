"""01.3: causal grouped-query attention."""
import math
from functools import partial
from types import ModuleType

import torch
from torch import Tensor

from common.checking.compare import expect_close, expect_like, expect_near
from common.checking.draw import as_slices, draw_qkv, integer
from common.checking.exercise import F32, Check, Exercise, Rng, Values
from common.lessons.transformer.shared import FormulaCheck
from common.oracles.decoder import causal_attention

ATOL = 1.5e-5  # largest error 1.5e-6, with values of about 1
ATOL_OF_LARGE_SCORES = 6e-4  # largest error 5.4e-5: a score of 400 is itself no finer than 3e-5


def expect_attention(inputs: Values, outputs: Values, want: Tensor, atol: float = ATOL) -> None:
    expect_near("attention", outputs["out"], want, F32, atol)


AttentionCheck = partial(FormulaCheck, symbol="causal_attention", formula=causal_attention, draws=3,
                         prepare=as_slices, judged=expect_attention)


def qkv(rng: Rng, n: int, h: int, kh: int, d: int) -> Values:
    return draw_qkv(rng, (n,), (h, kh, d), F32)


def equal_heads(rng: Rng) -> Values:
    h = integer(rng, 2, 8)
    return qkv(rng, integer(rng, 5, 40), h, h, 8 * integer(rng, 1, 12))


def grouped_heads(rng: Rng) -> Values:
    kh = integer(rng, 2, 4)
    return qkv(rng, integer(rng, 3, 40), kh * integer(rng, 2, 4), kh, 16)


def large_scores(rng: Rng) -> Values:
    """A token that matches its own key with a score of 400 whatever was drawn, among scores of 40 or so."""
    inputs = qkv(rng, integer(rng, 5, 40), 4, 2, 32)
    inputs["q"][-1, 0] = inputs["k"][-1, 0] * (10 * math.sqrt(32) / inputs["k"][-1, 0].square().sum())
    return inputs | {"q": 40 * inputs["q"]}


class FutureCheck(Check):
    """The same text twice, with another future from token `cut` on."""

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        n = integer(rng, 5, 40)
        return {**draw_qkv(rng, (n,), (2, 2, 16), dtype), "cut": integer(rng, 1, n - 1)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        q, k, v, cut = inputs["q"], inputs["k"].clone(), inputs["v"].clone(), inputs["cut"]
        before = lab.causal_attention(*as_slices(q, k, v))
        k[cut:] *= -1  # another future, and a loud one
        v[cut:] += 1000
        return {"before": before, "after": lab.causal_attention(*as_slices(q, k, v))}

    def judge(self, inputs: Values, outputs: Values) -> None:
        cut = inputs["cut"]
        for name in ("before", "after"):
            expect_like("attention", outputs[name], inputs["q"])
        what = f"tokens 0 to {cut - 1} after those from {cut} on were changed"
        expect_close(what, outputs["after"][:cut], outputs["before"][:cut], ATOL)


EXERCISE = Exercise("01.3", "Causal grouped-query attention", "causal_attention", minutes=20, difficulty=3, refused=(
    "torch.nn.functional.scaled_dot_product_attention", "torch.nn.functional.multi_head_attention_forward",
    "torch.nn.MultiheadAttention", "common.model.attention.CausalAttention"), checks=(
    AttentionCheck("attends over four tokens with one head of width 4", 1, draws=1, prepare=lambda *whole: whole,
        arguments=lambda rng: qkv(rng, 4, 1, 1, 4),
        advice="scores[i, j] = dot(q[i], k[j]) / sqrt(D); -inf where j > i; softmax over j; the weighted mean of "
               "v[j]."),
    FutureCheck("gives no future token any influence", 2, draws=3,
        advice="Token i must not see token i + 1: scores with j > i get -inf before the softmax (triu(diagonal=1))."),
    AttentionCheck("lets every token see itself and all before it", 1,
        arguments=lambda rng: qkv(rng, integer(rng, 5, 70), 1, 1, 24),
        advice="Token i sees j <= i, itself included, so the mask is strictly above the diagonal."),
    AttentionCheck("divides by sqrt(D), however many heads there are", 2, arguments=equal_heads,
        advice="The scale is 1 / sqrt(D) with D = q.shape[-1], the width of one head; heads do not see each other."),
    AttentionCheck("gives query head h the key/value head h // (H // KH)", 2, arguments=grouped_heads,
        advice="Neighbouring query heads share a key/value head: with H = 4 and KH = 2 they use 0, 0, 1, 1 "
               "(repeat_interleave), and not 0, 1, 0, 1 (repeat)."),
    AttentionCheck("stays finite with scores forty times as large", 1, arguments=large_scores,
        judged=partial(expect_attention, atol=ATOL_OF_LARGE_SCORES),
        advice="Subtract each row's maximum before exp, or let softmax do it: exp(89) is already infinite in float32."),
))
