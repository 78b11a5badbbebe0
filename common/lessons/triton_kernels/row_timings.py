"""The row kernels beside torch, torch.compile, Liger, FlashInfer and CUDA C++, against a plain copy.

On a GPU only. Every implementation has to agree with the plain formula at the full size before anything is timed.
"""
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial

import torch

from common.checking.lab import load_lab
from common.lessons.triton_kernels.row_cases import (
    COMPILED,
    CUDA,
    FLASHINFER,
    LESSON,
    LIGER,
    TORCH,
    Case,
    case,
    cuda,
)
from common.lessons.triton_kernels.row_formulas import Results
from common.measure.ceilings import measure_ceilings
from common.measure.run import Point
from common.measure.tables import Table
from common.measure.timing import Times, time_each, time_one

TABLE = Table("row_kernels", key=("kernel", "rows", "columns", "dtype", "implementation"),
              numbers=("bytes", "copy_bytes_per_second", "launch_seconds"),
              optional=("time", "p05", "p95", "repeats", "bytes_per_second", "share_of_copy", "predicted"),
              words=("absent",))

SIZES = {  # kernel -> its sizes, rows and columns
    "copy": [(8192, 8192)],
    "row_mean_square": [(8192, 8192)],
    "rms_norm": [(8192, 8192), (1, 8192), (16, 8192), (128, 8192), (1024, 8192)],
    "add_rms_norm": [(8192, 8192)],
    "silu_and_mul": [(8192, 8192)],
    "rotate_in_place": [(8192, 8192)],
    "online_softmax": [(8192, 8192), (512, 131_072)],
}
AGREES = 0.02  # of the norm: far above bfloat16's rounding, far below anything that is wrong


def points(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> list[Point]:
    if device.type != "cuda":
        return []  # Triton's interpreter says nothing about speed
    return [Point(TABLE, {"kernel": kernel, "rows": rows, "columns": columns,
                          "dtype": str(dtype).removeprefix("torch."), "implementation": name},
                  partial(measure, kernel, rows, columns, dtype, device, name))
            for kernel, sizes in SIZES.items() for rows, columns in sizes for name in names(kernel, (rows, columns))]


def names(kernel: str, size: tuple[int, int]) -> tuple[str, ...]:
    """All implementations at a kernel's first size; at its other sizes this lesson's and torch's."""
    if kernel == "copy":
        return (TORCH,)
    if size != SIZES[kernel][0]:
        return (LESSON, TORCH)
    return (LESSON, TORCH, COMPILED, LIGER, FLASHINFER) + (CUDA,) * (kernel in ("rms_norm", "silu_and_mul"))


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
    return row | {**times.columns(), "bytes_per_second": rate, "share_of_copy": rate / copying,
                  "predicted": predicted(case(*size), copying, launching) if name == LESSON else None}


@cache
def prepare(dtype: torch.dtype, device: torch.device) -> None:
    """Compile everything: nvcc's work in parallel, and torch's meanwhile, or it would take minutes."""
    with ThreadPoolExecutor() as pool:
        if device.type == "cuda":
            for kernel in ("rms_norm", "silu_and_mul", "rotate_in_place"):  # FlashInfer's three modules
                pool.submit(case(kernel, *SIZES[kernel][0], dtype, device).run[FLASHINFER])
            pool.submit(lambda: cuda().compiled())
        for kernel, (size, *_) in SIZES.items():
            with suppress(Exception):  # the measurement that needs it meets the error again
                case(kernel, *size, dtype, device).run[COMPILED]()


@cache
def limits(dtype: torch.dtype, device: torch.device) -> tuple[float, float]:
    """Bytes per second of a large copy, and the seconds of a kernel that does next to nothing."""
    number = torch.zeros(1, device=device)
    launching = time_one(number.zero_, device, budget=0.1, at_least=20, queued=True)
    return measure_ceilings(device, dtype).bytes_per_second, launching.median


@cache
def timed(
    kernel: str, rows: int, columns: int, dtype: torch.dtype, device: torch.device
) -> dict[str, Times | Exception]:
    """Implementation -> its times, or the exception that it raised, or that it deserves for a wrong result."""
    kernel_case, found = case(kernel, rows, columns, dtype, device), {}
    before, want = [tensor.clone() for tensor in kernel_case.reads], kernel_case.formula()
    for name in names(kernel, (rows, columns)):
        try:
            expect_agreement(kernel_case.run[name](), want)
            found[name] = kernel_case.run[name]
        except Exception as error:
            found[name] = error
        for tensor, value in zip(kernel_case.reads, before, strict=True):
            tensor.copy_(value)
    running = {name: run for name, run in found.items() if not isinstance(run, Exception)}
    times = time_each(list(running.values()), device, budget=1.0, at_least=20, at_most=100, queued=True)
    return found | dict(zip(running, times, strict=True))


def expect_agreement(got: Results, want: Results) -> None:
    for result, reference in zip(got, want, strict=True):
        distance = float((result.float() - reference.float()).norm() / reference.float().norm())
        if not distance < AGREES:
            raise ValueError(f"differs from the formula, by {distance:.2g} of its norm")


def predicted(kernel_case: Case, bytes_per_second: float, launch_seconds: float) -> float | None:
    """What the lab's own formula (05.1) says; None where it is not written yet."""
    try:
        predict = load_lab("triton_kernels").predict_seconds
        return float(predict(list(kernel_case.reads), list(kernel_case.writes), bytes_per_second, launch_seconds))
    except Exception:  # an unfinished lab must not cost the measurement
        return None
