"""Lesson 06: attention alone, in TFLOP/s, beside its peers and under the matmul rate of the same run.

All implementations of one point are timed in the same rounds, and each is first held against torch's FlashAttention-2:
one that computes something else is listed as absent, with the error as the reason.
"""
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache, lru_cache, partial

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from common.measure.ceilings import Ceilings, measure_ceilings
from common.measure.run import Point
from common.measure.tables import Table
from common.measure.timing import Times, time_each

TABLE = Table("attention_performance",
              key=("direction", "implementation", "head_dim", "heads", "kv_heads", "causal", "batch", "sequence",
                   "dtype"),
              numbers=("matmul_flops_per_second", "copy_bytes_per_second"),
              optional=("time", "p05", "p95", "repeats", "tflops", "share", "predicted"), words=("reason",))
TOKENS, HIDDEN = 16_384, 2048
BUDGET = 0.4  # seconds of rounds at one point
TOLERANCE = 2e-2  # of the largest value; bfloat16 keeps 8 bits

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
    """A task and its tensors: packed, bfloat16."""

    task: Task
    q: Tensor
    k: Tensor
    v: Tensor
    d_out: Tensor
    cu_seqlens: Tensor


class Absent(Exception):
    """Why an implementation cannot do this task."""


def points(device: torch.device) -> list[Point]:
    if device.type != "cuda":
        return []  # a CPU only has the interpreter
    return [Point(TABLE, key_of(task, name), partial(measure, task, name, device))
            for task in tasks() for name in IMPLEMENTATIONS if name != "plain torch" or has_plain(task)]


def tasks() -> list[Task]:
    lengths = [2**power for power in range(9, 15)]
    grid = [Task(direction, head_dim, HIDDEN // head_dim, HIDDEN // head_dim, causal, TOKENS // length, length)
            for direction in ("forward", "backward") for head_dim in (64, 128) for causal in (False, True)
            for length in lengths]
    batches = [Task("forward", 128, 16, 16, True, 2**power, 1024) for power in range(7)]
    llama = [Task("forward", 128, 32, 8, True, TOKENS // length, length) for length in lengths]
    return list(dict.fromkeys(grid + batches + llama))


def has_plain(task: Task) -> bool:
    """The plain formula as 06.1 counts it: forward, no mask, as many key/value heads as query heads."""
    return task.direction == "forward" and not task.causal and task.heads == task.kv_heads


def key_of(task: Task, name: str) -> dict[str, str | int]:
    values = {field.name: getattr(task, field.name) for field in fields(task)} | {
        "implementation": name, "causal": int(task.causal), "dtype": "bfloat16"}
    return {column: values[column] for column in TABLE.key}


def measure(task: Task, name: str, device: torch.device) -> dict:
    row, limits = in_row(measure_all(task, device)[name], task), ceilings(device)
    known = row["time"] is not None
    return row | {"matmul_flops_per_second": limits.flops_per_second, "copy_bytes_per_second": limits.bytes_per_second,
                  "share": row["tflops"] * 1e12 / limits.flops_per_second if known else None,
                  "predicted": predicted_seconds(task, name, limits) if known else None}


@lru_cache(maxsize=1)
def measure_all(task: Task, device: torch.device) -> dict[str, Times | Exception]:
    return time_all(IMPLEMENTATIONS, make_problem(task, device))


def time_all(implementations: dict[str, Callable[[Problem], Attend]], problem: Problem) -> dict[str, Times | Exception]:
    """Name -> its times, in the same rounds as all others'; or the exception that it raised, or deserves."""
    reference, found = [packed(x) for x in torch_fused(SDPBackend.FLASH_ATTENTION, problem)()], {}
    for name, prepare in implementations.items():
        try:
            attend = prepare(problem)
            expect_near(reference, attend())
            found[name] = attend
        except Exception as error:
            found[name] = error.with_traceback(None)  # whose frames would hold on to tensors
    del reference
    running = {name: attend for name, attend in found.items() if not isinstance(attend, Exception)}
    times = time_each(list(running.values()), problem.q.device, BUDGET, at_least=5, at_most=100, queued=True)
    return found | dict(zip(running, times, strict=True))


def in_row(times: Times | Exception, task: Task) -> dict:
    """The columns that say how fast it was, or why that is not known. A stub is raised: it may be written later."""
    if isinstance(times, NotImplementedError):
        raise times
    if isinstance(times, Exception):
        reason = str(times) if isinstance(times, Absent) else f"{type(times).__name__}: {times}".splitlines()[0]
        return dict.fromkeys(("time", "p05", "p95", "repeats", "tflops")) | {"reason": reason[:200]}
    return {"time": times.median, "p05": times.p05, "p95": times.p95, "repeats": len(times.seconds),
            "tflops": task.flops / times.median / 1e12, "reason": ""}


@cache
def ceilings(device: torch.device) -> Ceilings:
    return measure_ceilings(device, torch.bfloat16)


def make_problem(task: Task, device: torch.device) -> Problem:
    generator = torch.Generator(device).manual_seed(0)
    n = task.batch * task.sequence
    q, k, v, d_out = (torch.randn(n, heads, task.head_dim, device=device, dtype=torch.bfloat16, generator=generator)
                      for heads in (task.heads, task.kv_heads, task.kv_heads, task.heads))
    return Problem(task, q, k, v, d_out,
                   torch.arange(0, n + 1, task.sequence, dtype=torch.int32, device=device))


def packed(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(0, 1) if x.dim() == 4 else x


def expect_near(reference: list[Tensor], got: tuple[Tensor, ...]) -> None:
    for want, one in zip(reference, got, strict=True):
        error = (packed(one).float() - want.float()).abs().max() / want.float().abs().max()
        if not error <= TOLERANCE:
            raise Absent(f"its result is off by {error:.2g} of the largest value")


def predicted_seconds(task: Task, name: str, limits: Ceilings) -> float | None:
    """What the lab's own count of bytes (06.1) says: no faster than the bytes, nor than the FLOPs."""
    if name not in ("plain torch", "lesson 06") or not has_plain(task):
        return None
    try:
        q_tile = lab().tiles(task.head_dim, torch.bfloat16, torch.device("cuda"))["Q_TILE"]
        plain, tiled = lab().attention_bytes(task.sequence, task.sequence, task.heads, task.kv_heads, task.head_dim, 2,
                                             q_tile)
    except Exception:  # an unfinished lab shall not cost the measurement
        return None
    moved = task.batch * (plain if name == "plain torch" else tiled)
    return max(moved / limits.bytes_per_second, task.flops / limits.flops_per_second)


# --- The implementations: each takes a problem and gives what is timed, or raises for what it cannot do ---


@cache
def lab():
    from common.checks import load_lab

    return load_lab("flash_attention")


def lesson(problem: Problem) -> Attend:
    it, starts, n = problem.task, problem.cu_seqlens, problem.task.sequence
    qkv = problem.q, problem.k, problem.v
    if it.direction == "forward":
        return lambda: lab().flash_attention(*qkv, starts, starts, n, it.causal)[:1]
    out, lse = lab().flash_attention(*qkv, starts, starts, n, it.causal)
    return lambda: lab().flash_attention_backward(problem.d_out, *qkv, out, lse, starts, starts, n, n, it.causal)


def second_version(problem: Problem) -> Attend:
    from common.kernels.flash_attention_2 import flash_attention_2

    forward_only(problem)
    starts = problem.cu_seqlens
    return lambda: flash_attention_2(problem.q, problem.k, problem.v, starts, starts, problem.task.sequence,
                                     problem.task.causal)[:1]


def torch_fused(backend: SDPBackend, problem: Problem) -> Attend:
    it = problem.task
    q, k, v, d_out = (x.unflatten(0, (it.batch, it.sequence)).transpose(1, 2)
                      for x in (problem.q, problem.k, problem.v, problem.d_out))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel([backend]):
            return F.scaled_dot_product_attention(q, k, v, is_causal=it.causal, enable_gqa=it.heads != it.kv_heads)

    if it.direction == "forward":
        return lambda: (attend(q, k, v),)
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out = attend(*leaves)
    return lambda: torch.autograd.grad(out, leaves, d_out, retain_graph=True)


def flash_attention_3(problem: Problem) -> Attend:
    from flash_attn_interface import flash_attn_varlen_func

    forward_only(problem)
    it, starts = problem.task, problem.cu_seqlens

    def attend() -> tuple[Tensor, ...]:
        out = flash_attn_varlen_func(problem.q, problem.k, problem.v, starts, starts, it.sequence, it.sequence,
                                     causal=it.causal)
        return out[:1] if isinstance(out, tuple) else (out,)

    return attend


def flashinfer(problem: Problem) -> Attend:
    from flashinfer import BatchPrefillWithRaggedKVCacheWrapper

    forward_only(problem)
    it, starts = problem.task, problem.cu_seqlens
    workspace = torch.empty(256 * 2**20, dtype=torch.uint8, device=problem.q.device)
    wrapper = BatchPrefillWithRaggedKVCacheWrapper(workspace, "NHD", backend="fa2")  # "auto" may build for minutes
    wrapper.plan(starts, starts, it.heads, it.kv_heads, it.head_dim, causal=it.causal, q_data_type=problem.q.dtype)
    return lambda: (wrapper.run(problem.q, problem.k, problem.v),)


def plain_torch(problem: Problem) -> Attend:
    """Three operations, with all scores in memory between them."""
    it = problem.task
    q, k, v = (x.unflatten(0, (it.batch, it.sequence)).transpose(1, 2).contiguous()
               for x in (problem.q, problem.k, problem.v))
    q = q * it.head_dim**-0.5
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


# --- What the rows say in short ---


BETTER = {"better of both": ["lesson 06", "second version"],
          "better of cuDNN, FA3": ["torch cuDNN", "FlashAttention-3"]}
OURS = ("lesson 06", "second version", "better of both")
PEERS = ("torch FA2", "torch cuDNN", "FlashAttention-3", "FlashInfer", "better of cuDNN, FA3")


def summary(rows: pd.DataFrame) -> str:
    """How many times as fast as each peer ours is: over the points of the grid that both have."""
    grid = rows[rows.kv_heads.eq(rows.heads) & (rows.batch.astype(int) * rows.sequence.astype(int)).eq(TOKENS)]
    table = grid.pivot_table(index=["direction", "head_dim", "causal", "sequence"], columns="implementation",
                             values="tflops").reindex(columns=list(IMPLEMENTATIONS))
    for better, pair in BETTER.items():
        table[better] = table[pair].max(axis=1).where(table[pair].notna().all(axis=1))
    lines = ["TFLOP/s, ours / theirs: geometric mean (smallest to largest)",
             f"{'':32}" + "".join(f"{ours:18}" for ours in OURS)]
    for direction in sorted(set(table.index.get_level_values("direction")), reverse=True):
        here = table.loc[direction]
        for peer in PEERS:
            cells = [in_short((here[ours] / here[peer]).dropna()) for ours in OURS]
            if any(cells):
                lines.append(f"{direction:10}{peer:22}" + "".join(f"{cell:18}" for cell in cells))
    absent = rows[rows.time.isna()].groupby(["direction", "reason"], sort=False).implementation.unique()
    lines += [f"absent, {direction}: {', '.join(names)}: {reason}" for (direction, reason), names in absent.items()]
    return "\n".join(line.rstrip() for line in lines)


def in_short(ratios: pd.Series) -> str:
    return f"{np.exp(np.log(ratios).mean()):.2f} ({ratios.min():.2f}-{ratios.max():.2f})" if len(ratios) else ""
