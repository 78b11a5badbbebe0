"""06.3: attention in torch, one tile of scores at a time."""
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from common.checking.draw import integer, randn
from common.checking.exercise import BF16, F16, F32, Check, Exercise, Mismatch, Values
from common.checking.watch import PeakMemory
from common.lessons.flash_attention import shared
from common.oracles.attention import ScoreMod, causal_mod, plain_attention


def alibi_mod(slopes: Tensor) -> ScoreMod:
    """Farther keys count less, by a slope of each head (Press et al. 2022)."""
    return lambda scores, queries, keys: scores - slopes[:, None, None] * (queries[:, None] - keys).abs()


def relative_mod(table: Tensor) -> ScoreMod:
    """A learned number for each head and each distance, the outermost for all beyond (Raffel et al. 2020)."""
    far = table.shape[1] // 2
    return lambda scores, queries, keys: scores + table[:, (keys - queries[:, None]).clamp(-far, far) + far]


def prefix_mod(length: int) -> ScoreMod:
    """All see the prefix whole; what follows it is causal (a prompt that is read, then a text that is written)."""
    return lambda scores, queries, keys: scores.masked_fill((keys >= length) & (keys > queries[:, None]), -torch.inf)


def any_shape(rng: np.random.Generator) -> tuple[int, ...]:
    """Several tiles of queries and of keys, the last of each shorter than the others."""
    q_tile, k_tile, kv_heads = integer(rng, 5, 39), integer(rng, 5, 39), integer(rng, 2, 3)
    nq, nk = shared.off_tile(rng, 40, 89, q_tile), shared.off_tile(rng, 40, 89, k_tile)
    return q_tile, k_tile, nq, nk, 3 * kv_heads, kv_heads, 8 * integer(rng, 1, 4)


@dataclass(frozen=True, kw_only=True)
class TiledCheck(Check):
    """`tiled_attention` against the formula, with a score_mod made from the inputs."""

    shape: Callable[[np.random.Generator], tuple[int, ...]] = any_shape  # q_tile, k_tile, Nq, Nk, perhaps H, KH, D
    scale: Callable[[np.random.Generator], float | None] = lambda rng: None
    q_size: float = 1
    extras: Callable[[np.random.Generator, int], Values] = lambda rng, heads: {}  # what `score_mod` is made from
    score_mod: Callable[[Values], ScoreMod | None] = lambda inputs: None
    tolerance: dict[torch.dtype, float] = field(default_factory=lambda: shared.OUT)
    lse_tolerance: float = shared.LSE
    draws: int = 2

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        q_tile, k_tile, *shape = self.shape(rng)
        inputs = shared.draw_heads(rng, dtype, *shape, q_size=self.q_size)
        tiles = {"scale": self.scale(rng), "q_tile": q_tile, "k_tile": k_tile}
        return inputs | tiles | self.extras(rng, inputs["q"].shape[1])

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        q, k, v = (inputs[name] for name in "qkv")
        returned = lab.tiled_attention(q, k, v, self.score_mod(inputs), inputs["scale"], inputs["q_tile"],
                                       inputs["k_tile"])
        out, lse = shared.items("tiled_attention", returned, ("out", "lse"))
        return {"out": out, "lse": lse}

    def judge(self, inputs: Values, outputs: Values) -> None:
        q, k, v = (inputs[name] for name in "qkv")
        out, lse = plain_attention(q, k, v, self.score_mod(inputs), inputs["scale"])
        shared.expect_values("out", outputs["out"], out, q.dtype, self.tolerance[q.dtype])
        shared.expect_lse(outputs["lse"], lse, self.lse_tolerance)


class MemoryCheck(TiledCheck):
    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        with PeakMemory() as memory:
            super().drive(lab, inputs)
        return {"peak": memory.peak}

    def judge(self, inputs: Values, outputs: Values) -> None:
        nq, heads, head_dim = inputs["q"].shape
        nk = len(inputs["k"])
        allowed = 8 * heads * (max(nq, nk) * head_dim + inputs["q_tile"] * inputs["k_tile"])
        if outputs["peak"] > allowed:
            raise Mismatch(f"{outputs['peak']:,} numbers at one time, allowed {allowed:,}; all scores of one head are "
                           f"{nq * nk:,}")


EXERCISE = Exercise("06.3", "Attention in tiles, in torch", "tiled_attention", minutes=25, difficulty=3,
                    refused=shared.FUSED, checks=(
    TiledCheck("attends like the plain formula within one tile", 1, draws=1, shape=lambda rng: (32, 32, 32, 32),
        advice="scores = q k^T * scale, p = exp(scores - row maximum), out = p v / sum of p: one tile of 32 by 32 "
               "here."),
    TiledCheck("adds up many tiles of keys", 2, shape=lambda rng: (32, 32, 64, 128),
        advice="Carry row_max, row_sum and acc from tile to tile; rescale both sums when the maximum grows; divide "
               "last."),
    TiledCheck("takes any number of queries, keys and heads, and any tile", 2,
               scale=lambda rng: float(rng.uniform(0.05, 0.15)),  # never 1 / sqrt(D), which is 0.177 or more
               advice="The last tile of a row or column is shorter; query head h reads key/value head h // (H // KH)."),
    TiledCheck("stays right for scores of more than 100", 1, q_size=40,
               tolerance={F32: 6e-4}, lse_tolerance=6e-4,  # seen: 4.9e-5, and 5.6e-5 in lse
               advice="Scores reach 40 times their usual size here: subtract the running row maximum before exp."),
    TiledCheck("computes in float32 and returns q's dtype", 1, cpu=(F16, BF16), cuda=(F16, BF16),
        advice="Take .float() of each tile, keep scores and sums in float32, and end with .to(q.dtype); lse is "
               "float32."),
    TiledCheck("lets ALiBi change the scores of each tile by where it lies", 1,
        extras=lambda rng, heads: {"slopes": torch.from_numpy(rng.uniform(0.02, 0.5, heads)).float()},
        score_mod=lambda inputs: alibi_mod(inputs["slopes"]),
        advice="score_mod gets the scaled scores, and numbers that count from the sequence's beginning, not the "
               "tile's."),
    TiledCheck("lets a relative position bias tell queries from keys", 1,
        extras=lambda rng, heads: {"table": randn(rng, heads, 2 * integer(rng, 3, 19) + 1)},
        score_mod=lambda inputs: relative_mod(inputs["table"]),
        advice="score_mod(scores, queries, keys): the rows' numbers come first, then the columns'."),
    TiledCheck("hides what a prefix mask hides", 1, extras=lambda rng, heads: {"length": integer(rng, 3, 19)},
        score_mod=lambda inputs: prefix_mod(inputs["length"]),
        advice="score_mod comes before the maximum: a key whose score is -inf counts neither in row_sum nor in acc."),
    TiledCheck("gives 0 and -inf to a query that sees no key", 1,
               shape=lambda rng: (integer(rng, 5, 39), integer(rng, 5, 39), integer(rng, 60, 89),
                                  integer(rng, 10, 39), 4, 2, 16),
               score_mod=lambda inputs: causal_mod(len(inputs["q"]), len(inputs["k"])),
               advice="While a row has seen no key its maximum is -inf, and -inf - -inf is NaN: begin with a finite "
                      "maximum."),
    MemoryCheck("never holds more than a few tiles", 2, draws=1,
        shape=lambda rng: (32, 40, integer(rng, 600, 639), integer(rng, 600, 639), 2, 1, 8),
        advice="Scores or a mask of all queries and keys were in memory: make one tile, use it up, then make the "
               "next."),
))
