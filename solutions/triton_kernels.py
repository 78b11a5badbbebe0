"""Lesson 05, Triton kernels: the row kernels of a decoder, each of which moves every number once.

Shapes: `N` rows (tokens), `C` columns; `F` width of the feed-forward part; `heads` query and key heads together; `D`
head dim, `half` = D / 2.

Rows of a matrix need not be adjacent: x.stride(0) may be larger than C, as when x is a slice of a wider tensor. Within
a row elements are adjacent: x.stride(-1) is 1. All tensors of a call are on one device. Activations, weights and `out`
share one dtype, float32, float16 or (on a GPU) bfloat16, unless a docstring says otherwise; kernels compute in float32
and round once, where they store. Everything is written into tensors that the caller owns, and nothing outside of their
elements may be written or read, the places between two rows included.
"""
import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

MAX_BLOCK = 8192  # elements of the largest block of a kernel that takes a row in pieces: a power of two


def warps(block: int) -> int:
    """Warps (of 32 threads) for a program that works on `block` elements: 16 elements for each thread.

    In a 16-bit dtype those are two loads of 16 bytes, the widest there are. Pass it as `num_warps=` at the launch; the
    interpreter ignores it. Given: nothing to write here.
    """
    return min(max(block // 512, 1), 32)


def predict_seconds(
    reads: list[Tensor], writes: list[Tensor], bytes_per_second: float, launch_seconds: float
) -> float:
    """05.1 The seconds that a kernel needs at least: its bytes over the bandwidth of the memory.

    Args:
        reads: the tensors that it reads, each element once. Of a slice of a larger tensor its own elements are read,
            and no others. Tensors may lie on the `meta` device, where they have a shape and no memory.
        writes: the tensors that it writes, each element once. What is updated in place stands in both lists, and
            crosses the bus twice.
        bytes_per_second: read and written together, as a copy has it.
        launch_seconds: what a kernel takes even if it moves nothing.

    Returns:
        The longer of both times, as a plain `float`: as if moving and launching overlapped entirely.
    """
    # BEGIN SOLUTION
    moved = sum(tensor.numel() * tensor.element_size() for tensor in [*reads, *writes])
    return max(moved / bytes_per_second, launch_seconds)
    # END SOLUTION


@triton.jit
def row_mean_square_kernel(x_ptr, out_ptr, x_stride, columns, BLOCK: tl.constexpr):
    """05.2 Program n reduces row n, which lies in one block, to one number."""
    # BEGIN SOLUTION
    row = tl.program_id(0).to(tl.int64)  # 64 bits: row * stride passes 2**31 in a large enough tensor
    offsets = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * x_stride + offsets, mask=offsets < columns, other=0.0).to(tl.float32)
    tl.store(out_ptr + row, tl.sum(x * x) / columns)
    # END SOLUTION


def row_mean_square(x: Float[Tensor, "N C"], out: Float[Tensor, "N"]) -> None:
    """05.2 Write the mean of the squares of each row of x into `out`.

    Args:
        x: N >= 1 rows of 1 <= C <= 65536 columns. It is not changed.
        out: float32 whatever the dtype of x, contiguous.

    One launch of `row_mean_square_kernel`, and each element of x is loaded once.
    """
    # BEGIN SOLUTION
    rows, columns = x.shape
    block = triton.next_power_of_2(columns)
    row_mean_square_kernel[(rows,)](x, out, x.stride(0), columns, BLOCK=block, num_warps=warps(block))
    # END SOLUTION


@triton.jit
def rms_norm_kernel(x_ptr, weight_ptr, out_ptr, x_stride, out_stride, columns, eps, BLOCK: tl.constexpr):
    """05.3 Program n norms row n, which stays in registers between the sum and the product."""
    # BEGIN SOLUTION
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
    inside = offsets < columns
    x = tl.load(x_ptr + row * x_stride + offsets, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x) / columns + eps)
    tl.store(out_ptr + row * out_stride + offsets, x * scale * weight, mask=inside)
    # END SOLUTION


def rms_norm(x: Float[Tensor, "N C"], weight: Float[Tensor, "C"], eps: float, out: Float[Tensor, "N C"]) -> None:
    """05.3 Write the rows of x, each divided by the root of (its mean square + eps), times `weight`, into `out`.

    Args:
        x: N >= 1 rows of 1 <= C <= 65536 columns. It is not changed.
        weight: one factor per column, contiguous.
        eps: stands inside the root.
        out: its rows may lie further apart, or closer, than those of x.

    One launch of `rms_norm_kernel`, and each element of x is loaded once.

    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", equation 4.
    """
    # BEGIN SOLUTION
    rows, columns = x.shape
    block = triton.next_power_of_2(columns)
    rms_norm_kernel[(rows,)](
        x, weight, out, x.stride(0), out.stride(0), columns, eps, BLOCK=block, num_warps=warps(block)
    )
    # END SOLUTION


@triton.jit
def add_rms_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, out_ptr, x_stride, residual_stride, out_stride, columns, eps, BLOCK: tl.constexpr
):
    """05.4 Program n adds row n of x to the residual, and norms the sum while it is still in registers."""
    # BEGIN SOLUTION
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
    inside = offsets < columns
    x = tl.load(x_ptr + row * x_stride + offsets, mask=inside, other=0.0).to(tl.float32)
    at_residual = residual_ptr + row * residual_stride + offsets
    total = x + tl.load(at_residual, mask=inside, other=0.0).to(tl.float32)
    tl.store(at_residual, total, mask=inside)
    weight = tl.load(weight_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(total * total) / columns + eps)
    tl.store(out_ptr + row * out_stride + offsets, total * scale * weight, mask=inside)
    # END SOLUTION


def add_rms_norm(
    x: Float[Tensor, "N C"],
    residual: Float[Tensor, "N C"],
    weight: Float[Tensor, "C"],
    eps: float,
    out: Float[Tensor, "N C"],
) -> None:
    """05.4 Add x to `residual` in place, and write the norm of the sum, as in 05.3, into `out`.

    This is what stands between two parts of a decoder: the output x of one part joins the residual stream, and the next
    part wants the stream normed.

    Args:
        x: N >= 1 rows of 1 <= C <= 65536 columns. It is not changed.
        residual: becomes residual + x, rounded to its dtype.
        weight, eps: as in 05.3.
        out: the norm of the sum, before or after that rounding. x, residual and out may have three row strides.

    One launch of `add_rms_norm_kernel`, and each element of x and of the residual is loaded once.
    """
    # BEGIN SOLUTION
    rows, columns = x.shape
    block = triton.next_power_of_2(columns)
    add_rms_norm_kernel[(rows,)](
        x, residual, weight, out, x.stride(0), residual.stride(0), out.stride(0), columns, eps,
        BLOCK=block, num_warps=warps(block),
    )
    # END SOLUTION


@triton.jit
def silu_and_mul_kernel(gate_up_ptr, out_ptr, gate_up_stride, out_stride, width, BLOCK: tl.constexpr):
    """05.5 Program (n, b) handles block b of row n: its gates, and the `up` values `width` elements further on."""
    # BEGIN SOLUTION
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < width
    at_gate = gate_up_ptr + row * gate_up_stride + offsets
    gate = tl.load(at_gate, mask=inside).to(tl.float32)
    up = tl.load(at_gate + width, mask=inside).to(tl.float32)
    tl.store(out_ptr + row * out_stride + offsets, gate * tl.sigmoid(gate) * up, mask=inside)
    # END SOLUTION


def silu_and_mul(gate_up: Float[Tensor, "N 2*F"], out: Float[Tensor, "N F"]) -> None:
    """05.5 Write silu(gate) * up into `out`, where gate is the first half of each row of `gate_up`, and up the second.

    silu(gate) = gate / (1 + exp(-gate)), finite for gates of several hundred either way. An engine lays the matrices of
    gate and up on top of each other and multiplies once, so the two arrive side by side in one row.

    Args:
        gate_up: N >= 1 rows of 2 F columns, F >= 1 as large as it may be. It is not changed.
        out: its rows may lie further apart, or closer, than those of gate_up.

    One launch of `silu_and_mul_kernel`, each element of gate_up is loaded once, and no block has more than MAX_BLOCK
    elements: a row is cut into as many as it takes.

    Source: Shazeer 2020, "GLU Variants Improve Transformer", equation 6.
    """
    # BEGIN SOLUTION
    rows, width = out.shape
    block = min(triton.next_power_of_2(width), MAX_BLOCK)  # a program has two at a time, of gates and of ups
    silu_and_mul_kernel[(rows, triton.cdiv(width, block))](
        gate_up, out, gate_up.stride(0), out.stride(0), width, BLOCK=block, num_warps=warps(2 * block)
    )
    # END SOLUTION


@triton.jit
def rotate_in_place_kernel(
    qk_ptr, cos_ptr, sin_ptr, token_stride, heads, HALF: tl.constexpr,
    HEADS_BLOCK: tl.constexpr, HALF_BLOCK: tl.constexpr,
):
    """05.6 Program (n, b) turns block b of the heads of token n: tiles of heads by pairs, one of each half."""
    # BEGIN SOLUTION
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS_BLOCK + tl.arange(0, HEADS_BLOCK)[:, None]
    pair = tl.arange(0, HALF_BLOCK)[None, :]
    cos = tl.load(cos_ptr + token * HALF + pair, mask=pair < HALF)
    sin = tl.load(sin_ptr + token * HALF + pair, mask=pair < HALF)
    inside = (head < heads) & (pair < HALF)
    at_first = qk_ptr + token * token_stride + head * (2 * HALF) + pair
    first = tl.load(at_first, mask=inside).to(tl.float32)
    second = tl.load(at_first + HALF, mask=inside).to(tl.float32)
    tl.store(at_first, first * cos - second * sin, mask=inside)
    tl.store(at_first + HALF, second * cos + first * sin, mask=inside)
    # END SOLUTION


def rotate_in_place(
    qk: Float[Tensor, "N heads D"], cos: Float[Tensor, "N half"], sin: Float[Tensor, "N half"]
) -> None:
    """05.6 Turn each pair (qk[n, h, i], qk[n, h, i + D/2]), i < D/2, by the angle of token n and pair i, in place.

    The pair (a, b) becomes (a cos - b sin, b cos + a sin), as in `common/model/llama.py`. An engine multiplies by the
    matrices of queries, keys and values at once, so each token's row holds all its heads: first the queries', then the
    keys', then the values'. `qk` is the front part of such rows. The angles do not depend on the head.

    Args:
        qk: N >= 1 tokens, heads >= 1 of even D <= 1024. A token's heads are adjacent, qk.stride(1) == D; tokens may
            lie further apart, and what lies between them (the values) is not touched.
        cos, sin: float32 whatever the dtype of qk, contiguous.

    One launch of `rotate_in_place_kernel`, each element of qk is loaded once, and no block has more than MAX_BLOCK
    elements, however many heads there are.

    Source: Su et al. 2021, "RoFormer", section 3.4.2.
    """
    # BEGIN SOLUTION
    tokens, heads, head_dim = qk.shape
    half_block = triton.next_power_of_2(head_dim // 2)
    heads_block = min(triton.next_power_of_2(heads), MAX_BLOCK // (2 * half_block))
    rotate_in_place_kernel[(tokens, triton.cdiv(heads, heads_block))](
        qk, cos, sin, qk.stride(0), heads, HALF=head_dim // 2,
        HEADS_BLOCK=heads_block, HALF_BLOCK=half_block, num_warps=warps(2 * heads_block * half_block),
    )
    # END SOLUTION


# BEGIN SOLUTION
# Where a running maximum starts. Were it -inf, a tile of nothing but -inf would give exp(-inf - -inf), which is NaN.
_LOWEST = tl.constexpr(torch.finfo(torch.float32).min)
# END SOLUTION


@triton.jit
def online_softmax_kernel(x_ptr, out_ptr, x_stride, out_stride, columns, TILE: tl.constexpr):
    """05.7 Program n walks over row n twice: once for maximum and sum together, once to write."""
    # BEGIN SOLUTION
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, TILE)
    top = tl.full((), _LOWEST, tl.float32)
    total = tl.full((), 0.0, tl.float32)
    p = tl.zeros([TILE], tl.float32)
    for start in range(0, columns, TILE):
        inside = start + offsets < columns
        x = tl.load(x_ptr + row * x_stride + start + offsets, mask=inside, other=-float("inf")).to(tl.float32)
        new_top = tl.maximum(top, tl.max(x))
        p = tl.exp(x - new_top)
        total = total * tl.exp(top - new_top) + tl.sum(p)  # the old sum, as seen from the new top
        top = new_top
    last = (columns - 1) // TILE * TILE  # p still holds this tile: a row that fits into one is never loaded again
    tl.store(out_ptr + row * out_stride + last + offsets, p * (1 / total), mask=last + offsets < columns)
    for start in range(0, last, TILE):
        x = tl.load(x_ptr + row * x_stride + start + offsets).to(tl.float32)
        tl.store(out_ptr + row * out_stride + start + offsets, tl.exp(x - top) * (1 / total))
    # END SOLUTION


def online_softmax(x: Float[Tensor, "N C"], out: Float[Tensor, "N C"]) -> None:
    """05.7 Write the softmax of each row of x, exp(x) over the sum of exp(x) of its row, into `out`.

    Args:
        x: N >= 1 rows of C >= 1 columns, as many as there may be: a row need not fit into one block. Elements of
            several hundred are no reason for NaN, nor is -inf, which gives 0; one element of each row is finite.
        out: its rows may lie further apart, or closer, than those of x.

    One launch of `online_softmax_kernel`. No block has more than MAX_BLOCK elements, and each element of x is loaded
    twice at most: once for the row's maximum and sum, both kept up to date tile after tile, and once to write.

    Source: Milakov and Gimelshein 2018, "Online normalizer calculation for softmax", algorithm 3.
    """
    # BEGIN SOLUTION
    rows, columns = x.shape
    tile = min(triton.next_power_of_2(columns), MAX_BLOCK)
    online_softmax_kernel[(rows,)](x, out, x.stride(0), out.stride(0), columns, TILE=tile, num_warps=warps(tile))
    # END SOLUTION
