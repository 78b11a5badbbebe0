"""Attention as every implementation computes it: a problem goes in, and out comes the call to time, or Absent.

The problems are packed and in bfloat16.
"""
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from common.checking.lab import load_lab

Attend = Callable[[], tuple[Tensor, ...]]  # out, or dq, dk and dv; each (N, heads, D) or (batch, heads, T, D)


@dataclass(frozen=True)
class Task:
    """What is computed at one point: `batch` sequences of `sequence` tokens each."""

    direction: str
    head_dim: int
    heads: int
    kv_heads: int
    causal: bool
    batch: int
    sequence: int

    @property
    def flops(self) -> float:
        """4 Nq Nk D H forward, half of it causal; backward computes five products in place of two."""
        forward = 4 * self.sequence**2 * self.head_dim * self.heads * self.batch / (2 if self.causal else 1)
        return forward * (2.5 if self.direction == "backward" else 1)


@dataclass(frozen=True)
class Problem:
    """A task and its tensors."""

    task: Task
    q: Tensor
    k: Tensor
    v: Tensor
    d_out: Tensor
    cu_seqlens: Tensor


class Absent(Exception):
    """Why an implementation cannot do this task."""


def make_problem(task: Task, device: torch.device) -> Problem:
    generator = torch.Generator(device).manual_seed(0)
    n = task.batch * task.sequence
    q, k, v, d_out = (torch.randn(n, heads, task.head_dim, device=device, dtype=torch.bfloat16, generator=generator)
                      for heads in (task.heads, task.kv_heads, task.kv_heads, task.heads))
    return Problem(task, q, k, v, d_out,
                   torch.arange(0, n + 1, task.sequence, dtype=torch.int32, device=device))


def packed(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(0, 1) if x.dim() == 4 else x


@cache
def lab() -> ModuleType:
    return load_lab("flash_attention")


def lesson(problem: Problem) -> Attend:
    task, starts, n = problem.task, problem.cu_seqlens, problem.task.sequence
    qkv = problem.q, problem.k, problem.v
    if task.direction == "forward":
        return lambda: lab().flash_attention(*qkv, starts, starts, n, task.causal)[:1]
    out, lse = lab().flash_attention(*qkv, starts, starts, n, task.causal)
    return lambda: lab().flash_attention_backward(problem.d_out, *qkv, out, lse, starts, starts, n, n, task.causal)


def second_version(problem: Problem) -> Attend:
    from common.kernels.flash_attention_2 import flash_attention_2

    forward_only(problem)
    task, starts = problem.task, problem.cu_seqlens
    return lambda: flash_attention_2(problem.q, problem.k, problem.v, starts, starts, task.sequence, task.causal)[:1]


def torch_fused(backend: SDPBackend, problem: Problem) -> Attend:
    task = problem.task
    q, k, v, d_out = (x.unflatten(0, (task.batch, task.sequence)).transpose(1, 2)
                      for x in (problem.q, problem.k, problem.v, problem.d_out))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel([backend]):
            return F.scaled_dot_product_attention(q, k, v, is_causal=task.causal,
                                                  enable_gqa=task.heads != task.kv_heads)

    if task.direction == "forward":
        return lambda: (attend(q, k, v),)
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out = attend(*leaves)
    return lambda: torch.autograd.grad(out, leaves, d_out, retain_graph=True)


def flash_attention_3(problem: Problem) -> Attend:
    from flash_attn_interface import flash_attn_varlen_func

    forward_only(problem)
    task, starts = problem.task, problem.cu_seqlens

    def attend() -> tuple[Tensor, ...]:
        out = flash_attn_varlen_func(problem.q, problem.k, problem.v, starts, starts, task.sequence, task.sequence,
                                     causal=task.causal)
        return out[:1] if isinstance(out, tuple) else (out,)

    return attend


def flashinfer(problem: Problem) -> Attend:
    from flashinfer import BatchPrefillWithRaggedKVCacheWrapper

    forward_only(problem)
    task, starts = problem.task, problem.cu_seqlens
    workspace = torch.empty(256 * 2**20, dtype=torch.uint8, device=problem.q.device)
    wrapper = BatchPrefillWithRaggedKVCacheWrapper(workspace, "NHD", backend="fa2")  # "auto" may build for minutes
    wrapper.plan(starts, starts, task.heads, task.kv_heads, task.head_dim, causal=task.causal,
                 q_data_type=problem.q.dtype)
    return lambda: (wrapper.run(problem.q, problem.k, problem.v),)


def plain_torch(problem: Problem) -> Attend:
    """Three operations, with all scores in memory between them."""
    task = problem.task
    q, k, v = (x.unflatten(0, (task.batch, task.sequence)).transpose(1, 2).contiguous()
               for x in (problem.q, problem.k, problem.v))
    q = q * task.head_dim**-0.5
    return lambda: ((q @ k.mT).softmax(-1) @ v,)


def forward_only(problem: Problem) -> None:
    if problem.task.direction == "backward":
        raise Absent("forward only")


IMPLEMENTATIONS: dict[str, Callable[[Problem], Attend]] = {
    "lesson 06": lesson,
    "second version": second_version,
    "torch FA2": partial(torch_fused, SDPBackend.FLASH_ATTENTION),
    "torch cuDNN": partial(torch_fused, SDPBackend.CUDNN_ATTENTION),
    "FlashAttention-3": flash_attention_3,
    "FlashInfer": flashinfer,
    "plain torch": plain_torch,
}
