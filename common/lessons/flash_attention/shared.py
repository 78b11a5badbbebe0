"""What several exercises of lesson 06 need: lengths, heads and batches to draw, and how attention is judged.

Every attention is held against its formula in float64, computed from the very numbers that the lab got.
"""
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.checking.compare import describe, expect_close, expect_equal
from common.checking.draw import integer, randn
from common.checking.exercise import BF16, F16, F32, Mismatch, Values
from common.checking.guard import guarded_input
from common.checking.watch import GuardedMemory, Launches
from common.device import DEVICE
from common.lessons.flash_attention.tile_traces import BLOCK, loaded_blocks

COMPILING = 60  # seconds for one drive: on a GPU every dtype and head dim is compiled first
MARGIN = 2**16  # elements around every tensor: a tile of 128 rows may reach that far
TILE = 128 if DEVICE.type == "cuda" else 32  # the most queries or keys that a tile may have, see `tiles` in the lab

# Ten times the largest error seen in hundreds of draws, for values and scores of size 1: 1.9e-6, 1.3e-3. bfloat16 has
# three bits less than float16, and so eight times its tolerance.
OUT = {F32: 2e-5, F16: 1.3e-2, BF16: 1e-1}
LSE = 2e-5  # seen: 1.5e-6

FUSED = ("torch.nn.functional.scaled_dot_product_attention", "torch.nn.attention.flex_attention.flex_attention")

Lengths = list[tuple[int, int]]  # (queries, keys) of each sequence


def off_tile(rng: np.random.Generator, low: int, high: int, tile: int = 16) -> int:
    """A length from low to high, or one more, that is no multiple of `tile`; 16 divides every tile of a kernel."""
    length = integer(rng, low, high)
    return length + (length % tile == 0)


def ragged(rng: np.random.Generator, most: int) -> int:
    """A length up to about `most` that is no multiple of any tile, and often just misses one."""
    return int(rng.choice([1, 31, 33, 63, 65, off_tile(rng, 2, most - 1), off_tile(rng, 2, most - 1)]))


def shuffled(rng: np.random.Generator, lengths: Lengths) -> Lengths:
    return [lengths[place] for place in rng.permutation(len(lengths))]


def draw_heads(rng: np.random.Generator, dtype: torch.dtype, nq: int, nk: int, heads: int = 1, kv_heads: int = 1,
               head_dim: int = 32, q_size: float = 1) -> Values:
    return {"q": (q_size * randn(rng, nq, heads, head_dim)).to(dtype),
            "k": randn(rng, nk, kv_heads, head_dim).to(dtype), "v": randn(rng, nk, kv_heads, head_dim).to(dtype)}


def draw_packed(rng: np.random.Generator, dtype: torch.dtype, lengths: Lengths, *heads: float) -> Values:
    """A packed batch; `heads` are the last arguments of `draw_heads`."""
    bounds = torch.tensor([(0, 0), *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    nq, nk = bounds[-1].tolist()
    return draw_heads(rng, dtype, nq, nk, *heads) | {
        "cu_seqlens_q": bounds[:, 0].contiguous(), "cu_seqlens_k": bounds[:, 1].contiguous(),
        "max_seqlen_q": max(q for q, _ in lengths), "max_seqlen_k": max(k for _, k in lengths)}


def guarded(inputs: Values) -> list[Tensor]:
    return [guarded_input(inputs[name], margin=MARGIN) for name in "qkv"]


def strided(inputs: Values) -> list[Tensor]:
    """q with its heads outermost, k and v as slices of wider tensors; NaN lies in the gaps."""
    q, k, v = (inputs[name] for name in "qkv")
    wide_k = guarded_input(torch.full((len(k), k.shape[1] + 3, k.shape[2]), torch.nan).to(k), margin=MARGIN)
    wide_v = guarded_input(torch.full((len(v), v.shape[1], v.shape[2] + 8), torch.nan).to(v), margin=MARGIN)
    wide_k[:, 1:-2], wide_v[..., :-8] = k, v
    return [guarded_input(q.transpose(0, 1), margin=MARGIN).transpose(0, 1), wide_k[:, 1:-2], wide_v[..., :-8]]


def items(symbol: str, returned: Any, names: tuple[str, ...]) -> tuple:
    """What a lab's function returned, if it is a tuple of so many things."""
    if not isinstance(returned, tuple | list) or len(returned) != len(names):
        raise TypeError(f"`{symbol}` is to return the tuple ({', '.join(names)}), and returned {describe(returned)}")
    return tuple(returned)


def run_forward(lab: ModuleType, symbol: str, *arguments: Any) -> Values:
    """What a function around `flash_attention_kernel` returns, launches, allocates, and overwrites beside that."""
    with Launches(lab, "flash_attention_kernel") as launches, GuardedMemory(MARGIN) as memory:
        out, lse = items(symbol, getattr(lab, symbol)(*arguments), ("out", "lse"))
    return {"out": out, "lse": lse, "stray": memory.stray_writes(), "allocated": memory.allocated,
            "launches": launches.count}


def expect_values(what: str, got: Any, want: Tensor, dtype: torch.dtype, atol: float, inputs_are: str = "q is") -> None:
    """In `dtype`, which is that of the inputs, and near enough."""
    if isinstance(got, Tensor) and got.dtype != dtype:
        raise Mismatch(f"{what} is {got.dtype}, but {inputs_are} {dtype}")
    expect_close(what, got, want, atol=atol)


def expect_lse(got: Any, want: Tensor, atol: float = LSE) -> None:
    """In float32, -inf exactly where it has to be, and near enough elsewhere."""
    if not isinstance(got, Tensor) or got.dtype != F32 or got.shape != want.shape:
        expect_equal("lse", got, want.float())
    expect_equal("which lse are -inf", got == -torch.inf, want == -torch.inf)
    known = want != -torch.inf
    expect_close("lse where it is finite", got[known], want[known], atol=atol)


def expect_no_stray_write(outputs: Values, note: str = "") -> None:
    if outputs["stray"]:
        raise Mismatch(f"{outputs['stray']} elements outside the returned tensors were overwritten{note}")


def expect_thrift(inputs: Values, outputs: Values, factor: int) -> None:
    held = 2 * inputs["q"].numel() + inputs["k"].numel() + inputs["v"].numel()
    if outputs["allocated"] > factor * held:
        raise Mismatch(f"{outputs['allocated']:,} numbers were allocated, allowed are {factor} times the {held:,} of "
                       f"q, k, v and out; all scores of one head are {len(inputs['q']) * len(inputs['k']):,}")


def expect_no_needless_loads(rows: str, columns: str, product: Tensor, seen: Tensor, tile: int) -> None:
    """`seen` (rows, columns) says what a row needs. A tile of rows may load what lies within a tile of that."""
    loaded = loaded_blocks(product, seen.shape[1])
    needed = torch.stack([tile_rows.any(0) for tile_rows in seen.split(tile)]).float()  # (tiles of rows, columns)
    near = torch.nn.functional.max_pool1d(needed, 2 * tile - 1, stride=1, padding=tile - 1)
    allowed = near.unflatten(1, (-1, BLOCK)).amax(2).repeat_interleave(tile, 0)[:len(seen)] > 0
    needless = (loaded & ~allowed).nonzero()
    if len(needless):
        row, block = needless[0].tolist()
        raise Mismatch(f"{columns} {BLOCK * block} to {BLOCK * block + BLOCK - 1} were loaded for the tile of {rows} "
                       f"that begins at {row // tile * tile}, and it needs none near them ({len(needless)} of "
                       f"{loaded.numel()} pairs of a row and a block are needless; {len(seen)} {rows}, "
                       f"{seen.shape[1]} {columns})")
