"""Lesson 05 done otherwise: several rows a program, a flat grid, a loop over heads, a running maximum in every lane."""
import torch
import triton
import triton.language as tl

MAX_BLOCK = 8192


def predict_seconds(reads, writes, bytes_per_second, launch_seconds):
    moved = 0
    for tensor in list(reads) + list(writes):
        moved += tensor.nbytes
    return launch_seconds if moved < launch_seconds * bytes_per_second else moved / bytes_per_second


@triton.jit
def row_mean_square_kernel(x_ptr, out_ptr, rows, columns, x_stride, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    x = tl.load(x_ptr + row[:, None] * x_stride + column[None, :], mask=inside, other=0).to(tl.float32)
    tl.store(out_ptr + row, tl.sum(x * x / columns, axis=1), mask=row < rows)


def row_mean_square(x, out):
    n, c = x.shape
    row_mean_square_kernel[(triton.cdiv(n, 2),)](x, out, n, c, x.stride(0), ROWS=2, BLOCK=triton.next_power_of_2(c))


@triton.jit
def rms_norm_kernel(out_ptr, out_stride, x_ptr, x_stride, weight_ptr, rows, columns, eps, BLOCK: tl.constexpr):
    # A few programs that stride over the rows, each with the weight in registers.
    column = tl.arange(0, BLOCK)
    weight = tl.load(weight_ptr + column, mask=column < columns)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        x = tl.load(x_ptr + row * x_stride + column, mask=column < columns, other=0).to(tl.float32)
        root = tl.sqrt(tl.sum(x * x, axis=0) / columns + eps)
        rounded = (x / root).to(out_ptr.dtype.element_ty)  # rounded once more before the weight, as Hugging Face does
        tl.store(out_ptr + row * out_stride + column, rounded * weight, mask=column < columns)


def rms_norm(x, weight, eps, out):
    block = triton.next_power_of_2(x.shape[1])
    rms_norm_kernel[(min(len(x), 2),)](out, out.stride(0), x, x.stride(0), weight, *x.shape, eps, BLOCK=block)


@triton.jit
def add_rms_norm_kernel(x_ptr, res_ptr, weight_ptr, out_ptr, strides, columns, eps, BLOCK: tl.constexpr):
    row, column = tl.program_id(0), tl.arange(0, BLOCK)
    inside = column < columns
    x = tl.load(x_ptr + row * tl.load(strides) + column, mask=inside, other=0)
    res_ptr += row * tl.load(strides + 1) + column
    total = x.to(tl.float32) + tl.load(res_ptr, mask=inside, other=0).to(tl.float32)
    total = total.to(x.dtype)  # the norm of what the stream will hold, as vLLM has it
    tl.store(res_ptr, total, mask=inside)
    wide = total.to(tl.float32)
    scale = 1 / tl.sqrt(tl.sum(wide * wide, axis=0) / columns + eps)
    weight = tl.load(weight_ptr + column, mask=inside, other=0).to(tl.float32)
    tl.store(out_ptr + row * tl.load(strides + 2) + column, wide * (scale * weight), mask=inside)


def add_rms_norm(x, residual, weight, eps, out):
    strides = torch.tensor([x.stride(0), residual.stride(0), out.stride(0)], device=x.device)
    block = triton.next_power_of_2(x.shape[1])
    add_rms_norm_kernel[(len(x),)](x, residual, weight, out, strides, x.shape[1], eps, BLOCK=block)


@triton.jit
def silu_and_mul_kernel(in_ptr, out_ptr, in_stride, out_stride, width, numel, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # over all elements, rows or no rows
    row, column = index // width, index % width
    gate = tl.load(in_ptr + row * in_stride + column, mask=index < numel, other=0).to(tl.float32)
    up = tl.load(in_ptr + row * in_stride + width + column, mask=index < numel, other=0)
    silu = (gate / (1 + tl.exp(-gate))).to(up.dtype)
    tl.store(out_ptr + row * out_stride + column, silu * up, mask=index < numel)


def silu_and_mul(gate_up, out):
    n = out.numel()
    silu_and_mul_kernel[(triton.cdiv(n, 2048),)](
        gate_up, out, gate_up.stride(0), out.stride(0), out.shape[1], n, BLOCK=2048
    )


@triton.jit
def rotate_in_place_kernel(x_ptr, cos_ptr, sin_ptr, heads, token_stride, head_stride, half, BLOCK: tl.constexpr):
    token, i = tl.program_id(0), tl.arange(0, BLOCK)
    c = tl.load(cos_ptr + token * half + i, mask=i < half)
    s = tl.load(sin_ptr + token * half + i, mask=i < half)
    for head in range(heads):
        a_ptr = x_ptr + token * token_stride + head * head_stride + i
        a, b = tl.load(a_ptr, mask=i < half), tl.load(a_ptr + half, mask=i < half)
        tl.store(a_ptr + half, a * s + b * c, mask=i < half)
        tl.store(a_ptr, a * c - b * s, mask=i < half)


def rotate_in_place(qk, cos, sin):
    half = cos.shape[1]
    rotate_in_place_kernel[(len(qk),)](
        qk, cos, sin, qk.shape[1], *qk.stride()[:2], half, BLOCK=triton.next_power_of_2(half)
    )


@triton.jit
def online_softmax_kernel(x_ptr, out_ptr, x_stride, out_stride, columns, TILE: tl.constexpr):
    x_ptr += tl.program_id(0) * x_stride
    out_ptr += tl.program_id(0) * out_stride
    lane = tl.arange(0, TILE)
    tops = tl.full((TILE,), -float("inf"), tl.float32)  # every lane has a maximum and a sum of its own until the end
    sums = tl.zeros((TILE,), tl.float32)
    for start in range(0, columns, TILE):
        x = tl.load(x_ptr + start + lane, mask=start + lane < columns, other=-float("inf")).to(tl.float32)
        new = tl.maximum(tops, x)
        safe = tl.where(new == -float("inf"), 0.0, new)
        sums = sums * tl.exp(tops - safe) + tl.exp(x - safe)
        tops = new
    top = tl.max(tops, axis=0)
    norm = 1 / tl.sum(sums * tl.exp(tops - top), axis=0)
    for start in range(0, columns, TILE):
        x = tl.load(x_ptr + start + lane, mask=start + lane < columns, other=-float("inf")).to(tl.float32)
        tl.store(out_ptr + start + lane, tl.exp(x - top) * norm, mask=start + lane < columns)


def online_softmax(x, out):
    online_softmax_kernel[(len(x),)](x, out, x.stride(0), out.stride(0), x.shape[1], TILE=4096)
