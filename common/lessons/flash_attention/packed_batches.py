"""06.5: packed batches, windows, and the tiles that neither loads."""
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from common.checking.compare import expect_close, expect_equal
from common.checking.draw import integer
from common.checking.exercise import KERNEL_ON_CPU, KERNEL_ON_GPU, Check, DTypes, Exercise, Values
from common.checking.guard import poison
from common.lessons.flash_attention import shared
from common.lessons.flash_attention.shared import Lengths, off_tile, ragged, shuffled
from common.lessons.flash_attention.tile_traces import loads_show
from common.oracles.attention import causal_mod, packed_attention, segments


@dataclass(frozen=True, kw_only=True)
class PackedCheck(Check):
    """`flash_attention` on a packed batch, between guard margins."""

    lengths: Callable[[np.random.Generator], Lengths]
    heads: tuple[int, int, int] = (1, 1, 32)  # H, KH, D
    causal: bool = True
    window: Callable[[np.random.Generator], int | None] = lambda rng: None
    spare: Callable[[np.random.Generator], int] = lambda rng: 0  # how much larger max_seqlen_q is than it has to be
    seconds: float = shared.COMPILING
    cuda: DTypes = KERNEL_ON_GPU

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = shared.draw_packed(rng, dtype, self.lengths(rng), *self.heads) | {"window": self.window(rng)}
        return inputs | {"max_seqlen_q": inputs["max_seqlen_q"] + self.spare(rng)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        sizes = (inputs[name] for name in ("cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q"))
        qkv, window = shared.guarded(inputs), inputs["window"]
        return shared.run_forward(lab, "flash_attention", *qkv, *sizes, self.causal, window)

    def expected(self, inputs: Values) -> tuple[Tensor, Tensor]:
        packed = (inputs[name] for name in ("q", "k", "v", "cu_seqlens_q", "cu_seqlens_k"))
        return packed_attention(*packed, self.causal, inputs["window"])

    def judge(self, inputs: Values, outputs: Values) -> None:
        out, lse = self.expected(inputs)
        dtype = inputs["q"].dtype
        shared.expect_values("out", outputs["out"], out, dtype, shared.OUT[dtype])
        shared.expect_lse(outputs["lse"], lse)


class SpoiledCheck(PackedCheck):
    """The values of one sequence are NaN, and the sequence before it ends within a tile."""

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        spoiled = segments(inputs["cu_seqlens_k"])[integer(rng, 1, 2)]
        inputs["v"][spoiled] = poison(dtype)
        return inputs | {"spoiled": [spoiled.start, spoiled.stop]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        out, _ = self.expected(inputs | {"v": inputs["v"].nan_to_num(0)})
        for rows, columns in zip(segments(inputs["cu_seqlens_q"]), segments(inputs["cu_seqlens_k"]), strict=True):
            if columns.start != inputs["spoiled"][0]:
                expect_close(f"out of rows {rows.start} to {rows.stop - 1}", outputs["out"][rows], out[rows],
                             atol=shared.OUT[inputs["q"].dtype])


class SkippedTilesCheck(PackedCheck):
    """NaN in v shows which keys each program loaded."""

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        return inputs | {"v": loads_show(inputs["v"])}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return super().drive(lab, inputs) | {"tile": shared.TILE}

    def judge(self, inputs: Values, outputs: Values) -> None:
        nq, nk = len(inputs["q"]), len(inputs["k"])
        seen = causal_mod(nq, nk, inputs["window"])(torch.zeros(nq, nk), torch.arange(nq), torch.arange(nk)) == 0
        shared.expect_no_needless_loads("queries", "keys", outputs["out"], seen, outputs["tile"])


class StrayWritesCheck(PackedCheck):
    def judge(self, inputs: Values, outputs: Values) -> None:
        shared.expect_no_stray_write(outputs, f" (cu_seqlens_q = {inputs['cu_seqlens_q'].tolist()})")


class CostCheck(PackedCheck):
    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_equal("launches of flash_attention_kernel", outputs["launches"], 1)
        shared.expect_thrift(inputs, outputs, 2)


def more_and_fewer_keys(rng: np.random.Generator) -> Lengths:
    """One sequence has more keys than queries, one has fewer; there may be a third of any lengths."""
    batch = [(ragged(rng, 60), off_tile(rng, 66, 79)), (off_tile(rng, 66, 79), ragged(rng, 60)),
             (ragged(rng, 60), ragged(rng, 80))]
    return shuffled(rng, batch[:integer(rng, 2, 3)])


def empty_ones(rng: np.random.Generator) -> Lengths:
    """A full sequence comes after every kind of empty one, and an empty one ends the batch."""
    kinds = [(0, 0), (0, ragged(rng, 40)), (ragged(rng, 40), 0), (ragged(rng, 40), ragged(rng, 40))]
    return [*shuffled(rng, kinds), (ragged(rng, 40), ragged(rng, 40)), (0, 0)]


def more_than_any_window(rng: np.random.Generator) -> Lengths:
    n = integer(rng, 100, 149)
    return [(n, n)]


def ten_blocks(rng: np.random.Generator) -> Lengths:
    """So many keys that the first tile of queries needs none near the last block of keys, even in tiles of 128."""
    return [(320 - 32 * integer(rng, 0, 1), 320)]


EXERCISE = Exercise("06.5", "Packed batches, windows, skipped tiles", "flash_attention", minutes=20, difficulty=4,
                    refused=shared.FUSED, checks=(
    PackedCheck("attends within each of two sequences", 2, cpu=KERNEL_ON_CPU, lengths=lambda rng: [(32, 32), (32, 32)],
        advice="A program works on one sequence: its rows begin at cu_seqlens_q[s], its keys at cu_seqlens_k[s]."),
    PackedCheck("takes sequences of any length, with more keys than queries or fewer", 2, draws=2,
        lengths=more_and_fewer_keys, heads=(3, 1, 24),
        advice="Each sequence has an nq and an nk of its own, for its mask too (j <= i + nk - nq); max_seqlen_q is "
               "for the grid alone."),
    PackedCheck("takes a batch of one, without a mask", 1, causal=False,
        lengths=lambda rng: [(integer(rng, 33, 59), ragged(rng, 60))],
        advice="One sequence is a batch too, and with causal=False each of its queries sees all keys."),
    SpoiledCheck("lets nothing of another sequence in, be it NaN", 1,
        lengths=lambda rng: [(integer(rng, 1, 30), integer(rng, 33, 62)) for _ in range(3)],
        advice="Keys and values from this sequence's nk on are another request's: scores -inf, and 0 in place of "
               "such rows of v (by tl.where, or by the mask of a load by pointers)."),
    PackedCheck("takes sequences without queries, without keys, or without both", 2, lengths=empty_ones,
        spare=lambda rng: integer(rng, 0, 49),
        advice="Rows of a sequence without keys get 0 and -inf, and are written; a sequence without queries has no "
               "rows."),
    PackedCheck("lets a query see the last `window` keys only", 2, draws=2, lengths=more_than_any_window,
        window=lambda rng: int(rng.choice([1, 31, 32, 33, integer(rng, 2, 89)])),
        advice="Query i sees the keys j with i + nk - nq - window < j <= i + nk - nq: itself and window - 1 before "
               "it; and no loop begins before key 0."),
    PackedCheck("aligns each sequence's window at its last key", 1, draws=2, window=lambda rng: integer(rng, 1, 49),
        lengths=lambda rng: [(integer(rng, 1, 49), integer(rng, 60, 99)), (integer(rng, 40, 69), 35)],
        advice="The window ends where causal does, at key i + nk - nq; rows for which that leaves no key get 0 and "
               "-inf."),
    SkippedTilesCheck("loads no tile that causal empties", 2, lengths=ten_blocks, heads=(1, 1, 16),
        advice="A tile of queries needs keys up to its last query's only: end the loop there (0 * NaN showed the "
               "loads)."),
    SkippedTilesCheck("loads no tile that lies before the window", 1, lengths=ten_blocks, heads=(1, 1, 16),
        window=lambda rng: integer(rng, 20, 49),
        advice="The first key that a tile of queries needs is the first of its first query: begin the loop at that "
               "tile."),
    StrayWritesCheck("writes nothing outside of what it returns", 1,
        lengths=lambda rng: [(integer(rng, 1, 30), 32), (integer(rng, 1, 30), 32)],
        advice="Numbers beside `out` or `lse` were overwritten: mask their stores by this sequence's number of "
               "queries."),
    CostCheck("computes the whole batch in one launch, and allocates no scores", 1, heads=(1, 1, 16),
        lengths=lambda rng: [(1, 60), (200, 200), (3, 5)],
        advice="Sequences are one more dimension of the grid: len(cu_seqlens_q) - 1 of them, in one launch."),
))
