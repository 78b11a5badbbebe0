"""Lesson 06 done otherwise: softmaxes that are merged, scores on their side, exp instead of exp2, tiles that begin
wherever the first key is, two passes instead of a running maximum, and one dk per query head."""
import math

import torch
import triton
import triton.language as tl

T = 32


def attention_bytes(nq, nk, heads, kv_heads, head_dim, element_bytes, q_tile):
    plain = 0
    for _ in range(kv_heads):
        rows = nq * (heads // kv_heads)
        plain += rows * head_dim + nk * head_dim + rows * nk  # scores
        plain += rows * nk + rows * nk  # softmax
        plain += rows * nk + nk * head_dim + rows * head_dim  # out
    full, rest = divmod(nq, q_tile)
    tiles = [q_tile] * full + [rest] * (rest > 0)
    tiled = sum(heads * (element_bytes * head_dim * (2 * rows + 2 * nk) + 4 * rows) for rows in tiles)
    return plain * element_bytes, tiled


def merge(out_a, lse_a, out_b, lse_b):
    largest = torch.maximum(lse_a, lse_b)
    safe = torch.where(torch.isinf(largest), torch.zeros_like(largest), largest)
    a, b = torch.exp(lse_a - safe), torch.exp(lse_b - safe)
    total = a + b
    out = (a.unsqueeze(-1) * out_a + b.unsqueeze(-1) * out_b) / total.clamp(min=1e-30).unsqueeze(-1)
    return out, safe + torch.log(total)


def tiled_attention(q, k, v, score_mod=None, scale=None, q_tile=32, k_tile=32):
    """Each tile gets a softmax of its own; `merge` does the rest. Keys are the outer loop."""
    heads, group = q.shape[1], q.shape[1] // k.shape[1]
    scale = 1 / math.sqrt(q.shape[2]) if scale is None else scale
    out = torch.zeros(q.shape, device=q.device)
    lse = torch.full(q.shape[:2], float("-inf"), device=q.device)
    for at in reversed(range(0, len(k), k_tile)):
        columns = torch.arange(at, min(at + k_tile, len(k)), device=q.device)
        kv_of = torch.arange(heads, device=q.device) // group
        keys, values = (x[columns].float()[:, kv_of] for x in (k, v))
        for top in range(0, len(q), q_tile):
            rows = torch.arange(top, min(top + q_tile, len(q)), device=q.device)
            scores = torch.einsum("ihd,jhd->hij", q[rows].float() * scale, keys)
            scores = scores if score_mod is None else score_mod(scores, rows, columns)
            here = torch.logsumexp(scores, -1)
            part = torch.einsum("hij,jhd->ihd", torch.softmax(scores, -1).nan_to_num(0), values)
            out[rows], lse[rows] = merge(out[rows], lse[rows], part, here.T)
    return out.to(q.dtype), lse


@triton.jit
def flash_attention_kernel(out_ptr, lse_ptr, q_ptr, q_s, q_h, k_ptr, k_s, k_h, v_ptr, v_s, v_h, starts_q, starts_k,
                           scale, causal, window, heads, kv_heads, D, POWER: tl.constexpr, T: tl.constexpr):
    tile, head, which = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    q0, q1 = tl.load(starts_q + which), tl.load(starts_q + which + 1)
    k0, k1 = tl.load(starts_k + which), tl.load(starts_k + which + 1)
    kv_head = head * kv_heads // heads
    row = q0 + tile * T + tl.arange(0, T)
    dim = tl.arange(0, POWER)
    on = (row < q1)[None, :] & (dim < D)[:, None]
    q = tl.load(q_ptr + row[None, :] * q_s + head * q_h + dim[:, None], mask=on, other=0.0)  # (POWER, T)
    beyond = row - q0 + (k1 - q1) - (k0 - q0) + k0 + 1  # the key at which a row's sight ends
    beyond = tl.where(causal != 0, tl.minimum(beyond, k1), k1)
    before = tl.maximum(tl.where(window > 0, row + (k1 - q1) + 1 - window, k0), k0)
    stop = tl.max(tl.where(row < q1, beyond, k0), 0)
    begin = tl.min(tl.where(row < q1, before, k1), 0)
    m = tl.full([T], float("-inf"), tl.float32)
    for at in range(begin, stop, T):  # the largest score of each row first
        key = at + tl.arange(0, T)
        k = tl.load(k_ptr + key[:, None] * k_s + kv_head * k_h + dim[None, :],
                    mask=(key < k1)[:, None] & (dim < D)[None, :], other=0.0)
        s = tl.dot(k, q, input_precision="ieee") * scale
        s = tl.where((key[:, None] < beyond[None, :]) & (key[:, None] >= before[None, :]), s, float("-inf"))
        m = tl.maximum(m, tl.max(s, 0))
    nothing = m == float("-inf")
    m = tl.where(nothing, 0.0, m)
    total = tl.zeros([T], tl.float32)
    out = tl.zeros([POWER, T], tl.float32)
    for at in range(begin, stop, T):
        key = at + tl.arange(0, T)
        on_key = (key < k1)[:, None] & (dim < D)[None, :]
        k = tl.load(k_ptr + key[:, None] * k_s + kv_head * k_h + dim[None, :], mask=on_key, other=0.0)
        v = tl.load(v_ptr + key[:, None] * v_s + kv_head * v_h + dim[None, :], mask=on_key, other=0.0)
        p = tl.exp(tl.dot(k, q, input_precision="ieee") * scale - m[None, :])
        p = tl.where((key[:, None] < beyond[None, :]) & (key[:, None] >= before[None, :]), p, 0.0)
        total += tl.sum(p, 0)
        out += tl.dot(tl.trans(v), p.to(v.dtype), input_precision="ieee")
    total = tl.where(nothing, 1.0, total)
    tl.store(out_ptr + (row[None, :] * heads + head) * D + dim[:, None], out / total[None, :], mask=on)
    tl.store(lse_ptr + row * heads + head, tl.where(nothing, float("-inf"), m + tl.log(total)), mask=row < q1)


def flash_attention(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, causal, window=None, scale=None):
    nq, heads, head_dim = q.shape
    out, lse = q.new_zeros(nq, heads, head_dim), q.new_zeros(nq, heads, dtype=torch.float32)
    flash_attention_kernel[(max_seqlen_q + T - 1) // T, heads, cu_seqlens_q.numel() - 1](
        out, lse, q, q.stride(0), q.stride(1), k, k.stride(0), k.stride(1), v, v.stride(0), v.stride(1), cu_seqlens_q,
        cu_seqlens_k, scale or 1 / math.sqrt(head_dim), int(causal), window or 0, heads, k.shape[1], head_dim,
        POWER=1 << (head_dim - 1).bit_length(), T=T)
    return out, lse


def attention(q, k, v, causal=False, scale=None):
    ends = [torch.arange(2, device=x.device, dtype=torch.int32) * len(x) for x in (q, k)]
    return flash_attention(q, k, v, *ends, max_seqlen_q=q.shape[0], causal=causal, scale=scale)


@triton.jit
def dk_dv_kernel(dk_ptr, dv_ptr, q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, starts_q, starts_k, scale, causal,
                 window, heads, group, D, POWER: tl.constexpr, T: tl.constexpr):
    """One query head's share of dk and dv, float32, for the launcher to add up."""
    tile, head, which = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    q0, q1 = tl.load(starts_q + which), tl.load(starts_q + which + 1)
    k0, k1 = tl.load(starts_k + which), tl.load(starts_k + which + 1)
    key, dim = k0 + tile * T + tl.arange(0, T), tl.arange(0, POWER)
    on_key = (key < k1)[:, None] & (dim < D)[None, :]
    kv = (key[:, None] * (heads // group) + head // group) * D + dim[None, :]
    k, v = tl.load(k_ptr + kv, mask=on_key, other=0.0), tl.load(v_ptr + kv, mask=on_key, other=0.0)
    dk, dv = tl.zeros([T, POWER], tl.float32), tl.zeros([T, POWER], tl.float32)
    begin, stop = q0, q1
    if causal:
        begin = tl.maximum(q0, q1 + k0 + tile * T - k1)
    if window:
        stop = tl.minimum(q1, q1 + k0 + tile * T + T - k1 + window)
    for at in range(begin, stop, T):
        row = at + tl.arange(0, T)
        on = (row < q1)[:, None] & (dim < D)[None, :]
        q = tl.load(q_ptr + (row[:, None] * heads + head) * D + dim[None, :], mask=on, other=0.0)
        do = tl.load(do_ptr + (row[:, None] * heads + head) * D + dim[None, :], mask=on, other=0.0)
        lse = tl.load(lse_ptr + row * heads + head, mask=row < q1, other=0.0)
        delta = tl.load(delta_ptr + row * heads + head, mask=row < q1, other=0.0)
        last = row + k1 - q1
        seen = (row < q1)[:, None] & (key < k1)[None, :] & (lse > float("-inf"))[:, None]
        if causal:
            seen = seen & (key[None, :] <= last[:, None])
        if window:
            seen = seen & (key[None, :] > last[:, None] - window)
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        p = tl.exp(tl.where(seen, s - tl.where(lse > float("-inf"), lse, 0.0)[:, None], float("-inf")))
        ds = p * (tl.dot(do, tl.trans(v), input_precision="ieee") - delta[:, None])
        dv += tl.dot(tl.trans(p).to(do.dtype), do, input_precision="ieee")
        dk += tl.dot(tl.trans(ds).to(q.dtype), q, input_precision="ieee") * scale
    share = (key[:, None] * heads + head) * D + dim[None, :]
    tl.store(dk_ptr + share, dk, mask=on_key)
    tl.store(dv_ptr + share, dv, mask=on_key)


@triton.jit
def dq_kernel(dq_ptr, q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, starts_q, starts_k, scale, causal, window, heads,
              group, D, POWER: tl.constexpr, T: tl.constexpr):
    tile, head, which = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    q0, q1 = tl.load(starts_q + which), tl.load(starts_q + which + 1)
    k0, k1 = tl.load(starts_k + which), tl.load(starts_k + which + 1)
    row, dim = q0 + tile * T + tl.arange(0, T), tl.arange(0, POWER)
    on = (row < q1)[:, None] & (dim < D)[None, :]
    q = tl.load(q_ptr + (row[:, None] * heads + head) * D + dim[None, :], mask=on, other=0.0)
    do = tl.load(do_ptr + (row[:, None] * heads + head) * D + dim[None, :], mask=on, other=0.0)
    lse = tl.load(lse_ptr + row * heads + head, mask=row < q1, other=float("-inf"))
    delta = tl.load(delta_ptr + row * heads + head, mask=row < q1, other=0.0)
    some = lse > float("-inf")
    lse = tl.where(some, lse, 0.0)
    last = row + k1 - q1
    begin, stop = k0, k1
    if causal:
        stop = tl.minimum(k1, q0 + tile * T + T + k1 - q1)
    if window:
        begin = tl.maximum(k0, q0 + tile * T + k1 - q1 - window + 1)
    dq = tl.zeros([T, POWER], tl.float32)
    for at in range(begin, stop, T):
        key = at + tl.arange(0, T)
        on_key = (key < k1)[:, None] & (dim < D)[None, :]
        kv = (key[:, None] * (heads // group) + head // group) * D + dim[None, :]
        k, v = tl.load(k_ptr + kv, mask=on_key, other=0.0), tl.load(v_ptr + kv, mask=on_key, other=0.0)
        seen = some[:, None] & (key < k1)[None, :]
        if causal:
            seen = seen & (key[None, :] <= last[:, None])
        if window:
            seen = seen & (key[None, :] > last[:, None] - window)
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        p = tl.exp(tl.where(seen, s - lse[:, None], float("-inf")))
        ds = p * (tl.dot(do, tl.trans(v), input_precision="ieee") - delta[:, None])
        dq += tl.dot(ds.to(k.dtype), k, input_precision="ieee") * scale
    tl.store(dq_ptr + (row[:, None] * heads + head) * D + dim[None, :], dq, mask=on)


def flash_attention_backward(d_out, q, k, v, out, lse, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal,
                             window=None, scale=None):
    nk, kv_heads, head_dim = k.shape
    heads, batch = q.shape[1], cu_seqlens_q.numel() - 1
    q, k, v, d_out = (x.clone(memory_format=torch.contiguous_format) for x in (q, k, v, d_out))
    delta = torch.einsum("ihd,ihd->ih", d_out.float(), out.float())
    dq = torch.zeros_like(q)
    dk, dv = (torch.zeros(nk, heads, head_dim, device=q.device) for _ in "kv")
    rest = (cu_seqlens_q, cu_seqlens_k, scale or head_dim**-0.5, int(causal), window or 0, heads, heads // kv_heads,
            head_dim, triton.next_power_of_2(head_dim), T)
    dq_kernel[triton.cdiv(max_seqlen_q, T), heads, batch](dq, q, k, v, d_out, lse, delta, *rest)
    dk_dv_kernel[triton.cdiv(max_seqlen_k, T), heads, batch](dk, dv, q, k, v, d_out, lse, delta, *rest)
    return dq, *(x.unflatten(1, (kv_heads, -1)).sum(2).to(k.dtype) for x in (dk, dv))
