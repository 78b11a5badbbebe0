"""Lesson 06: checks of the bytes, of merging, of tiles in torch, and of the Triton kernels, forward and backward.

Every attention is held against its formula in float64 (attention.py), computed from the very numbers that the lab got.
"""
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from common.checks.attention import ScoreMod, causal_mod, packed_attention, plain_attention, segments
from common.checks.compare import describe, expect_close, expect_equal
from common.checks.counters import Launches
from common.checks.draw import randn
from common.checks.exercise import Check, Exercise, Lesson, Mismatch, Values
from common.checks.guard import guarded_input, poison
from common.checks.memory import GuardedMemory, PeakMemory
from common.checks.tile_traces import BLOCK, loaded_blocks, loads_show
from common.device import DEVICE

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
ON_CPU, ON_GPU = (F32, F16), (F32, F16, BF16)  # Triton's interpreter cannot multiply bfloat16
COMPILING = 60  # seconds for one drive: on a GPU every dtype and head dim is compiled first
MARGIN = 2**16  # elements around every tensor: a tile of 128 rows may reach that far
TILE = 128 if DEVICE.type == "cuda" else 32  # the most queries or keys that a tile may have, see `tiles` in the lab

# Ten times the largest error seen in hundreds of draws, for values and scores of size 1: 1.9e-6, 1.3e-3. bfloat16 has
# three bits less than float16, and so eight times its tolerance.
OUT = {F32: 2e-5, F16: 1.3e-2, BF16: 1e-1}
LSE = 2e-5  # seen: 1.5e-6


def draw_heads(rng: np.random.Generator, dtype: torch.dtype, nq: int, nk: int, heads: int = 1, kv_heads: int = 1,
               head_dim: int = 32) -> Values:
    return {"q": randn(rng, nq, heads, head_dim).to(dtype), "k": randn(rng, nk, kv_heads, head_dim).to(dtype),
            "v": randn(rng, nk, kv_heads, head_dim).to(dtype)}


def parts(symbol: str, returned: Any, names: tuple[str, ...]) -> tuple:
    """What a lab's function returned, if it is a tuple of so many things."""
    if not isinstance(returned, tuple | list) or len(returned) != len(names):
        raise TypeError(f"`{symbol}` is to return the tuple ({', '.join(names)}), and returned {describe(returned)}")
    return tuple(returned)


def ragged(rng: np.random.Generator, most: int) -> int:
    """A length that mostly is no multiple of any tile, and often just misses one."""
    return int(rng.choice([1, 31, 33, 63, 65, rng.integers(2, most), rng.integers(2, most)]))


# 06.1 -----------------------------------------------------------------------------------------------------------------


class Traffic(TorchDispatchMode):
    """Counts the elements that operations take and give, each tensor once per operation."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if operation in (torch.ops.aten.bmm.default, torch.ops.aten._softmax.default):
            self.elements += sum(x.numel() for x in (*args, result) if isinstance(x, Tensor))
        return result


def counted_bytes(nq: int, nk: int, heads: int, kv_heads: int, head_dim: int, element_bytes: int,
                  q_tile: int) -> tuple[int, int]:
    """What three operations of torch take and give on these shapes (nothing is computed); what the programs load."""
    with torch.device("meta"), Traffic() as traffic:
        q = torch.empty(kv_heads, heads // kv_heads * nq, head_dim)  # the queries of a group side by side
        k = v = torch.empty(kv_heads, nk, head_dim)
        torch.bmm(torch.bmm(q, k.mT).softmax(-1), v)
    tiled = 0
    for first in range(0, nq, q_tile):
        rows = min(first + q_tile, nq) - first
        tiled += heads * ((rows * head_dim + 2 * nk * head_dim + rows * head_dim) * element_bytes + rows * 4)
    return traffic.elements * element_bytes, tiled


class BytesCheck(Check):
    draws = 5

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        plain, tiled = parts("attention_bytes", lab.attention_bytes(**inputs), ("plain", "tiled"))
        return {"plain": plain, "tiled": tiled}

    def judge(self, inputs: Values, outputs: Values) -> None:
        plain, tiled = counted_bytes(**inputs)
        expect_equal(f"plain bytes for {inputs}", outputs["plain"], plain)
        expect_equal(f"tiled bytes for {inputs}", outputs["tiled"], tiled)


class CountsASquare(BytesCheck):
    name = "counts one head and one tile"
    points = 1
    mistake = "forgets that scores and p are each written and read again, or the bytes of lse"
    advice = "Plain: q, k, scores; scores, p; p, v, out. Tiled: q, k, v, out, 4 bytes of lse a row. Both plain ints."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        n = 2 ** int(rng.integers(4, 8))
        return {"nq": n, "nk": n, "heads": 1, "kv_heads": 1, "head_dim": n, "element_bytes": 2, "q_tile": n}


class CountsEveryLoad(BytesCheck):
    name = "counts keys and values once for every tile of queries"
    points = 1
    mistake = "counts keys and values once in all, or loses the last tile, which may be short"
    advice = "ceil(nq / q_tile) programs a head, each of which loads all nk keys and values: -(-nq // q_tile)."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"nq": int(rng.integers(100, 5000)), "nk": int(rng.integers(100, 5000)), "heads": 1, "kv_heads": 1,
                "head_dim": 8 * int(rng.integers(2, 17)), "element_bytes": int(rng.choice([2, 4])),
                "q_tile": int(rng.choice([32, 64, 100, 128]))}


class CountsGroups(BytesCheck):
    name = "counts query heads and key/value heads apart"
    points = 1
    mistake = "takes as many key/value heads as query heads the plain way, or too few loads tile by tile"
    advice = "q, out and scores have `heads` heads, k and v `kv_heads`; but each program of a query head loads k and v."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        kv_heads = int(rng.integers(1, 9))
        return {"nq": int(rng.integers(100, 5000)), "nk": int(rng.integers(100, 5000)),
                "heads": kv_heads * int(rng.integers(2, 9)), "kv_heads": kv_heads, "head_dim": 64, "element_bytes": 2,
                "q_tile": 64}


# 06.2 -----------------------------------------------------------------------------------------------------------------


class MergeCheck(Check):
    """Queries meet keys in two portions; the judge sees them meet all keys at once."""

    draws = 3
    lift = 0.0  # added to every lse: scores that are all larger by this give the same `out`

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = draw_heads(rng, F32, int(rng.integers(20, 60)), int(rng.integers(30, 80)), 3, 3, 8)
        at = int(rng.integers(5, 25))
        return inputs | self.portions(inputs, slice(at), slice(at, None))

    def portions(self, inputs: Values, first: slice, second: slice) -> Values:
        given = {}
        for name, keys in (("a", first), ("b", second)):
            out, lse = plain_attention(inputs["q"], inputs["k"][keys], inputs["v"][keys])
            given |= {f"out_{name}": out.float(), f"lse_{name}": (lse + self.lift).float()}
        return given

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        given = {name: inputs[name].clone() for name in ("out_a", "lse_a", "out_b", "lse_b")}
        out, lse = parts("merge", lab.merge(**given), ("out", "lse"))
        return {"out": out, "lse": lse, "after": given}

    def judge(self, inputs: Values, outputs: Values) -> None:
        out, lse = plain_attention(inputs["q"], inputs["k"], inputs["v"])
        expect_close("out", outputs["out"], out, atol=self.out_tolerance)
        expect_close("lse", outputs["lse"], lse + self.lift, atol=self.lse_tolerance)

    out_tolerance, lse_tolerance = 6e-6, 5e-6  # seen: 6.3e-7 and 4.6e-7


class MergesTwoHalves(MergeCheck):
    name = "gives the attention over both sets of keys"
    points = 2
    mistake = "averages the two, or weighs each with something other than its share of the sum"
    advice = "Each out counts with its share exp(lse_a - lse) of the whole sum, and lse = log(exp(lse_a) + exp(lse_b))."


class MergesLargeScores(MergeCheck):
    name = "takes an lse beyond what exp can"
    points = 1
    lift = 500.0
    mistake = "computes exp(lse), which float32 ends at 88"
    advice = "Never exp(lse) alone: subtract the larger one, or the merged one, first; torch.logaddexp does."
    out_tolerance, lse_tolerance = 3e-4, 3e-4  # seen: 3.2e-5 and 3.0e-5, since an lse of 500 has few digits left


class MergesNothing(MergeCheck):
    name = "takes queries that saw no key in one set, or in either"
    points = 2
    mistake = "computes -inf - -inf, which is NaN"
    advice = "Where both lse are -inf their difference is NaN: give 0 and -inf there."

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


class LeavesItsArguments(MergeCheck):
    name = "leaves its arguments as they were"
    points = 1
    mistake = "works in place on tensors that are the caller's"
    advice = "An operation whose name ends in _, or +=, changed an argument: make new tensors."

    def judge(self, inputs: Values, outputs: Values) -> None:
        for name, after in outputs["after"].items():
            expect_equal(f"{name} afterwards", after, inputs[name])


# 06.3 -----------------------------------------------------------------------------------------------------------------


def alibi_mod(slopes: Tensor) -> ScoreMod:
    """Farther keys count less, by a slope of each head (Press et al. 2022)."""
    return lambda scores, queries, keys: scores - slopes[:, None, None] * (queries[:, None] - keys).abs()


def relative_mod(table: Tensor) -> ScoreMod:
    """A learned number for each head and each distance, the outermost for all beyond (Raffel et al. 2020)."""
    far = table.shape[1] // 2

    def add(scores: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        return scores + table[:, (keys - queries[:, None]).clamp(-far, far) + far]

    return add


def prefix_mod(length: int) -> ScoreMod:
    """All see the prefix whole; what follows it is causal (a prompt that is read, then a text that is written)."""
    def hide(scores: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        return scores.masked_fill((keys >= length) & (keys > queries[:, None]), -torch.inf)

    return hide


class TiledCheck(Check):
    """`tiled_attention` against the formula, with a score_mod made from the inputs."""

    draws = 2
    tolerance = OUT

    def shapes(self, rng: np.random.Generator) -> tuple[int, ...]:
        kv_heads = int(rng.integers(2, 4))
        return int(rng.integers(20, 90)), int(rng.integers(20, 90)), 3 * kv_heads, kv_heads, 8 * int(rng.integers(1, 5))

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        tiles = {"q_tile": int(rng.integers(5, 40)), "k_tile": int(rng.integers(5, 40))}
        return draw_heads(rng, dtype, *self.shapes(rng)) | {"scale": None} | tiles

    def score_mod(self, inputs: Values) -> ScoreMod | None:
        return None

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        q, k, v = (inputs[name] for name in "qkv")
        returned = lab.tiled_attention(q, k, v, self.score_mod(inputs), inputs["scale"], inputs["q_tile"],
                                       inputs["k_tile"])
        out, lse = parts("tiled_attention", returned, ("out", "lse"))
        return {"out": out, "lse": lse}

    def judge(self, inputs: Values, outputs: Values) -> None:
        q, k, v = (inputs[name] for name in "qkv")
        out, lse = plain_attention(q, k, v, self.score_mod(inputs), inputs["scale"])
        expect_attention(inputs["q"].dtype, outputs, out, lse, self.tolerance[q.dtype])


def expect_attention(dtype: torch.dtype, outputs: Values, out: Tensor, lse: Tensor | None, atol: float,
                     lse_atol: float = LSE) -> None:
    """`out` in its dtype and near enough; so is `lse`, where one is given, and -inf exactly where it has to be."""
    if isinstance(outputs["out"], Tensor) and outputs["out"].dtype != dtype:
        raise Mismatch(f"out is {outputs['out'].dtype}, but q is {dtype}")
    expect_close("out", outputs["out"], out, atol=atol)
    if lse is None:
        return
    got = outputs["lse"]
    if not isinstance(got, Tensor) or got.dtype != F32 or got.shape != lse.shape:
        expect_equal("lse", got, lse.float())
    expect_equal("which lse are -inf", got == -torch.inf, lse == -torch.inf)
    known = lse != -torch.inf
    expect_close("lse where it is finite", got[known], lse[known], atol=lse_atol)


class TilesASquare(TiledCheck):
    name = "attends like the plain formula within one tile"
    points = 1
    draws = 1
    mistake = "multiplies the wrong way round, or does not divide by the sum"
    advice = "scores = q k^T * scale, p = exp(scores - row maximum), out = p v / sum of p: one tile of 32 by 32 here."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return draw_heads(rng, dtype, 32, 32) | {"scale": None, "q_tile": 32, "k_tile": 32}


class TilesAddUp(TiledCheck):
    name = "adds up many tiles of keys"
    points = 2
    mistake = "normalises each tile by itself, or forgets to rescale when the maximum grows"
    advice = "Carry row_max, row_sum and acc from tile to tile; rescale both sums when the maximum grows; divide last."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return draw_heads(rng, dtype, 64, 128) | {"scale": None, "q_tile": 32, "k_tile": 32}


class TilesAnyShape(TiledCheck):
    name = "takes any number of queries, keys and heads, and any tile"
    points = 2
    mistake = "drops the last, shorter tile, exchanges q_tile and k_tile, or gives a head the wrong keys"
    advice = "The last tile of a row or column is shorter; query head h reads key/value head h // (H // KH)."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return super().draw(rng, dtype) | {"scale": float(rng.uniform(0.1, 0.3))}


class TilesLargeScores(TiledCheck):
    name = "stays right for scores of more than 100"
    points = 1
    mistake = "takes exp of raw scores"
    advice = "Scores reach 40 times their usual size here: subtract the running row maximum before exp."
    tolerance = {F32: 6e-4}  # seen: 4.9e-5, and 5.6e-5 in lse

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        return inputs | {"q": 40 * inputs["q"]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        q, k, v = (inputs[name] for name in "qkv")
        out, lse = plain_attention(q, k, v)
        expect_attention(q.dtype, outputs, out, lse, self.tolerance[q.dtype], lse_atol=6e-4)


class TilesHalfPrecision(TiledCheck):
    name = "computes in float32 and returns q's dtype"
    points = 1
    cpu, cuda = (F16, BF16), (F16, BF16)
    mistake = "computes in half precision, or returns float32"
    advice = "Take .float() of each tile, keep scores and sums in float32, and end with .to(q.dtype); lse is float32."


class TilesAlibi(TiledCheck):
    name = "lets ALiBi change the scores of each tile by where it lies"
    points = 1
    mistake = "numbers queries and keys within the tile, or scales the scores after score_mod"
    advice = "score_mod gets the scaled scores, and numbers that count from the sequence's beginning, not the tile's."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        return inputs | {"slopes": torch.from_numpy(rng.uniform(0.02, 0.5, inputs["q"].shape[1])).float()}

    def score_mod(self, inputs: Values) -> ScoreMod:
        return alibi_mod(inputs["slopes"])


class TilesRelative(TiledCheck):
    name = "lets a relative position bias tell queries from keys"
    points = 1
    mistake = "exchanges the numbers of queries and keys"
    advice = "score_mod(scores, queries, keys): the rows' numbers come first, then the columns'."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        return inputs | {"table": randn(rng, inputs["q"].shape[1], 2 * int(rng.integers(3, 20)) + 1)}

    def score_mod(self, inputs: Values) -> ScoreMod:
        return relative_mod(inputs["table"])


class TilesAPrefix(TiledCheck):
    name = "hides what a prefix mask hides"
    points = 1
    mistake = "applies score_mod after the maximum or after exp, so that hidden keys still count in the sum"
    advice = "score_mod comes before the maximum: a key whose score is -inf counts neither in row_sum nor in acc."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        return inputs | {"length": int(rng.integers(3, 20))}

    def score_mod(self, inputs: Values) -> ScoreMod:
        return prefix_mod(inputs["length"])


class TilesNothing(TiledCheck):
    name = "gives 0 and -inf to a query that sees no key"
    points = 1
    mistake = "computes -inf - -inf or 0 / 0, which are NaN"
    advice = "While a row has seen no key its maximum is -inf, and -inf - -inf is NaN: begin with a finite maximum."

    def shapes(self, rng: np.random.Generator) -> tuple[int, ...]:
        return int(rng.integers(60, 90)), int(rng.integers(10, 40)), 4, 2, 16

    def score_mod(self, inputs: Values) -> ScoreMod:
        return causal_mod(len(inputs["q"]), len(inputs["k"]))


class TilesSaveMemory(TiledCheck):
    name = "never holds more than a few tiles"
    points = 2
    draws = 1
    mistake = "makes all scores at once, or keeps the tiles in a list"
    advice = "Scores or a mask of all queries and keys were in memory: make one tile, use it up, then make the next."

    def shapes(self, rng: np.random.Generator) -> tuple[int, ...]:
        return int(rng.integers(600, 640)), int(rng.integers(600, 640)), 2, 1, 8

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return super().draw(rng, dtype) | {"q_tile": 32, "k_tile": 40}

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


# 06.4 -----------------------------------------------------------------------------------------------------------------


class KernelCheck(Check):
    """`attention` on one sequence, between guard margins."""

    cuda, seconds = ON_GPU, COMPILING
    tolerance = OUT
    causal = False

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return draw_heads(rng, dtype, *self.shapes(rng)) | {"scale": None}

    def shapes(self, rng: np.random.Generator) -> tuple[int, ...]:
        """(Nq, Nk, H, KH, D); the last three may be missing."""
        raise NotImplementedError

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return self.run(lab, [guarded_input(inputs[name], margin=MARGIN) for name in "qkv"], inputs["scale"])

    def run(self, lab: ModuleType, qkv: list[Tensor], scale: float | None) -> Values:
        with Launches(lab, "flash_attention_kernel") as launches, GuardedMemory(MARGIN) as memory:
            out, lse = parts("attention", lab.attention(*qkv, self.causal, scale), ("out", "lse"))
        return {"out": out, "lse": lse, "stray": memory.stray_writes(), "allocated": memory.allocated,
                "launches": launches.count}

    def expected(self, inputs: Values) -> tuple[Tensor, Tensor]:
        q, k, v = (inputs[name] for name in "qkv")
        hide = causal_mod(len(q), len(k)) if self.causal else None
        return plain_attention(q, k, v, hide, inputs["scale"])

    def judge(self, inputs: Values, outputs: Values) -> None:
        out, _ = self.expected(inputs)
        dtype = inputs["q"].dtype
        expect_attention(dtype, outputs, out, None, self.tolerance[dtype])


class AttendsInOneTile(KernelCheck):
    name = "attends like the formula within one tile"
    points = 2
    cpu = ON_CPU
    mistake = "multiplies the wrong way round, or does not divide by the sum"
    advice = "scores = q k^T * scale, p = exp(scores - row maximum), out = p v / sum of p: one tile of 32 by 32 here."

    def shapes(self, rng: np.random.Generator) -> tuple[int, ...]:
        return 32, 32


class AddsUpTiles(KernelCheck):
    name = "adds up many tiles of keys"
    points = 2
    mistake = "forgets to rescale acc or row_sum when the maximum grows"
    advice = "When a tile raises the maximum, multiply acc and row_sum by exp2(old maximum - new maximum)."

    def shapes(self, rng: np.random.Generator) -> tuple[int, ...]:
        return 64, 384


class ReachesTheTail(KernelCheck):
    name = "takes lengths that are no multiple of a tile"
    points = 2
    draws = 3
    mistake = "drops the last keys or queries, or counts keys that are not there"
    advice = "The last tiles are not full: scores of keys that are not there become -inf, their v 0; mask the stores."

    def shapes(self, rng: np.random.Generator) -> tuple[int, ...]:
        return ragged(rng, 150), ragged(rng, 150), 1, 1, int(rng.choice([16, 64, 128]))


class StaysInside(KernelCheck):
    name = "writes nothing outside of what it returns"
    points = 1
    mistake = "a store without a mask, which silently overwrites what lies behind"
    advice = "Numbers beside `out` or `lse` were overwritten: mask their stores by the rows (and dims) that exist."

    def shapes(self, rng: np.random.Generator) -> tuple[int, ...]:
        return int(rng.integers(1, 32)), 32, 2, 1, 8 * int(rng.choice([3, 5]))

    def judge(self, inputs: Values, outputs: Values) -> None:
        if outputs["stray"]:
            raise Mismatch(f"{outputs['stray']} elements outside the returned tensors were overwritten (Nq = "
                           f"{len(inputs['q'])}, D = {inputs['q'].shape[2]})")


class SubtractsTheMaximum(KernelCheck):
    name = "stays right for scores of more than 100"
    points = 1
    cpu = ON_CPU
    mistake = "takes exp of raw scores"
    advice = "Scores reach 40 times their usual size here: subtract the running row maximum before exp2."
    tolerance = OUT | {F32: 2e-4}  # seen: 1.5e-5

    def shapes(self, rng: np.random.Generator) -> tuple[int, ...]:
        return 32, 100

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, F32)
        return inputs | {"q": (40 * inputs["q"]).to(dtype), "k": inputs["k"].to(dtype), "v": inputs["v"].to(dtype)}


class ReturnsTheLse(KernelCheck):
    name = "returns the natural logarithm of the sum"
    points = 1
    cpu = ON_CPU
    mistake = "returns lse in base 2, without the maximum, or in half precision"
    advice = "lse = row maximum + log(row_sum), both natural: what was computed with exp2 is multiplied by ln 2."

    def shapes(self, rng: np.random.Generator) -> tuple[int, ...]:
        return ragged(rng, 60), int(rng.integers(33, 150)), 2, 2

    def judge(self, inputs: Values, outputs: Values) -> None:
        out, lse = self.expected(inputs)
        expect_attention(inputs["q"].dtype, outputs | {"out": out.to(inputs["q"].dtype)}, out, lse, torch.inf)


class TakesItsScale(KernelCheck):
    name = "uses the scale that it is given"
    points = 1
    mistake = "always takes 1 / sqrt(D), or a number that is right for one D only"
    advice = "The factor of the scores is `scale`, and only where that is None 1 / sqrt(D)."

    def shapes(self, rng: np.random.Generator) -> tuple[int, ...]:
        return 32, 40

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return super().draw(rng, dtype) | {"scale": float(rng.uniform(0.2, 0.3))}


class TakesAnyHeadDim(KernelCheck):
    name = "takes head dims that are no power of two"
    points = 2
    draws = 2
    mistake = "reads beyond a head where D is no power of two, or takes 1 / sqrt of the padded D"
    advice = "Pad D to the next power of two for tl.arange, mask the dims from D on, and scale by 1 / sqrt(D)."

    def shapes(self, rng: np.random.Generator) -> tuple[int, ...]:
        return 32, 40, 2, 2, int(rng.choice([24, 40, 48, 80, 96, 112, 120]))


class HidesTheFuture(KernelCheck):
    name = "hides later keys from each query"
    points = 2
    causal = True
    mistake = "masks one key too many or too few, or masks after the sum was taken"
    advice = "causal: query i sees keys 0 to i; hidden scores become -inf before the maximum, not after exp."

    def shapes(self, rng: np.random.Generator) -> tuple[int, ...]:
        n = int(rng.integers(33, 150))
        return n, n


class AlignsTheLastKeys(KernelCheck):
    name = "lets the last query see the last key, however many keys there are"
    points = 2
    draws = 3
    causal = True
    mistake = "aligns queries and keys at their beginnings"
    advice = "With Nk > Nq the queries are the last ones: query i sees the keys j <= i + Nk - Nq."

    def shapes(self, rng: np.random.Generator) -> tuple[int, ...]:
        nq = ragged(rng, 100)
        return nq, nq + int(rng.integers(1, 100))


class SeesNoKey(KernelCheck):
    name = "gives 0 and -inf to a query that sees no key"
    points = 2
    causal = True
    mistake = "divides 0 by 0, or leaves rows unwritten"
    advice = "With Nq > Nk the first Nq - Nk queries see nothing: out is 0 there, lse is -inf, and nothing is NaN."

    def shapes(self, rng: np.random.Generator) -> tuple[int, ...]:
        nk = ragged(rng, 60)
        return nk + int(rng.integers(1, 60)), nk

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_attention(inputs["q"].dtype, outputs, *self.expected(inputs), self.tolerance[inputs["q"].dtype])


class SharesKeyHeads(KernelCheck):
    name = "lets groups of query heads share a key/value head"
    points = 2
    mistake = "maps heads by modulo, or forgets that k and v have fewer"
    advice = "Query head h reads key/value head h // (H // KH): neighbours share."

    def shapes(self, rng: np.random.Generator) -> tuple[int, ...]:
        kv_heads = int(rng.integers(2, 4))
        return 20, 40, 3 * kv_heads, kv_heads


class TakesStrides(KernelCheck):
    name = "takes q, k and v with any strides"
    points = 2
    mistake = "computes addresses from the shape, as if every tensor were contiguous"
    advice = ("q, k and v may be slices: use q.stride(0), q.stride(1) and the like, each its own. And "
              "torch.empty_like(q) may take over q's strides: make out by torch.empty(q.shape, ...).")

    def shapes(self, rng: np.random.Generator) -> tuple[int, ...]:
        return int(rng.integers(20, 60)), int(rng.integers(20, 60)), 2, 2

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return self.run(lab, strided(inputs), inputs["scale"])


def strided(inputs: Values) -> list[Tensor]:
    """q with its heads outermost, k and v as slices of wider tensors; NaN lies in the gaps."""
    q, k, v = (inputs[name] for name in "qkv")
    wide_k = guarded_input(torch.full((len(k), k.shape[1] + 3, k.shape[2]), torch.nan).to(k), margin=MARGIN)
    wide_v = guarded_input(torch.full((len(v), v.shape[1], v.shape[2] + 8), torch.nan).to(v), margin=MARGIN)
    wide_k[:, 1:-2], wide_v[..., :-8] = k, v
    return [guarded_input(q.transpose(0, 1), margin=MARGIN).transpose(0, 1), wide_k[:, 1:-2], wide_v[..., :-8]]


class SumsInFloat32(KernelCheck):
    name = "adds up in float32"
    points = 2
    cpu = ON_CPU
    mistake = "keeps acc or row_sum in half precision, where 96,000 is infinite and small parts are lost"
    advice = "acc, row_sum and row_max are float32 whatever q's dtype; only p is cast, for the product with v."

    def shapes(self, rng: np.random.Generator) -> tuple[int, ...]:
        return 32, 320

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)  # equal scores, so that all p are 1 and acc reaches 320 * 300
        return inputs | {"q": torch.zeros_like(inputs["q"]), "v": (300 + 10 * inputs["v"].float()).to(dtype)}

    def judge(self, inputs: Values, outputs: Values) -> None:
        out, _ = self.expected(inputs)
        dtype = inputs["q"].dtype
        # In float32 7.8e-5 was seen. In half precision `out` is rounded once, by half a step at most.
        expect_attention(dtype, outputs, out, None, 8e-4 if dtype == F32 else 300 * torch.finfo(dtype).eps)


class LaunchesOnce(KernelCheck):
    name = "computes all in one launch, and allocates no scores"
    points = 2
    causal = True
    mistake = "launches once per head, computes with torch, or writes the scores to memory"
    advice = "One launch over a grid of (heads, tiles) does all; beside out and lse hardly anything is allocated."

    def shapes(self, rng: np.random.Generator) -> tuple[int, ...]:
        return int(rng.integers(195, 210)), int(rng.integers(195, 210)), 1, 1, 16

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_equal("launches of flash_attention_kernel", outputs["launches"], 1)
        expect_thrift(inputs, outputs["allocated"], 2)


def expect_thrift(inputs: Values, allocated: int, factor: int) -> None:
    held = 2 * inputs["q"].numel() + inputs["k"].numel() + inputs["v"].numel()
    if allocated > factor * held:
        raise Mismatch(f"{allocated:,} numbers were allocated, allowed are {factor} times the {held:,} of q, k, v and "
                       f"out; all scores of one head are {len(inputs['q']) * len(inputs['k']):,}")


# 06.5 -----------------------------------------------------------------------------------------------------------------


PACKED = ("q", "k", "v", "cu_seqlens_q", "cu_seqlens_k")


class PackedCheck(Check):
    """`flash_attention` on a packed batch, between guard margins."""

    cuda, seconds = ON_GPU, COMPILING
    causal = True

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        """(queries, keys) of each sequence."""
        raise NotImplementedError

    def window(self, rng: np.random.Generator) -> int | None:
        return None

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return draw_packed(rng, dtype, self.lengths(rng)) | {"window": self.window(rng)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        qkv = [guarded_input(inputs[name], margin=MARGIN) for name in "qkv"]
        with Launches(lab, "flash_attention_kernel") as launches, GuardedMemory(MARGIN) as memory:
            returned = lab.flash_attention(*qkv, inputs["cu_seqlens_q"], inputs["cu_seqlens_k"],
                                           inputs["max_seqlen_q"], self.causal, inputs["window"])
            out, lse = parts("flash_attention", returned, ("out", "lse"))
        return {"out": out, "lse": lse, "stray": memory.stray_writes(), "allocated": memory.allocated,
                "launches": launches.count}

    def expected(self, inputs: Values) -> tuple[Tensor, Tensor]:
        return packed_attention(*(inputs[name] for name in PACKED), self.causal, inputs["window"])

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_attention(inputs["q"].dtype, outputs, *self.expected(inputs), OUT[inputs["q"].dtype])


def draw_packed(rng: np.random.Generator, dtype: torch.dtype, lengths: list[tuple[int, int]], heads: int = 1,
                kv_heads: int = 1, head_dim: int = 32) -> Values:
    bounds = torch.tensor([(0, 0), *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    nq, nk = bounds[-1].tolist()
    return draw_heads(rng, dtype, nq, nk, heads, kv_heads, head_dim) | {
        "cu_seqlens_q": bounds[:, 0].contiguous(), "cu_seqlens_k": bounds[:, 1].contiguous(),
        "max_seqlen_q": max(q for q, _ in lengths), "max_seqlen_k": max(k for _, k in lengths)}


class AttendsWithinSequences(PackedCheck):
    name = "attends within each of two sequences"
    points = 2
    cpu = ON_CPU
    mistake = "lets all tokens of the batch see each other, or reads the first sequence for all"
    advice = "A program works on one sequence: its rows begin at cu_seqlens_q[s], its keys at cu_seqlens_k[s]."

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        return [(32, 32), (32, 32)]


class TakesRaggedBatches(PackedCheck):
    name = "takes sequences of any length, with more keys than queries or fewer"
    points = 2
    draws = 2
    mistake = "takes one length for all, or cu_seqlens_q for the keys too"
    advice = ("Each sequence has an nq and an nk of its own, for its mask too (j <= i + nk - nq); max_seqlen_q is for "
              "the grid alone.")

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        return [(ragged(rng, 60), ragged(rng, 80)) for _ in range(int(rng.integers(2, 4)))]

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return draw_packed(rng, dtype, self.lengths(rng), 3, 1, 24) | {"window": None}


class TakesABatchOfOne(PackedCheck):
    name = "takes a batch of one, without a mask"
    points = 1
    causal = False
    mistake = "masks although causal is False, or takes more than one sequence for granted"
    advice = "One sequence is a batch too, and with causal=False each of its queries sees all keys."

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        return [(int(rng.integers(33, 60)), ragged(rng, 60))]


class KeepsSequencesApart(PackedCheck):
    name = "lets nothing of another sequence in, be it NaN"
    points = 1
    mistake = "loads values of the next sequence and relies on p = 0, but 0 * NaN is NaN"
    advice = ("Keys and values from this sequence's nk on are another request's: scores -inf, and 0 in place of such "
              "rows of v (by tl.where, or by the mask of a load by pointers).")

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        return [(int(rng.integers(1, 31)), int(rng.integers(33, 63))) for _ in range(3)]

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        spoiled = segments(inputs["cu_seqlens_k"])[int(rng.integers(1, 3))]
        inputs["v"][spoiled] = poison(dtype)
        return inputs | {"spoiled": [spoiled.start, spoiled.stop]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        clean = inputs | {"v": inputs["v"].nan_to_num(0)}
        out, _ = self.expected(clean)
        for rows, columns in zip(segments(inputs["cu_seqlens_q"]), segments(inputs["cu_seqlens_k"]), strict=True):
            if columns.start != inputs["spoiled"][0]:
                expect_close(f"out of rows {rows.start} to {rows.stop - 1}", outputs["out"][rows], out[rows],
                             atol=OUT[inputs["q"].dtype])


class TakesEmptySequences(PackedCheck):
    name = "takes sequences without queries, without keys, or without both"
    points = 2
    mistake = "leaves rows without keys unwritten, or lets an empty sequence shift the others"
    advice = "Rows of a sequence without keys get 0 and -inf, and are written; a sequence without queries has no rows."

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        kinds = [(0, 0), (0, ragged(rng, 40)), (ragged(rng, 40), 0), (ragged(rng, 40), ragged(rng, 40)),
                 (ragged(rng, 40), ragged(rng, 40))]
        return [kinds[index] for index in rng.permutation(len(kinds))]

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        return inputs | {"max_seqlen_q": inputs["max_seqlen_q"] + int(rng.integers(0, 50))}


class SlidesAWindow(PackedCheck):
    name = "lets a query see the last `window` keys only"
    points = 2
    draws = 2
    mistake = "ignores the window, or sees one key too many or too few"
    advice = ("Query i sees the keys j with i + nk - nq - window < j <= i + nk - nq: itself and window - 1 before it; "
              "and no loop begins before key 0.")

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        n = int(rng.integers(100, 150))
        return [(n, n)]

    def window(self, rng: np.random.Generator) -> int:
        return int(rng.choice([1, 31, 32, 33, rng.integers(2, 90)]))


class SlidesEachWindow(PackedCheck):
    name = "aligns each sequence's window at its last key"
    points = 1
    draws = 2
    mistake = "counts the window from the query's number in its sequence, which is right for nq = nk only"
    advice = "The window ends where causal does, at key i + nk - nq; rows for which that leaves no key get 0 and -inf."

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        return [(int(rng.integers(1, 50)), int(rng.integers(60, 100))), (int(rng.integers(40, 70)), 35)]

    def window(self, rng: np.random.Generator) -> int:
        return int(rng.integers(1, 50))


class SkipsTheFuture(PackedCheck):
    name = "loads no tile that causal empties"
    points = 2
    mistake = "walks over all keys and masks them, which takes twice the time"
    advice = "A tile of queries needs keys up to its last query's only: end the loop there (0 * NaN showed the loads)."

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        return [(288 - 32 * int(rng.integers(0, 4)), 288)]

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = draw_packed(rng, dtype, self.lengths(rng), head_dim=16) | {"window": self.window(rng)}
        return inputs | {"v": loads_show(inputs["v"])}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return super().drive(lab, inputs) | {"tile": TILE}

    def judge(self, inputs: Values, outputs: Values) -> None:
        nq, nk = len(inputs["q"]), len(inputs["k"])
        seen = causal_mod(nq, nk, inputs["window"])(torch.zeros(nq, nk), torch.arange(nq), torch.arange(nk)) == 0
        expect_no_needless_loads("queries", "keys", outputs["out"], seen, outputs["tile"])


def expect_no_needless_loads(rows: str, columns: str, product: Tensor, seen: Tensor, tile: int) -> None:
    """`seen` (rows, columns) says what a row needs. A tile of rows may load what lies within a tile of that."""
    loaded = loaded_blocks(product, seen.shape[1])
    needed = torch.stack([some.any(0) for some in seen.split(tile)]).float()  # (tiles of rows, columns)
    near = torch.nn.functional.max_pool1d(needed, 2 * tile - 1, stride=1, padding=tile - 1)
    allowed = near.unflatten(1, (-1, BLOCK)).amax(2).repeat_interleave(tile, 0)[:len(seen)] > 0
    needless = (loaded & ~allowed).nonzero()
    if len(needless):
        row, block = needless[0].tolist()
        raise Mismatch(f"{columns} {BLOCK * block} to {BLOCK * block + BLOCK - 1} were loaded for the tile of {rows} "
                       f"that begins at {row // tile * tile}, and it needs none near them ({len(needless)} of "
                       f"{loaded.numel()} pairs of a row and a block are needless; {len(seen)} {rows}, "
                       f"{seen.shape[1]} {columns})")


class SkipsThePast(SkipsTheFuture):
    name = "loads no tile that lies before the window"
    points = 1
    mistake = "begins at key 0 and masks what the window hides, so that long texts take no less time"
    advice = "The first key that a tile of queries needs is the first of its first query: begin the loop at that tile."

    def window(self, rng: np.random.Generator) -> int:
        return int(rng.integers(20, 50))


class WritesItsRowsOnly(PackedCheck):
    name = "writes nothing outside of what it returns"
    points = 1
    mistake = "a store without a mask, which overwrites the next sequence or what lies behind the batch"
    advice = "Numbers beside `out` or `lse` were overwritten: mask their stores by this sequence's number of queries."

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        return [(int(rng.integers(1, 31)), 32), (int(rng.integers(1, 31)), 32)]

    def judge(self, inputs: Values, outputs: Values) -> None:
        if outputs["stray"]:
            raise Mismatch(f"{outputs['stray']} elements outside the returned tensors were overwritten (cu_seqlens_q = "
                           f"{inputs['cu_seqlens_q'].tolist()})")


class LaunchesOnceForAll(PackedCheck):
    name = "computes the whole batch in one launch, and allocates no scores"
    points = 1
    mistake = "launches once per sequence, which costs more than computing short ones"
    advice = "Sequences are one more dimension of the grid: len(cu_seqlens_q) - 1 of them, in one launch."

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        return [(1, 60), (200, 200), (3, 5)]

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return draw_packed(rng, dtype, self.lengths(rng), head_dim=16) | {"window": None}

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_equal("launches of flash_attention_kernel", outputs["launches"], 1)
        expect_thrift(inputs, outputs["allocated"], 2)


# 06.6 -----------------------------------------------------------------------------------------------------------------

GRADIENTS = ("dq", "dk", "dv")
GRADIENT = {F32: 2e-5, F16: 2.5e-2, BF16: 2e-1}  # of the largest gradient, or of 1; as OUT; seen: 2.2e-6, 2.5e-3


class BackwardCheck(Check):
    """`flash_attention_backward` of a packed batch, against the gradients that autograd finds in float64."""

    cuda, seconds = ON_GPU, COMPILING
    tolerance = GRADIENT
    causal = False
    scale: float | None = None

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        raise NotImplementedError

    def heads(self, rng: np.random.Generator) -> tuple[int, int, int]:
        return 1, 1, 32

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = draw_packed(rng, dtype, self.lengths(rng), *self.heads(rng))
        return self.with_forward(inputs | {"d_out": randn(rng, *inputs["q"].shape).to(dtype), "window": None})

    def with_forward(self, inputs: Values) -> Values:
        """The inputs, with the `out` and `lse` of the forward pass that the lab gets."""
        out, lse = self.forward(inputs)
        return inputs | {"out": out.to(inputs["q"].dtype), "lse": lse.float()}

    def forward(self, inputs: Values) -> tuple[Tensor, Tensor]:
        return packed_attention(*(inputs[name] for name in PACKED), self.causal, inputs["window"], self.scale)

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        guarded = {name: guarded_input(inputs[name], margin=MARGIN) for name in ("d_out", "q", "k", "v", "out", "lse")}
        with ExitStack() as stack:
            launches = [stack.enter_context(Launches(lab, name)) for name in ("dk_dv_kernel", "dq_kernel")]
            memory = stack.enter_context(GuardedMemory(MARGIN))
            gradients = parts("flash_attention_backward", self.call(lab, inputs | guarded), GRADIENTS)
        return dict(zip(GRADIENTS, gradients, strict=True)) | {
            "stray": memory.stray_writes(), "allocated": memory.allocated, "launches": [one.count for one in launches]}

    def call(self, lab: ModuleType, inputs: Values) -> tuple[Tensor, Tensor, Tensor]:
        tensors = (inputs[name] for name in ("d_out", "q", "k", "v", "out", "lse", "cu_seqlens_q", "cu_seqlens_k"))
        return lab.flash_attention_backward(*tensors, inputs["max_seqlen_q"], inputs["max_seqlen_k"], self.causal,
                                            inputs["window"], self.scale)

    def expected(self, inputs: Values) -> Values:
        leaves = {name: inputs[name].double().requires_grad_() for name in "qkv"}
        out, _ = self.forward(inputs | leaves)
        gradients = torch.autograd.grad(out, list(leaves.values()), inputs["d_out"].double())
        return dict(zip(GRADIENTS, gradients, strict=True))

    def judge(self, inputs: Values, outputs: Values) -> None:
        for name, want in self.expected(inputs).items():
            dtype = inputs["q"].dtype
            if isinstance(outputs[name], Tensor) and outputs[name].dtype != dtype:
                raise Mismatch(f"{name} is {outputs[name].dtype}, but q, k and v are {dtype}")
            largest = float(want.abs().amax()) if want.numel() else 1.0
            expect_close(name, outputs[name], want, atol=self.tolerance[dtype] * max(1.0, largest))


class DifferentiatesOneTile(BackwardCheck):
    name = "gives the gradients of one tile"
    points = 3
    cpu = ON_CPU
    mistake = "leaves out delta, or transposes a product"
    advice = "dv = p^T d_out; dp = d_out v^T; ds = p * (dp - delta); dq = ds k * scale; dk = ds^T q * scale."

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        return [(32, 32)]


class DifferentiatesManyTiles(BackwardCheck):
    name = "adds up over tiles, and takes lengths that are no multiple of one"
    points = 2
    mistake = "drops the last tile, or counts queries or keys that are not there"
    advice = "dk and dv add up over all tiles of queries, dq over all tiles of keys; what is not there counts as p = 0."

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        return [(int(rng.integers(97, 145)), int(rng.integers(97, 145)))]


class DifferentiatesAnyScale(BackwardCheck):
    name = "uses the scale that it is given, and any head dim"
    points = 1
    draws = 2
    mistake = "forgets the scale in dq or dk, or uses it twice"
    advice = "scores = q k^T * scale, so dq and dk each carry one factor `scale`, and dv none."
    scale = 0.13

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        return [(20, 30)]

    def heads(self, rng: np.random.Generator) -> tuple[int, int, int]:
        return 1, 1, int(rng.choice([16, 24, 40, 80, 128]))


class DifferentiatesCausally(BackwardCheck):
    name = "hides what causal hid in the forward pass"
    points = 2
    causal = True
    mistake = "masks at another place than the forward pass, or gives NaN where a query sees no key"
    advice = "The same mask as forward, at i + nk - nq; rows with lse = -inf have p = 0, not exp(-inf - -inf)."

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        more, fewer = int(rng.integers(33, 70)), int(rng.integers(33, 70))
        return [(more, more + int(rng.integers(1, 40))), (fewer, fewer - int(rng.integers(1, 30)))]


class DifferentiatesAWindow(DifferentiatesCausally):
    name = "hides what the window hid in the forward pass"
    points = 1
    mistake = "ignores the window, or gives it another width than the forward pass"
    advice = "The same window as forward: query i saw the keys j with i + nk - nq - window < j <= i + nk - nq."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return self.with_forward(super().draw(rng, dtype) | {"window": int(rng.integers(1, 40))})


class SumsOverTheGroup(BackwardCheck):
    name = "adds up dk and dv over the query heads of a group"
    points = 2
    mistake = "keeps the last query head's share only, or maps heads by modulo"
    advice = "Query heads h with the same h // (H // KH) share k and v, so their shares of dk and dv add up."

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        return [(20, 30)]

    def heads(self, rng: np.random.Generator) -> tuple[int, int, int]:
        return 6, 2, 32


class DifferentiatesBatches(BackwardCheck):
    name = "takes packed batches, with empty sequences in them"
    points = 2
    causal = True
    mistake = "mixes sequences, or leaves the gradients of keys that no query sees unwritten"
    advice = "Rows and keys of a sequence begin at its own cu_seqlens; keys without a query get 0, and are written."

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        kinds = [(0, ragged(rng, 40)), (ragged(rng, 40), 0), (ragged(rng, 50), ragged(rng, 50)), (5, 40)]
        return [kinds[index] for index in rng.permutation(len(kinds))]


class DifferentiatesLargeScores(BackwardCheck):
    name = "stays right for scores of more than 100"
    points = 1
    mistake = "takes exp of raw scores and divides afterwards"
    advice = "p = exp(scores - lse): subtract before exp, and the largest p is 1."
    tolerance = {F32: 3e-4, F16: 0.08, BF16: 0.6}  # seen: 2.5e-5 and 7.8e-3 of the largest, which is up to 66

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        return [(32, 64)]

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, F32)
        inputs |= {name: inputs[name].to(dtype) for name in ("k", "v", "d_out")}
        return self.with_forward(inputs | {"q": (40 * inputs["q"]).to(dtype)})


class SharesTheLse(BackwardCheck):
    name = "gives its keys' share where out and lse stem from more keys"
    points = 2
    mistake = "normalises over the keys that it sees, instead of by lse"
    advice = "p = exp(scores - lse) with the lse that was given, and delta = sum of d_out * out: no second softmax."

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        return [(40, int(rng.integers(50, 64)))]

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return super().draw(rng, dtype) | {"at": int(rng.integers(10, 40))}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        at, nk = inputs["at"], len(inputs["k"])
        shares = []
        for keys in (slice(at), slice(at, nk)):
            n = len(range(nk)[keys])
            cu_seqlens_k = torch.tensor([0, n], dtype=torch.int32, device=inputs["k"].device)
            shares.append(super().drive(lab, inputs | {"k": inputs["k"][keys], "v": inputs["v"][keys],
                                                       "cu_seqlens_k": cu_seqlens_k, "max_seqlen_k": n}))
        first, second = shares
        return {"dq": first["dq"] + second["dq"], "dk": torch.cat((first["dk"], second["dk"])),
                "dv": torch.cat((first["dv"], second["dv"]))}


class DifferentiatesStrides(BackwardCheck):
    name = "takes strides, and writes nothing outside of what it returns"
    points = 1
    mistake = "computes addresses from the shape, or stores without a mask"
    advice = "q, k and v may be slices of larger tensors (.contiguous() is one way); mask the stores of dq, dk and dv."

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        return [(int(rng.integers(2, 31)), int(rng.integers(2, 31)))]

    def heads(self, rng: np.random.Generator) -> tuple[int, int, int]:
        return 2, 2, 24

    def call(self, lab: ModuleType, inputs: Values) -> tuple[Tensor, Tensor, Tensor]:
        return super().call(lab, inputs | dict(zip("qkv", strided(inputs), strict=True)))

    def judge(self, inputs: Values, outputs: Values) -> None:
        super().judge(inputs, outputs)
        if outputs["stray"]:
            raise Mismatch(f"{outputs['stray']} elements outside the returned tensors were overwritten")


class SkipsBackward(BackwardCheck):
    name = "loads no tile that causal empties"
    points = 1
    causal = True
    mistake = "walks over all queries for each tile of keys, and masks"
    advice = "A tile of keys needs the queries from its first key's on only: begin the loop there (0 * NaN showed it)."

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        return [(192, 192)]

    def heads(self, rng: np.random.Generator) -> tuple[int, int, int]:
        return 1, 1, 16

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        return inputs | {"d_out": loads_show(inputs["d_out"])}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return super().drive(lab, inputs) | {"tile": TILE}

    def judge(self, inputs: Values, outputs: Values) -> None:
        n = len(inputs["q"])
        sees = torch.ones(n, n, dtype=torch.bool).tril()
        expect_no_needless_loads("keys", "queries", outputs["dv"], sees.T, outputs["tile"])


class LaunchesTwice(BackwardCheck):
    name = "computes in one launch of each kernel, and allocates no scores"
    points = 1
    causal = True
    mistake = "computes with torch, or writes p to memory"
    advice = "One launch of dk_dv_kernel and one of dq_kernel for the whole batch; p is computed anew in each tile."

    def lengths(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        return [(1, 5), (200, 200)]

    def heads(self, rng: np.random.Generator) -> tuple[int, int, int]:
        return 1, 1, 16

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_equal("launches of dk_dv_kernel and of dq_kernel", outputs["launches"], [1, 1])
        expect_thrift(inputs, outputs["allocated"], 3)


FUSED = ("torch.nn.functional.scaled_dot_product_attention", "torch.nn.attention.flex_attention.flex_attention")

LESSON = Lesson("06", "flash_attention", "Flash attention", minutes=120, exercises=(
    Exercise("06.1", "The bytes of attention", "attention_bytes", minutes=10, difficulty=2,
             checks=(CountsASquare(), CountsEveryLoad(), CountsGroups())),
    Exercise("06.2", "Merge two partial softmaxes", "merge", minutes=10, difficulty=2,
             checks=(MergesTwoHalves(), MergesLargeScores(), MergesNothing(), LeavesItsArguments())),
    Exercise("06.3", "Attention in tiles, in torch", "tiled_attention", minutes=25, difficulty=3,
             checks=(TilesASquare(), TilesAddUp(), TilesAnyShape(), TilesLargeScores(), TilesHalfPrecision(),
                     TilesAlibi(), TilesRelative(), TilesAPrefix(), TilesNothing(), TilesSaveMemory()),
             refused=FUSED),
    Exercise("06.4", "The kernel, for one sequence", "attention", minutes=35, difficulty=4,
             checks=(AttendsInOneTile(), AddsUpTiles(), ReachesTheTail(), StaysInside(), SubtractsTheMaximum(),
                     ReturnsTheLse(), TakesItsScale(), TakesAnyHeadDim(), HidesTheFuture(), AlignsTheLastKeys(),
                     SeesNoKey(), SharesKeyHeads(), TakesStrides(), SumsInFloat32(), LaunchesOnce()),
             refused=FUSED),
    Exercise("06.5", "Packed batches, windows, skipped tiles", "flash_attention", minutes=20, difficulty=4,
             checks=(AttendsWithinSequences(), TakesRaggedBatches(), TakesABatchOfOne(), KeepsSequencesApart(),
                     TakesEmptySequences(), SlidesAWindow(), SlidesEachWindow(), SkipsTheFuture(), SkipsThePast(),
                     WritesItsRowsOnly(), LaunchesOnceForAll()),
             refused=FUSED),
    Exercise("06.6", "The backward pass", "flash_attention_backward", minutes=30, difficulty=5,
             checks=(DifferentiatesOneTile(), DifferentiatesManyTiles(), DifferentiatesAnyScale(),
                     DifferentiatesCausally(), DifferentiatesAWindow(), SumsOverTheGroup(),
                     DifferentiatesBatches(), DifferentiatesLargeScores(), SharesTheLse(), DifferentiatesStrides(),
                     SkipsBackward(), LaunchesTwice()),
             refused=FUSED),
))
