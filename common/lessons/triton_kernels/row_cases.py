"""Each row kernel at one size, as every implementation computes it: this lesson's, torch's and its peers'."""
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType

import torch
from torch import Tensor

from common.checking.lab import load_lab
from common.lessons.triton_kernels.row_formulas import (
    EPS,
    Results,
    add_normed,
    gated,
    mean_square,
    normed,
    softmax,
    split,
    turned,
)

LESSON, TORCH, COMPILED, LIGER, FLASHINFER, CUDA = (
    "this lesson", "torch", "torch.compile", "Liger", "FlashInfer", "CUDA C++")
HEAD_DIM = 128

Run = Callable[[], Results]


@dataclass(frozen=True)
class Case:
    """One kernel at one size. `reads` and `writes` are what this lesson's kernel moves; `formula` changes nothing."""

    reads: Results
    writes: Results
    formula: Run
    run: dict[str, Run]  # by implementation; each returns what it has computed

    @property
    def bytes(self) -> int:
        """The least that can move: each tensor once, and twice what is updated in place."""
        return sum(tensor.nbytes for tensors in (self.reads, self.writes)
                   for tensor in {id(tensor): tensor for tensor in tensors}.values())


@cache
def case(kernel: str, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Case:
    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(dtype)

    def with_torch(formula: Callable[..., Results], *arguments: Tensor) -> dict:
        return {TORCH: partial(formula, *arguments),
                COMPILED: partial(torch.compile(formula, dynamic=False), *arguments)}

    lab = load_lab("triton_kernels")
    x, out, weight = random(rows, columns), torch.empty(rows, columns, dtype=dtype, device=device), random(columns)
    match kernel:
        case "copy":
            return Case((x,), (out,), lambda: (x,), {TORCH: lambda: (out.copy_(x),)})
        case "row_mean_square":
            means = torch.empty(rows, device=device)
            return Case((x,), (means,), partial(mean_square, x), with_torch(mean_square, x) | {
                LESSON: giving((means,), lambda: lab.row_mean_square(x, means)),
                LIGER: absent("has no such kernel"), FLASHINFER: absent("has no such kernel")})
        case "rms_norm":
            return Case((x, weight), (out,), partial(normed, x, weight), with_torch(normed, x, weight) | {
                LESSON: giving((out,), lambda: lab.rms_norm(x, weight, EPS, out)),
                LIGER: lambda: liger("rms_norm").rms_norm_forward(x, weight, EPS, 0.0, "llama", None)[:1],
                FLASHINFER: giving((out,), lambda: flashinfer("norm").rmsnorm(x, weight, EPS, out)),
                CUDA: giving((out,), lambda: cuda().rms_norm(x, weight, EPS, out))})
        case "add_rms_norm":
            residual = random(rows, columns)
            return Case((x, residual, weight), (residual, out), partial(add_normed, x, residual, weight),
                        with_torch(add_normed, x, residual, weight) | {
                LESSON: giving((residual, out), lambda: lab.add_rms_norm(x, residual, weight, EPS, out)),
                LIGER: lambda: liger("fused_add_rms_norm").fused_add_rms_norm_forward(
                    x, residual, weight, EPS, 0.0, "llama")[1::-1],  # it gives the norm first
                FLASHINFER: giving((residual, x),
                                   lambda: flashinfer("norm").fused_add_rmsnorm(x, residual, weight, EPS))})
        case "silu_and_mul":
            gate_up = random(rows, 2 * columns)
            return Case((gate_up,), (out,), partial(gated, gate_up), with_torch(gated, gate_up) | {
                LESSON: giving((out,), lambda: lab.silu_and_mul(gate_up, out)),
                LIGER: lambda: liger("swiglu").swiglu_fused_gate_up_forward(gate_up)[1:],
                FLASHINFER: giving((out,), lambda: flashinfer("activation").silu_and_mul(gate_up, out)),
                CUDA: giving((out,), lambda: cuda().silu_and_mul(gate_up, out))})
        case "rotate_in_place":
            qk = x.view(rows, -1, HEAD_DIM)
            angle = 3 * torch.randn(rows, HEAD_DIM // 2, device=device)
            cos, sin = angle.cos(), angle.sin()
            both = torch.cat((cos, sin), dim=-1)
            positions = torch.arange(rows, device=device)
            return Case((qk, cos, sin), (qk,), partial(turned, qk, cos, sin), with_torch(turned, qk, cos, sin) | {
                LESSON: giving(split(qk), lambda: lab.rotate_in_place(qk, cos, sin)),
                LIGER: liger_rotation(qk, cos, sin),
                FLASHINFER: giving(split(qk), lambda: flashinfer("rope").apply_rope_with_cos_sin_cache_inplace(
                    positions, *(heads.flatten(1) for heads in split(qk)), HEAD_DIM, both))})
        case "online_softmax":
            reads = (x,) if columns <= 8192 else (x, x)  # read twice if it has left the cache by the second pass
            return Case(reads, (out,), partial(softmax, x), with_torch(softmax, x) | {
                LESSON: giving((out,), lambda: lab.online_softmax(x, out)),
                LIGER: lambda: liger("softmax")._softmax_forward(x)[:1],
                FLASHINFER: absent("takes float32 alone")})
    raise ValueError(f"no kernel is called {kernel!r}")


def giving(results: Results, call: Callable[[], object]) -> Run:
    """Make a call that writes into `results` one that returns them."""
    def run() -> Results:
        call()
        return results

    return run


def absent(reason: str) -> Run:
    def run() -> Results:
        raise LookupError(reason)

    return run


def liger_rotation(qk: Tensor, cos: Tensor, sin: Tensor) -> Run:
    """Liger wants q and k apart, as (batch, heads, N, D), and an angle for each element of a head."""
    q, k = (heads.contiguous()[None].transpose(1, 2) for heads in split(qk))
    cos, sin = (torch.cat((half, half), dim=-1)[None] for half in (cos, sin))

    def run() -> Results:
        results = liger("rope").rope_forward(q, k, cos, sin)[:2]
        return tuple(heads[0].transpose(0, 1) for heads in results)

    return run


def liger(module: str) -> ModuleType:
    return importlib.import_module(f"liger_kernel.ops.{module}")


def flashinfer(module: str) -> ModuleType:
    return importlib.import_module(f"flashinfer.{module}")


def cuda() -> ModuleType:
    return importlib.import_module("common.kernels.cuda_row_kernels")
