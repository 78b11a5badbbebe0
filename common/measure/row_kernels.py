"""Lesson 05: its row kernels, beside torch, torch.compile, Liger, FlashInfer and CUDA C++, against a plain copy.

On a GPU only. Before anything is timed, every implementation is held against the plain formula at the full size.
"""
import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from common.checks.lab import load_lab
from common.measure.ceilings import measure_ceilings
from common.measure.run import Point
from common.measure.tables import Table
from common.measure.timing import time_each, time_one

TABLE = Table("row_kernels", key=("kernel", "rows", "columns", "dtype", "implementation"),
              numbers=("bytes", "copy_bytes_per_second", "launch_seconds"),
              optional=("time", "p05", "p95", "repeats", "bytes_per_second", "share_of_copy", "predicted"),
              words=("absent",))

LESSON, TORCH, COMPILED, LIGER, FLASHINFER, CUDA = (
    "this lesson", "torch", "torch.compile", "Liger", "FlashInfer", "CUDA C++")
SIZES = {  # kernel -> its sizes, rows and columns
    "copy": [(8192, 8192)],
    "row_mean_square": [(8192, 8192)],
    "rms_norm": [(8192, 8192), (1, 8192), (16, 8192), (128, 8192), (1024, 8192)],
    "add_rms_norm": [(8192, 8192)],
    "silu_and_mul": [(8192, 8192)],
    "rotate_in_place": [(8192, 8192)],
    "online_softmax": [(8192, 8192), (512, 131_072)],
}
HEAD_DIM, KV_HEADS = 128, 8
EPS = 1e-5
AGREES = 0.02  # of the norm: far above bfloat16's rounding, far below anything that is wrong

Results = tuple[Tensor, ...]
Run = Callable[[], Results]


@dataclass(frozen=True)
class Case:
    """One kernel at one size. `reads` and `writes` are what this lesson's kernel moves; `formula` changes nothing."""

    reads: Results
    writes: Results
    formula: Run
    run: dict[str, Run]  # by implementation, each of which gives what it has computed

    @property
    def bytes(self) -> int:
        """The least that can move, each tensor once, but twice what is updated in place."""
        return sum(tensor.nbytes for tensors in (self.reads, self.writes)
                   for tensor in {id(tensor): tensor for tensor in tensors}.values())


def points(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> list[Point]:
    if device.type != "cuda":
        return []  # Triton's interpreter says nothing about speed
    return [Point(TABLE, {"kernel": kernel, "rows": rows, "columns": columns,
                          "dtype": str(dtype).removeprefix("torch."), "implementation": name},
                  partial(measure, kernel, rows, columns, dtype, device, name))
            for kernel, sizes in SIZES.items() for rows, columns in sizes for name in names(kernel, (rows, columns))]


def names(kernel: str, size: tuple[int, int]) -> tuple[str, ...]:
    """All implementations at a kernel's first size; where the size is varied, this lesson's and torch's."""
    if kernel == "copy":
        return (TORCH,)
    if size != SIZES[kernel][0]:
        return (LESSON, TORCH)
    return (LESSON, TORCH, COMPILED, LIGER, FLASHINFER) + (CUDA,) * (kernel in ("rms_norm", "silu_and_mul"))


# --- The formulas, in plain torch ---

def mean_square(x: Tensor) -> Results:
    return (x.float().square().mean(dim=-1),)


def normed(x: Tensor, weight: Tensor) -> Results:
    wide = x.float()
    return ((wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + EPS) * weight.float()).to(x.dtype),)


def add_normed(x: Tensor, residual: Tensor, weight: Tensor) -> Results:
    total = x + residual
    return total, *normed(total, weight)


def gated(gate_up: Tensor) -> Results:
    gate, up = gate_up.chunk(2, dim=-1)
    return (F.silu(gate) * up,)


def turned(qk: Tensor, cos: Tensor, sin: Tensor) -> Results:
    first, second = qk.float().chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]  # the same for all heads
    return split(torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(qk.dtype))


def split(qk: Tensor) -> Results:
    """The heads of the queries and those of the keys, which Liger wants apart."""
    return qk[:, :-KV_HEADS], qk[:, -KV_HEADS:]


def softmax(x: Tensor) -> Results:
    return (x.softmax(dim=-1),)


# --- The cases ---

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
            reads = (x,) if columns <= 8192 else (x, x)  # a row that has left the cache by the second pass: read twice
            return Case(reads, (out,), partial(softmax, x), with_torch(softmax, x) | {
                LESSON: giving((out,), lambda: lab.online_softmax(x, out)),
                LIGER: lambda: liger("softmax")._softmax_forward(x)[:1],
                FLASHINFER: absent("takes float32 alone")})
    raise ValueError(f"no kernel is called {kernel!r}")


def giving(results: Results, call: Callable[[], object]) -> Run:
    """A call that writes into `results`, as one that returns them."""
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
    cos, sin = (torch.cat((one, one), dim=-1)[None] for one in (cos, sin))

    def run() -> Results:
        results = liger("rope").rope_forward(q, k, cos, sin)[:2]
        return tuple(heads[0].transpose(0, 1) for heads in results)

    return run


def liger(module: str):
    return importlib.import_module(f"liger_kernel.ops.{module}")


def flashinfer(module: str):
    return importlib.import_module(f"flashinfer.{module}")


def cuda():
    return importlib.import_module("common.kernels.cuda_row_kernels")


# --- Measuring ---

def measure(kernel: str, rows: int, columns: int, dtype: torch.dtype, device: torch.device, name: str) -> dict:
    """One row: this implementation's time, in the same rounds as the others'; or why it is absent."""
    prepare(dtype, device)
    size, (copying, launching) = (kernel, rows, columns, dtype, device), limits(dtype, device)
    row = {"bytes": case(*size).bytes, "copy_bytes_per_second": copying, "launch_seconds": launching, "absent": ""}
    times = timed(*size)[name]
    if isinstance(times, Exception):
        if name == LESSON:
            raise times
        return row | dict.fromkeys(TABLE.optional) | {"absent": str(times).splitlines()[0]}
    rate = row["bytes"] / times.median
    return row | {"time": times.median, "p05": times.p05, "p95": times.p95, "repeats": len(times.seconds),
                  "bytes_per_second": rate, "share_of_copy": rate / copying,
                  "predicted": predicted(case(*size), copying, launching) if name == LESSON else None}


@cache
def prepare(dtype: torch.dtype, device: torch.device) -> None:
    """Compile all there is to compile: nvcc's work side by side, and torch's meanwhile, or it would take minutes."""
    with ThreadPoolExecutor() as pool:
        if device.type == "cuda":
            for kernel in ("rms_norm", "silu_and_mul", "rotate_in_place"):  # FlashInfer's three modules
                pool.submit(case(kernel, *SIZES[kernel][0], dtype, device).run[FLASHINFER])
            pool.submit(lambda: cuda().compiled())
        for kernel, (size, *_) in SIZES.items():
            with suppress(Exception):  # whoever needs it will meet the error again
                case(kernel, *size, dtype, device).run[COMPILED]()


@cache
def limits(dtype: torch.dtype, device: torch.device) -> tuple[float, float]:
    """Bytes per second of a large copy, and the seconds of a kernel that does next to nothing."""
    one = torch.zeros(1, device=device)
    launching = time_one(one.zero_, device, budget=0.1, at_least=20, queued=True)
    return measure_ceilings(device, dtype).bytes_per_second, launching.median


@cache
def timed(kernel: str, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> dict:
    """Implementation -> its times, or the exception that it raised, or that it deserves for a wrong result."""
    it, found = case(kernel, rows, columns, dtype, device), {}
    before, want = [tensor.clone() for tensor in it.reads], it.formula()
    for name in names(kernel, (rows, columns)):
        try:
            expect_agreement(it.run[name](), want)
            found[name] = it.run[name]
        except Exception as error:
            found[name] = error
        for tensor, value in zip(it.reads, before, strict=True):
            tensor.copy_(value)
    running = {name: run for name, run in found.items() if not isinstance(run, Exception)}
    times = time_each(list(running.values()), device, budget=1.0, at_least=20, at_most=100, queued=True)
    return found | dict(zip(running, times, strict=True))


def expect_agreement(got: Results, want: Results) -> None:
    for one, other in zip(got, want, strict=True):
        distance = float((one.float() - other.float()).norm() / other.float().norm())
        if not distance < AGREES:
            raise ValueError(f"differs from the formula, by {distance:.2g} of its norm")


def predicted(it: Case, bytes_per_second: float, launch_seconds: float) -> float | None:
    """What the lab's own formula (05.1) says; None where it is not written yet."""
    try:
        predict = load_lab("triton_kernels").predict_seconds
        return float(predict(list(it.reads), list(it.writes), bytes_per_second, launch_seconds))
    except Exception:  # an unfinished lab shall not cost the measurement
        return None
