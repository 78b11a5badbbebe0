"""Lesson 06, flash attention: softmax attention, exact, whose scores are never written to memory.

Shapes: `Nq` queries and `Nk` keys, `H` query heads, `KH` key/value heads (`H` is a multiple of `KH`, and query head h
reads key/value head h // (H // KH)), `D` head dim. `lse` is the natural logarithm of the sum of exp(scores) of a row.
"""
import math
from collections.abc import Callable

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

LOG2_E = math.log2(math.e)  # exp(x) = exp2(x * LOG2_E), and exp2 is what a GPU has an instruction for
LN_2 = tl.constexpr(math.log(2))  # for kernels: on a GPU they see a module's numbers only as constexpr


def tiles(head_dim: int, dtype: torch.dtype, device: torch.device) -> dict[str, int]:
    """Given: how many queries and keys a tile has; for a GPU also with how many warps and stages it is compiled."""
    if device.type == "cpu":
        if dtype == torch.bfloat16:
            raise TypeError("Triton's interpreter multiplies bfloat16 wrongly: use float32 or float16 on a CPU.")
        return {"Q_TILE": 32, "K_TILE": 32}
    if dtype == torch.float32:
        return {"Q_TILE": 32, "K_TILE": 32, "num_warps": 4, "num_stages": 1}
    config = {"Q_TILE": 64, "K_TILE": 64, "num_warps": 4, "num_stages": 3}  # what suits an H100
    if head_dim <= 64:
        config["maxnreg"] = 128  # registers of a thread, so that a multiprocessor has room for four programs
    return config


def backward_tiles(head_dim: int, dtype: torch.dtype, device: torch.device) -> dict[str, int]:
    """Given: the same for the kernels of the backward pass, which keep more in registers and in shared memory."""
    if device.type == "cpu" or dtype == torch.float32:
        return tiles(head_dim, dtype, device)
    return {"Q_TILE": 64, "K_TILE": 64, "num_warps": 4, "num_stages": 3 if head_dim <= 64 else 2}


def describe(x: Float[Tensor, "N heads D"], rows: int) -> TensorDescriptor:
    """Given: where `x` lies, for a GPU's copy engine, which fetches tiles of `rows` rows of one head.

    `desc.load([row, head, 0])` in a kernel gives (rows, 1, D_PAD), with 0 where `x` ends. The engine wants all rows and
    heads to begin at multiples of 16 bytes, and something to be there: else it gets a copy that is so.
    """
    if len(x) == 0:
        x = x.new_zeros(1, *x.shape[1:])
    begins = [x.data_ptr(), *(stride * x.element_size() for stride in x.stride()[:2])]
    if any(begin % 16 or begin == 0 for begin in begins):
        x = x.clone(memory_format=torch.contiguous_format)
    return TensorDescriptor.from_tensor(x, [rows, 1, triton.next_power_of_2(x.shape[2])])


def attention_bytes(nq: int, nk: int, heads: int, kv_heads: int, head_dim: int, element_bytes: int,
                    q_tile: int) -> tuple[int, int]:
    """06.1 The bytes that attention reads and writes: computed the plain way, and tile by tile.

    The plain way takes three kernels: scores = q k^T, then p = softmax(scores), then out = p v. Each reads each of its
    inputs once and writes its output once. `scores` and `p` have `heads` x nq x nk elements.

    Tile by tile, there is one program for every `q_tile` queries (the last ones may be fewer) of each query head. It
    reads its queries once and all keys and values of its key/value head once, and writes its rows of `out`, and one
    float32 of `lse` for each row. No program finds anything in a cache.

    All elements but those of `lse` take `element_bytes`; no mask.

    Returns:
        (plain, tiled), exact, as plain `int`s.
    """
    # BEGIN SOLUTION
    q = out = nq * heads * head_dim
    k = v = nk * kv_heads * head_dim
    scores = p = heads * nq * nk
    plain = (q + k + scores) + (scores + p) + (p + v + out)
    programs = heads * -(-nq // q_tile)
    tiled = q + programs * 2 * nk * head_dim + out
    return plain * element_bytes, tiled * element_bytes + 4 * nq * heads
    # END SOLUTION


def merge(out_a: Float[Tensor, "N H D"], lse_a: Float[Tensor, "N H"], out_b: Float[Tensor, "N H D"],
          lse_b: Float[Tensor, "N H"]) -> tuple[Float[Tensor, "N H D"], Float[Tensor, "N H"]]:
    """06.2 The attention over two sets of keys together, from the attention over each.

    Args:
        out_a, lse_a: N queries' attention over the first set of keys; float32. `lse` is float32 too and may have any
            size, far beyond what exp can take. Where a query saw no key, `out` is 0 and `lse` is -inf.
        out_b, lse_b: the same queries' over a second set that shares no key with the first.

    Returns:
        (out, lse) over both sets: again 0 and -inf where a query saw no key of either. The arguments stay unchanged.
    """
    # BEGIN SOLUTION
    lse = torch.logaddexp(lse_a, lse_b)
    known = lse.masked_fill(lse == -torch.inf, 0)  # -inf - -inf would be NaN
    return (lse_a - known).exp()[..., None] * out_a + (lse_b - known).exp()[..., None] * out_b, lse
    # END SOLUTION


ScoreMod = Callable[[Float[Tensor, "H q k"], Int[Tensor, "q"], Int[Tensor, "k"]], Float[Tensor, "H q k"]]


def tiled_attention(q: Float[Tensor, "Nq H D"], k: Float[Tensor, "Nk KH D"], v: Float[Tensor, "Nk KH D"],
                    score_mod: ScoreMod | None = None, scale: float | None = None, q_tile: int = 32, k_tile: int = 32,
                    ) -> tuple[Float[Tensor, "Nq H D"], Float[Tensor, "Nq H"]]:
    """06.3 Attention in torch, one tile of scores at a time.

    Args:
        q, k, v: one sequence, float32 or half precision. Computed is in float32.
        score_mod: called once for each tile as `score_mod(scores, queries, keys)` with the scaled float32 scores of all
            heads, (H, at most q_tile, at most k_tile), and the numbers of the tile's queries, 0 ... Nq - 1, and keys,
            0 ... Nk - 1. What it returns takes the scores' place; -inf hides a key from a query.
        scale: factor of the scores, 1 / sqrt(D) by default.
        q_tile, k_tile: how many queries and keys a tile has; the last of a row or column may have fewer.

    Returns:
        out in q's dtype, and `lse` in float32. A query that sees no key gets 0 and -inf.

    Memory: at no time are there more than 8 * H * (max(Nq, Nk) * D + q_tile * k_tile) numbers beside q, k and v.
    """
    # BEGIN SOLUTION
    nq, heads, head_dim = q.shape
    group = heads // k.shape[1]
    scale = head_dim**-0.5 if scale is None else scale
    out, lse = torch.empty_like(q), torch.empty(nq, heads, device=q.device)
    for queries in torch.arange(nq, device=q.device).split(q_tile):
        q_rows = q[queries].float().transpose(0, 1)  # (H, q_tile, D)
        acc = torch.zeros_like(q_rows)
        row_sum = torch.zeros(heads, len(queries), device=q.device)
        row_max = torch.full_like(row_sum, -1e30)  # finite: a row that sees no key shall get 0, not NaN
        for keys in torch.arange(len(k), device=q.device).split(k_tile):
            k_rows, v_rows = (x[keys].float().transpose(0, 1).repeat_interleave(group, 0) for x in (k, v))
            scores = q_rows @ k_rows.mT * scale
            if score_mod is not None:
                scores = score_mod(scores, queries, keys)
            new_max = torch.maximum(row_max, scores.amax(-1))
            p = (scores - new_max[..., None]).exp()
            rescale = (row_max - new_max).exp()
            row_sum = row_sum * rescale + p.sum(-1)
            acc = acc * rescale[..., None] + p @ v_rows
            row_max = new_max
        sees_any = row_sum > 0
        divisor = row_sum.where(sees_any, 1.0)
        out[queries] = (acc / divisor[..., None]).transpose(0, 1).to(q.dtype)
        lse[queries] = (row_max + divisor.log()).where(sees_any, -torch.inf).T
    return out, lse
    # END SOLUTION


# BEGIN SOLUTION
FAR = tl.constexpr(1 << 30)  # farther than any key is from any query


@triton.jit
def _sequence(cu_seqlens_ptr, index):
    """Where a sequence of the packed batch begins, in 64 bits since a batch may hold 2^31 numbers; its length."""
    start = tl.load(cu_seqlens_ptr + index)
    return start.to(tl.int64), tl.load(cu_seqlens_ptr + index + 1) - start


@triton.jit
def _sight(nq, nk, window, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr):
    """(low, high): query i sees key j if low <= j - i < high."""
    shift = nk - nq  # the last query sees the last key
    high = shift + 1 if CAUSAL else FAR
    low = shift - window + 1 if WINDOWED else -FAR
    return low, high


@triton.jit
def _tiles_seen(part: tl.constexpr, first, last, low, high, n, TILE: tl.constexpr):
    """From where to where a tile of rows, first ... last, meets its columns, of which there are n.

    Row x sees the columns from x + low up to, but without, x + high. Part 1 are the tiles that every row sees whole:
    no mask is needed there. Part 0, before them, is cut by `low`; part 2, after them, by `high` or by n.
    """
    full_begin = (max(last + low, 0) + TILE - 1) // TILE * TILE
    full_end = max(min(first + high, n), 0) // TILE * TILE
    end = min(last + high, n)
    if part == 0:
        columns = max(first + low, 0) // TILE * TILE, min(full_begin, end)
    elif part == 1:
        columns = full_begin, full_end
    else:
        columns = max(full_begin, full_end), end
    return columns


@triton.jit
def _load_tile(desc, start, head):
    """(rows, D_PAD) of one head, from row `start` on. Beyond a sequence's end these are the next one's, be they NaN."""
    rows: tl.constexpr = desc.block_shape[0]
    return desc.load([start.to(tl.int32), head, 0]).reshape(rows, desc.block_shape[2])


@triton.jit
def _load_rows(ptr, rows, row_stride, n, D: tl.constexpr, D_PAD: tl.constexpr):
    """(rows, D_PAD) by pointers, for tiles that stay: the compiler leaves these in shared memory, not in registers."""
    dims = tl.arange(0, D_PAD)
    ptrs = ptr + rows[:, None] * row_stride + dims[None, :]
    return tl.load(ptrs, mask=(rows < n)[:, None] & (dims < D)[None, :], other=0.0)


@triton.jit
def _store_tile(ptr, tile, rows, row_stride, n, D: tl.constexpr, D_PAD: tl.constexpr):
    """Writes those rows and columns of `tile` that exist."""
    dims = tl.arange(0, D_PAD)
    ptrs = ptr + rows[:, None] * row_stride + dims[None, :]
    tl.store(ptrs, tile.to(ptr.dtype.element_ty), mask=(rows < n)[:, None] & (dims < D)[None, :])


@triton.jit
def _row(head, sequence, start, row_length):
    """Where a head's numbers of one sequence begin in (H, row_length): at a multiple of 16 bytes; none overlap."""
    return head * row_length + (start // 4 + sequence) * 4


@triton.jit
def _hide(scores, distance, low, high, there):
    """-inf in place of the scores of keys that a query does not see; `distance` is key - query."""
    return tl.where((distance >= low) & (distance < high) & there, scores, float("-inf"))


@triton.jit
def _rows_there(tile, there):
    """0 in place of the rows that belong to another sequence: their weight is 0, but 0 times NaN is NaN."""
    return tl.where(there[:, None], tile, tl.zeros_like(tile))
# END SOLUTION


@triton.jit
def flash_attention_kernel(q_desc, k_desc, v_desc, out_ptr, lse_ptr, cu_seqlens_q_ptr, cu_seqlens_k_ptr, scale_log2,
                           group, window, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, D: tl.constexpr,
                           D_PAD: tl.constexpr, Q_TILE: tl.constexpr, K_TILE: tl.constexpr):
    """06.4 One program: a tile of queries of one head of one sequence, against all keys that they see.

    `scale_log2` is scale * log2(e), so that exp2 gives what exp gives of the scaled scores. The `desc` come from
    `describe`, `group` is H // KH, WINDOWED says whether there is a `window`, and D_PAD is D or the next power of two.
    For 06.4 alone there is one sequence and no window. You may change the arguments as you like.
    """
    # BEGIN SOLUTION
    head, heads, sequence = tl.program_id(1), tl.num_programs(1), tl.program_id(2)
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * Q_TILE  # the last queries, which see most, begin first
    q_start, nq = _sequence(cu_seqlens_q_ptr, sequence)
    k_start, nk = _sequence(cu_seqlens_k_ptr, sequence)
    if first >= nq:
        return
    kv_head, queries = head // group, first + tl.arange(0, Q_TILE)
    q = _load_tile(q_desc, q_start + first, head)

    acc = tl.zeros([Q_TILE, D_PAD], tl.float32)
    row_sum = tl.zeros([Q_TILE], tl.float32)
    row_max = tl.full([Q_TILE], -1e30, tl.float32)  # finite: a row that sees no key shall get 0, not NaN
    low, high = _sight(nq, nk, window, CAUSAL, WINDOWED)
    for part in tl.static_range(0 if WINDOWED else 1, 3):  # cut by the window, seen whole, cut by the diagonal or nk
        from_key, to_key = _tiles_seen(part, first, min(first + Q_TILE, nq) - 1, low, high, nk, K_TILE)
        for start in range(from_key, to_key, K_TILE):
            k = _load_tile(k_desc, k_start + start, kv_head)
            v = _load_tile(v_desc, k_start + start, kv_head)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee")
            if part != 1:
                keys = start + tl.arange(0, K_TILE)
                v = _rows_there(v, keys < nk)
                scores = _hide(scores, keys[None, :] - queries[:, None], low, high, (keys < nk)[None, :])
            new_max = tl.maximum(row_max, tl.max(scores, 1) * scale_log2)
            p = tl.math.exp2(scores * scale_log2 - new_max[:, None])  # one fused multiply-add, then exp2
            rescale = tl.math.exp2(row_max - new_max)
            row_sum = row_sum * rescale + tl.sum(p, 1)
            acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")
            row_max = new_max

    sees_any = row_sum > 0
    row_sum = tl.where(sees_any, row_sum, 1.0)
    lse = tl.where(sees_any, row_max * LN_2 + tl.log(row_sum), float("-inf"))
    _store_tile(out_ptr + (q_start * heads + head) * D, acc / row_sum[:, None], queries, heads * D, nq, D, D_PAD)
    tl.store(lse_ptr + (q_start + queries) * heads + head, lse, mask=queries < nq)
    # END SOLUTION


def attention(q: Float[Tensor, "Nq H D"], k: Float[Tensor, "Nk KH D"], v: Float[Tensor, "Nk KH D"],
              causal: bool = False, scale: float | None = None,
              ) -> tuple[Float[Tensor, "Nq H D"], Float[Tensor, "Nq H"]]:
    """06.4 Attention of one sequence, in one launch of `flash_attention_kernel`.

    Args:
        q, k, v: float32, float16 or (on a GPU) bfloat16. Nq, Nk >= 1; D from 16 to 128, a multiple of 8. The numbers of
            a head lie side by side (`stride(2)` is 1); all other strides may be any. Nothing outside the tensors is
            written, and nothing read there may reach the result.
        causal: query i sees the keys j <= i + Nk - Nq, so that the last query sees the last key.
        scale: factor of the scores, > 0; 1 / sqrt(D) by default.

    Returns:
        out in q's dtype, and the natural `lse` in float32. A query that sees no key gets 0 and -inf.

    Precision: both products take their factors in the dtype of q, k and v; scores, sums and `acc` are float32.
    Cost: one launch. The function itself computes nothing from q, k and v, and allocates at most twice as many numbers
    in all as q, k, v and out hold.
    """
    # BEGIN SOLUTION
    cu_seqlens_q, cu_seqlens_k = (torch.tensor([0, len(x)], dtype=torch.int32, device=x.device) for x in (q, k))
    return flash_attention(q, k, v, cu_seqlens_q, cu_seqlens_k, len(q), causal, scale=scale)
    # END SOLUTION


def flash_attention(q: Float[Tensor, "Nq H D"], k: Float[Tensor, "Nk KH D"], v: Float[Tensor, "Nk KH D"],
                    cu_seqlens_q: Int[Tensor, "batch+1"], cu_seqlens_k: Int[Tensor, "batch+1"], max_seqlen_q: int,
                    causal: bool, window: int | None = None, scale: float | None = None,
                    ) -> tuple[Float[Tensor, "Nq H D"], Float[Tensor, "Nq H"]]:
    """06.5 Attention of a packed batch: each sequence's queries meet that sequence's keys only. One launch for all.

    Args:
        q, k, v: as in `attention`, with the tokens of all sequences one after the other.
        cu_seqlens_q, cu_seqlens_k: int32 on the device of q. Sequence s has the queries cu_seqlens_q[s] up to, but
            without, cu_seqlens_q[s + 1], and likewise its keys. A sequence may lack queries, keys or both.
        max_seqlen_q: the largest number of queries that a sequence has, or more.
        causal: within a sequence of nq queries and nk keys, query i sees the keys j <= i + nk - nq.
        window: with `causal` only: query i sees none but the last `window` >= 1 of these keys. None: all of them.
        scale: as in `attention`.

    Returns:
        (out, lse), as in `attention`.

    Nothing of another sequence reaches the result, be it NaN.
    Cost, besides that of `attention`: a program, whose tile of queries begins at a multiple of Q_TILE of its sequence,
    loads no tile of keys and values in which none of its queries sees a key. `tiles` says how large a tile may be.
    """
    # BEGIN SOLUTION
    nq, heads, head_dim = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(nq, heads, dtype=torch.float32, device=q.device)
    config = tiles(head_dim, q.dtype, q.device)
    # Tiles of one head side by side: they read the same keys and values, which the L2 cache then has.
    grid = (triton.cdiv(max_seqlen_q, config["Q_TILE"]), heads, len(cu_seqlens_q) - 1)
    flash_attention_kernel[grid](
        describe(q, config["Q_TILE"]), describe(k, config["K_TILE"]), describe(v, config["K_TILE"]), out, lse,
        cu_seqlens_q, cu_seqlens_k, (head_dim**-0.5 if scale is None else scale) * LOG2_E, heads // k.shape[1],
        window or 0, CAUSAL=causal, WINDOWED=window is not None, D=head_dim, D_PAD=triton.next_power_of_2(head_dim),
        **config)
    return out, lse
    # END SOLUTION


@triton.jit
def dk_dv_kernel(q_desc, d_out_desc, lse_log2_desc, delta_desc, k_ptr, v_ptr, dk_ptr, dv_ptr, cu_seqlens_q_ptr,
                 cu_seqlens_k_ptr, k_row, k_head, v_row, v_head, scale, scale_log2, group, window, row_length,
                 CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr,
                 Q_TILE: tl.constexpr, K_TILE: tl.constexpr):
    """06.6 One program: a tile of keys of one key/value head, against all queries of its group that see them.

    `lse_log2` and `delta` come from `dq_kernel`: (H, row_length) float32, where the queries of sequence s begin in
    column (cu_seqlens_q[s] // 4 + s) * 4, since a descriptor fetches rows from multiples of 16 bytes on.
    You may change the arguments of both kernels, and which of them computes what, as you like.
    """
    # BEGIN SOLUTION
    kv_head, kv_heads, sequence = tl.program_id(1), tl.num_programs(1), tl.program_id(2)
    first = tl.program_id(0) * K_TILE  # the first keys, which are seen most, begin first
    q_start, nq = _sequence(cu_seqlens_q_ptr, sequence)
    k_start, nk = _sequence(cu_seqlens_k_ptr, sequence)
    if first >= nk:
        return
    keys = first + tl.arange(0, K_TILE)
    k = _load_rows(k_ptr + k_start * k_row + kv_head * k_head, keys, k_row, nk, D, D_PAD)
    v = _load_rows(v_ptr + k_start * v_row + kv_head * v_head, keys, v_row, nk, D, D_PAD)

    dk, dv = tl.zeros([K_TILE, D_PAD], tl.float32), tl.zeros([K_TILE, D_PAD], tl.float32)
    low, high = _sight(nq, nk, window, CAUSAL, WINDOWED)
    for head in range(kv_head * group, (kv_head + 1) * group):
        row = _row(head, sequence, q_start, row_length)
        for part in tl.static_range(0 if CAUSAL else 1, 3):
            # low <= j - i < high: key j is seen by the queries from j - high + 1 up to j - low
            from_query, to_query = _tiles_seen(part, first, min(first + K_TILE, nk) - 1, 1 - high, 1 - low, nq, Q_TILE)
            for start in range(from_query, to_query, Q_TILE):
                q = _load_tile(q_desc, q_start + start, head)
                d_out = _load_tile(d_out_desc, q_start + start, head)
                lse_log2 = lse_log2_desc.load([(row + start).to(tl.int32)])
                delta = delta_desc.load([(row + start).to(tl.int32)])
                if part != 1:
                    queries = start + tl.arange(0, Q_TILE)
                    there = queries < nq
                    q, d_out = _rows_there(q, there), _rows_there(d_out, there)
                    lse_log2, delta = tl.where(there, lse_log2, float("inf")), tl.where(there, delta, 0.0)
                scores = tl.dot(k, tl.trans(q), input_precision="ieee")  # (K_TILE, Q_TILE)
                if part != 1:
                    scores = _hide(scores, keys[:, None] - queries[None, :], low, high, there[None, :])
                p = tl.math.exp2(scores * scale_log2 - lse_log2[None, :])
                dv = tl.dot(p.to(d_out.dtype), d_out, dv, input_precision="ieee")
                dp = tl.dot(v, tl.trans(d_out), input_precision="ieee")
                ds = p * (dp - delta[None, :])
                dk = tl.dot(ds.to(q.dtype), q, dk, input_precision="ieee")
    kv = (k_start * kv_heads + kv_head) * D
    _store_tile(dk_ptr + kv, dk * scale, keys, kv_heads * D, nk, D, D_PAD)
    _store_tile(dv_ptr + kv, dv, keys, kv_heads * D, nk, D, D_PAD)
    # END SOLUTION


@triton.jit
def dq_kernel(q_desc, k_desc, v_desc, d_out_desc, out_desc, lse_ptr, dq_ptr, lse_log2_ptr, delta_ptr, cu_seqlens_q_ptr,
              cu_seqlens_k_ptr, scale, scale_log2, group, window, row_length,
              CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr,
              Q_TILE: tl.constexpr, K_TILE: tl.constexpr):
    """06.6 One program: a tile of queries of one head, against all keys that they see, as in the forward pass.

    It is launched first, and leaves what `dk_dv_kernel` needs of each query: `lse_log2` and `delta`.
    """
    # BEGIN SOLUTION
    head, heads, sequence = tl.program_id(1), tl.num_programs(1), tl.program_id(2)
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * Q_TILE
    q_start, nq = _sequence(cu_seqlens_q_ptr, sequence)
    k_start, nk = _sequence(cu_seqlens_k_ptr, sequence)
    if first >= nq:
        return
    kv_head, queries = head // group, first + tl.arange(0, Q_TILE)
    q = _load_tile(q_desc, q_start + first, head)
    d_out = _load_tile(d_out_desc, q_start + first, head)
    lse = tl.load(lse_ptr + (q_start + queries) * heads + head, mask=queries < nq, other=float("-inf"))
    lse_log2 = tl.where(lse == float("-inf"), float("inf"), lse / LN_2)  # exp2(score - inf) = 0
    delta = tl.sum(d_out.to(tl.float32) * _load_tile(out_desc, q_start + first, head).to(tl.float32), 1)
    row = _row(head, sequence, q_start, row_length)
    tl.store(lse_log2_ptr + row + queries, lse_log2, mask=queries < nq)
    tl.store(delta_ptr + row + queries, delta, mask=queries < nq)

    dq = tl.zeros([Q_TILE, D_PAD], tl.float32)
    low, high = _sight(nq, nk, window, CAUSAL, WINDOWED)
    for part in tl.static_range(0 if WINDOWED else 1, 3):
        from_key, to_key = _tiles_seen(part, first, min(first + Q_TILE, nq) - 1, low, high, nk, K_TILE)
        for start in range(from_key, to_key, K_TILE):
            k = _load_tile(k_desc, k_start + start, kv_head)
            v = _load_tile(v_desc, k_start + start, kv_head)
            if part != 1:
                keys = start + tl.arange(0, K_TILE)
                k, v = _rows_there(k, keys < nk), _rows_there(v, keys < nk)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee")
            if part != 1:
                scores = _hide(scores, keys[None, :] - queries[:, None], low, high, (keys < nk)[None, :])
            p = tl.math.exp2(scores * scale_log2 - lse_log2[:, None])
            dp = tl.dot(d_out, tl.trans(v), input_precision="ieee")
            ds = p * (dp - delta[:, None])
            dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")
    _store_tile(dq_ptr + (q_start * heads + head) * D, dq * scale, queries, heads * D, nq, D, D_PAD)
    # END SOLUTION


def flash_attention_backward(d_out: Float[Tensor, "Nq H D"], q: Float[Tensor, "Nq H D"], k: Float[Tensor, "Nk KH D"],
                             v: Float[Tensor, "Nk KH D"], out: Float[Tensor, "Nq H D"], lse: Float[Tensor, "Nq H"],
                             cu_seqlens_q: Int[Tensor, "batch+1"], cu_seqlens_k: Int[Tensor, "batch+1"],
                             max_seqlen_q: int, max_seqlen_k: int, causal: bool, window: int | None = None,
                             scale: float | None = None,
                             ) -> tuple[Float[Tensor, "Nq H D"], Float[Tensor, "Nk KH D"], Float[Tensor, "Nk KH D"]]:
    """06.6 The gradients of q, k and v, given that of `out`; no score of the forward pass was kept.

    Args:
        d_out: the gradient of a loss with respect to `out`, in q's dtype.
        out, lse: what the forward pass gave. They may stem from more keys than are given here: where the keys are
            spread over several calls, each call gets the `out` and `lse` of all keys, and gives its share of the
            gradients. So the probabilities are exp(scores - lse), and nothing else.
        max_seqlen_k: the largest number of keys that a sequence has, or more.
        q, k, v and the others: as in `flash_attention`; strides may be any here too.

    Returns:
        (dq, dk, dv) in the dtypes and shapes of q, k and v. Query heads that share a key/value head add up in dk and
        dv. Queries that see no key, and keys that no query sees, get 0.

    Precision and cost as in `flash_attention`, but in two launches, one of each kernel, and with at most three times as
    many numbers allocated in all as q, k, v and out hold.
    """
    # BEGIN SOLUTION
    heads, kv_heads, head_dim = q.shape[1], k.shape[1], q.shape[2]
    scale = head_dim**-0.5 if scale is None else scale
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    batch, D_PAD = len(cu_seqlens_q) - 1, triton.next_power_of_2(head_dim)
    row_length = triton.cdiv(len(q), 4) * 4 + 4 * batch
    lse_log2, delta = torch.empty(2, heads * row_length, device=q.device)
    common = {"scale": scale, "scale_log2": scale * LOG2_E, "group": heads // kv_heads, "window": window or 0,
              "row_length": row_length, "CAUSAL": causal, "WINDOWED": window is not None, "D": head_dim, "D_PAD": D_PAD}
    config = backward_tiles(head_dim, q.dtype, q.device)
    Q_TILE, K_TILE = config["Q_TILE"], config["K_TILE"]
    q_desc, d_out_desc, out_desc = (describe(x, Q_TILE) for x in (q, d_out, out))
    dq_kernel[triton.cdiv(max_seqlen_q, Q_TILE), heads, batch](
        q_desc, describe(k, K_TILE), describe(v, K_TILE), d_out_desc, out_desc, lse.contiguous(), dq, lse_log2, delta,
        cu_seqlens_q, cu_seqlens_k, **common, **config)
    rows = (TensorDescriptor.from_tensor(x, [Q_TILE]) for x in (lse_log2, delta))
    dk_dv_kernel[triton.cdiv(max_seqlen_k, K_TILE), kv_heads, batch](
        q_desc, d_out_desc, *rows, k, v, dk, dv, cu_seqlens_q, cu_seqlens_k, k.stride(0), k.stride(1), v.stride(0),
        v.stride(1), **common, **config)
    return dq, dk, dv
    # END SOLUTION
