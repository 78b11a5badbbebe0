"""Lesson 06, flash attention: the exact result of softmax attention, without ever writing its scores to memory.

Shapes: `H` query heads, `KH` key/value heads, `D` head dim; `Nq` queries and `Nk` keys, packed sequence after sequence.
"""
import math

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

LOG2_E = math.log2(math.e)
LN_2 = tl.constexpr(math.log(2))
FAR = tl.constexpr(1 << 30)  # farther than any key is from any query


@triton.jit
def tiles_seen(first, last, low, high, n, TILE: tl.constexpr):
    """Row x sees the columns from x + low up to, but without, x + high, as far as they lie in 0 ... n - 1.

    Returns begin, full_begin, full_end, end: the rows first ... last together see columns of [begin, end) only, and
    each of them sees all of [full_begin, full_end). All but `end` are multiples of TILE.
    """
    begin = max(first + low, 0) // TILE * TILE
    full_begin = (max(last + low, 0) + TILE - 1) // TILE * TILE
    full_end = max(min(first + high, n), 0) // TILE * TILE
    end = min(last + high, n)
    return begin, full_begin, full_end, end


@triton.jit
def flash_attention_kernel(q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, cu_seqlens_q_ptr, cu_seqlens_k_ptr, scale_log2,
                           q_row, q_head, k_row, k_head, v_row, v_head, group,
                           CAUSAL: tl.constexpr, WINDOW: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr,
                           Q_TILE: tl.constexpr, K_TILE: tl.constexpr):
    """One program: a tile of queries of one head of one sequence, against all keys that they see."""
    head, sequence = tl.program_id(0), tl.program_id(1)
    first = (tl.num_programs(2) - 1 - tl.program_id(2)) * Q_TILE  # the last queries, which see most, begin first
    q_start, k_start = tl.load(cu_seqlens_q_ptr + sequence), tl.load(cu_seqlens_k_ptr + sequence)
    nq = tl.load(cu_seqlens_q_ptr + sequence + 1) - q_start
    nk = tl.load(cu_seqlens_k_ptr + sequence + 1) - k_start
    if first >= nq:
        return

    dims, queries = tl.arange(0, D_PAD), first + tl.arange(0, Q_TILE)
    rows = q_start.to(tl.int64) + queries  # a packed batch may hold more than 2^31 numbers
    q_there = (queries < nq)[:, None] & (dims < D)[None, :]
    q = tl.load(q_ptr + rows[:, None] * q_row + head * q_head + dims[None, :], mask=q_there, other=0.0)
    k_ptr += k_start.to(tl.int64) * k_row + head // group * k_head
    v_ptr += k_start.to(tl.int64) * v_row + head // group * v_head

    shift = nk - nq  # the last query sees the last key
    high = shift + 1 if CAUSAL else FAR
    low = shift - WINDOW + 1 if WINDOW else -FAR
    begin, full_begin, full_end, end = tiles_seen(first, min(first + Q_TILE, nq) - 1, low, high, nk, K_TILE)

    acc = tl.zeros([Q_TILE, D_PAD], tl.float32)
    row_sum = tl.zeros([Q_TILE], tl.float32)
    row_max = tl.full([Q_TILE], -1e30, tl.float32)  # finite: a row that sees no key shall get 0, not NaN
    # 0: tiles that the window cuts; 1: tiles that all queries see whole; 2: the diagonal and the tail.
    for part in tl.static_range(0 if WINDOW else 1, 3):
        if part == 0:
            from_key, to_key = begin, min(full_begin, end)
        elif part == 1:
            from_key, to_key = full_begin, full_end
        else:
            from_key, to_key = max(full_begin, full_end), end
        for start in range(from_key, to_key, K_TILE):
            keys = start + tl.arange(0, K_TILE)
            k_ptrs = k_ptr + keys[:, None] * k_row + dims[None, :]
            v_ptrs = v_ptr + keys[:, None] * v_row + dims[None, :]
            if part != 1 or D < D_PAD:
                there = (keys < nk)[:, None] & (dims < D)[None, :]
                k, v = tl.load(k_ptrs, mask=there, other=0.0), tl.load(v_ptrs, mask=there, other=0.0)
            else:
                k, v = tl.load(k_ptrs), tl.load(v_ptrs)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee")
            if part != 1:
                distance = keys[None, :] - queries[:, None]
                seen = (distance >= low) & (distance < high) & (keys < nk)[None, :]
                scores = tl.where(seen, scores, float("-inf"))
            new_max = tl.maximum(row_max, tl.max(scores, 1) * scale_log2)
            p = tl.math.exp2(scores * scale_log2 - new_max[:, None])
            rescale = tl.math.exp2(row_max - new_max)
            row_sum = row_sum * rescale + tl.sum(p, 1)
            acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")
            row_max = new_max

    sees_any = row_sum > 0
    row_sum = tl.where(sees_any, row_sum, 1.0)
    lse = tl.where(sees_any, row_max * LN_2 + tl.log(row_sum), float("-inf"))
    heads = tl.num_programs(0)
    out_ptrs = out_ptr + (rows[:, None] * heads + head) * D + dims[None, :]
    tl.store(out_ptrs, (acc / row_sum[:, None]).to(out_ptr.dtype.element_ty), mask=q_there)
    tl.store(lse_ptr + rows * heads + head, lse, mask=queries < nq)


def flash_attention(q: Float[Tensor, "Nq H D"], k: Float[Tensor, "Nk KH D"], v: Float[Tensor, "Nk KH D"],
                    cu_seqlens_q: Int[Tensor, "batch+1"], cu_seqlens_k: Int[Tensor, "batch+1"], max_seqlen_q: int,
                    causal: bool, window: int | None = None, scale: float | None = None
                    ) -> tuple[Float[Tensor, "Nq H D"], Float[Tensor, "Nq H"]]:
    nq, heads, head_dim = q.shape
    out = torch.empty(nq, heads, head_dim, dtype=q.dtype, device=q.device)
    lse = torch.empty(nq, heads, dtype=torch.float32, device=q.device)
    config = tiles(head_dim, q.dtype, q.device)
    grid = (heads, len(cu_seqlens_q) - 1, triton.cdiv(max_seqlen_q, config["Q_TILE"]))
    flash_attention_kernel[grid](
        q, k, v, out, lse, cu_seqlens_q, cu_seqlens_k, (head_dim**-0.5 if scale is None else scale) * LOG2_E,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1), heads // k.shape[1],
        CAUSAL=causal, WINDOW=window or 0, D=head_dim, D_PAD=triton.next_power_of_2(head_dim), **config)
    return out, lse


def tiles(head_dim: int, dtype: torch.dtype, device: torch.device) -> dict[str, int]:
    """How many queries and keys a tile has, and, for a GPU, with how many warps and stages it is compiled."""
    if device.type == "cpu":
        return {"Q_TILE": 32, "K_TILE": 32}
    if dtype == torch.float32:
        return {"Q_TILE": 32, "K_TILE": 32, "num_warps": 4, "num_stages": 1}
    if head_dim > 64:
        return {"Q_TILE": 128, "K_TILE": 128, "num_warps": 8, "num_stages": 3}
    return {"Q_TILE": 128, "K_TILE": 64, "num_warps": 4, "num_stages": 3}
