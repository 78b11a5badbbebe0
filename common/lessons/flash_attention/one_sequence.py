"""06.4: the kernel, for one sequence."""
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from common.checking.compare import expect_equal
from common.checking.draw import integer
from common.checking.exercise import BF16, F16, F32, KERNEL_ON_CPU, KERNEL_ON_GPU, Check, DTypes, Exercise, Values
from common.lessons.flash_attention import shared
from common.lessons.flash_attention.shared import off_tile, ragged
from common.oracles.attention import causal_mod, plain_attention


@dataclass(frozen=True, kw_only=True)
class KernelCheck(Check):
    """`attention` on one sequence, between guard margins."""

    shape: Callable[[np.random.Generator], tuple[int, ...]]  # (Nq, Nk, H, KH, D); the last three may be missing
    q_size: float = 1
    scale: Callable[[np.random.Generator], float | None] = lambda rng: None
    causal: bool = False
    layout: Callable[[Values], list[Tensor]] = shared.guarded
    judges_out: bool = True
    judges_lse: bool = False
    tolerance: dict[torch.dtype, float] = field(default_factory=lambda: shared.OUT)
    seconds: float = shared.COMPILING
    cuda: DTypes = KERNEL_ON_GPU

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return shared.draw_heads(rng, dtype, *self.shape(rng), q_size=self.q_size) | {"scale": self.scale(rng)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return shared.run_forward(lab, "attention", *self.layout(inputs), self.causal, inputs["scale"])

    def expected(self, inputs: Values) -> tuple[Tensor, Tensor]:
        q, k, v = (inputs[name] for name in "qkv")
        hide = causal_mod(len(q), len(k)) if self.causal else None
        return plain_attention(q, k, v, hide, inputs["scale"])

    def judge(self, inputs: Values, outputs: Values) -> None:
        out, lse = self.expected(inputs)
        if self.judges_out:
            dtype = inputs["q"].dtype
            shared.expect_values("out", outputs["out"], out, dtype, self.tolerance[dtype])
        if self.judges_lse:
            shared.expect_lse(outputs["lse"], lse)


class StrayWritesCheck(KernelCheck):
    def judge(self, inputs: Values, outputs: Values) -> None:
        shared.expect_no_stray_write(outputs, f" (Nq = {len(inputs['q'])}, D = {inputs['q'].shape[2]})")


class EqualScoresCheck(KernelCheck):
    """All p are 1, and acc reaches 300 times the number of keys."""

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        return inputs | {"q": torch.zeros_like(inputs["q"]), "v": (300 + 10 * inputs["v"].float()).to(dtype)}


class CostCheck(KernelCheck):
    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_equal("launches of flash_attention_kernel", outputs["launches"], 1)
        shared.expect_thrift(inputs, outputs, 2)


def square(rng: np.random.Generator) -> tuple[int, ...]:
    n = integer(rng, 33, 149)
    return n, n


def more_keys(rng: np.random.Generator) -> tuple[int, ...]:
    nq = ragged(rng, 100)
    return nq, nq + integer(rng, 1, 99)


def more_queries(rng: np.random.Generator) -> tuple[int, ...]:
    """The first tile of queries sees no key, however large it is; in a later one some queries do, and some do not."""
    nk = ragged(rng, 60)
    return nk + 128 + off_tile(rng, 1, 62), nk


def groups_of_three(rng: np.random.Generator) -> tuple[int, ...]:
    kv_heads = integer(rng, 2, 3)
    return 20, 40, 3 * kv_heads, kv_heads


EXERCISE = Exercise("06.4", "The kernel, for one sequence", "attention", minutes=35, difficulty=4,
                    refused=shared.FUSED, checks=(
    KernelCheck("attends like the formula within one tile", 2, cpu=KERNEL_ON_CPU, shape=lambda rng: (32, 32),
        advice="scores = q k^T * scale, p = exp(scores - row maximum), out = p v / sum of p: one tile of 32 by 32 "
               "here."),
    KernelCheck("adds up many tiles of keys", 2, shape=lambda rng: (64, 384),
        advice="When a tile raises the maximum, multiply acc and row_sum by exp2(old maximum - new maximum)."),
    KernelCheck("takes lengths that are no multiple of a tile", 2, draws=3,
        shape=lambda rng: (ragged(rng, 150), ragged(rng, 150), 1, 1, int(rng.choice([16, 64, 128]))),
        advice="The last tiles are not full: scores of keys that are not there become -inf, their v 0; mask the "
               "stores."),
    StrayWritesCheck("writes nothing outside of what it returns", 1,
        shape=lambda rng: (integer(rng, 1, 31), 32, 2, 1, 8 * int(rng.choice([3, 5]))),
        advice="Numbers beside `out` or `lse` were overwritten: mask their stores by the rows (and dims) that exist."),
    KernelCheck("stays right for scores of more than 100", 1, cpu=KERNEL_ON_CPU, shape=lambda rng: (32, 100), q_size=40,
                tolerance=shared.OUT | {F32: 2e-4},  # seen: 1.5e-5
                advice="Scores reach 40 times their usual size here: subtract the running row maximum before exp2."),
    KernelCheck("returns the natural logarithm of the sum", 1, cpu=KERNEL_ON_CPU, judges_out=False, judges_lse=True,
        shape=lambda rng: (ragged(rng, 60), integer(rng, 33, 149), 2, 2),
        advice="lse = row maximum + log(row_sum), both natural: what was computed with exp2 is multiplied by ln 2."),
    KernelCheck("uses the scale that it is given", 1, shape=lambda rng: (32, 40),
        scale=lambda rng: float(rng.uniform(0.2, 0.3)),
        advice="The factor of the scores is `scale`, and only where that is None 1 / sqrt(D)."),
    KernelCheck("takes head dims that are no power of two", 2, draws=2,
        shape=lambda rng: (32, 40, 2, 2, int(rng.choice([24, 40, 48, 80, 96, 112, 120]))),
        advice="Pad D to the next power of two for tl.arange, mask the dims from D on, and scale by 1 / sqrt(D)."),
    KernelCheck("hides later keys from each query", 2, causal=True, shape=square,
        advice="causal: query i sees keys 0 to i; hidden scores become -inf before the maximum, not after exp."),
    KernelCheck("lets the last query see the last key, however many keys there are", 2, causal=True, draws=3,
        shape=more_keys,
        advice="With Nk > Nq the queries are the last ones: query i sees the keys j <= i + Nk - Nq."),
    KernelCheck("gives 0 and -inf to a query that sees no key", 2, causal=True, judges_lse=True, shape=more_queries,
        advice="With Nq > Nk the first Nq - Nk queries see nothing: out is 0 there, lse is -inf, and nothing is NaN."),
    KernelCheck("lets groups of query heads share a key/value head", 2, shape=groups_of_three,
        advice="Query head h reads key/value head h // (H // KH): neighbours share."),
    KernelCheck("takes q, k and v with any strides", 2, layout=shared.strided,
        shape=lambda rng: (integer(rng, 20, 59), integer(rng, 20, 59), 2, 2),
        advice="q, k and v may be slices: use q.stride(0), q.stride(1) and the like, each its own. And "
               "torch.empty_like(q) may take over q's strides: make out by torch.empty(q.shape, ...)."),
    EqualScoresCheck("adds up in float32", 2, cpu=KERNEL_ON_CPU, shape=lambda rng: (32, 320),
                     # In float32 7.8e-5 was seen. In half precision `out` is rounded once, by half a step at most.
                     tolerance={F32: 8e-4} | {dtype: 300 * torch.finfo(dtype).eps for dtype in (F16, BF16)},
                     advice="acc, row_sum and row_max are float32 whatever q's dtype; only p is cast, for the product "
                            "with v."),
    CostCheck("computes all in one launch, and allocates no scores", 2, causal=True,
        shape=lambda rng: (integer(rng, 195, 209), integer(rng, 195, 209), 1, 1, 16),
        advice="One launch over a grid of (heads, tiles) does all; beside out and lse hardly anything is allocated."),
))
