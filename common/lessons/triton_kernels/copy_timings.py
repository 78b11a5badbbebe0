"""How long a copy between host and GPU takes, from pageable and from pinned memory, whole and by columns.

A column is every 64th number of a float32 matrix: 4 bytes of every 256.
"""
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from common.measure.run import Point
from common.measure.tables import Table
from common.measure.timing import Times, time_one

TABLE = Table("copies", key=("direction", "host_memory", "layout", "bytes"), numbers=("time", "p05", "p95", "repeats"))

TO_GPU, TO_HOST, WITHIN = "to the GPU", "to the host", "within the GPU"
ROW = 64  # float32 numbers in a row of the matrix whose column is copied
BUDGET = 0.03  # seconds of repeats at one point


def points(device: torch.device) -> list[Point]:
    """Powers of two: whole tensors from 1 byte to 64 MiB; columns from 4 bytes, within a matrix of at most 256 MiB."""
    if device.type != "cuda":
        return []  # there is no other memory to copy to
    whole, columns = [2**k for k in range(27)], [2**k for k in range(2, 23)]
    hosts = [(direction, memory) for direction in (TO_GPU, TO_HOST) for memory in ("pageable", "pinned")]
    keys = [(*host, "whole", size) for host in hosts for size in whole]
    keys += [(TO_GPU, "pinned", "column", size) for size in columns]
    keys += [(WITHIN, "none", layout, size) for layout, sizes in (("whole", whole), ("column", columns))
             for size in sizes]
    return [Point(TABLE, dict(zip(TABLE.key, key, strict=True)), partial(measure, device, *key)) for key in keys]


def measure(device: torch.device, direction: str, host_memory: str, layout: str, size: int) -> dict:
    return time_copy(device, direction, host_memory, layout, size).columns()


def time_copy(device: torch.device, direction: str, host_memory: str, layout: str, size: int) -> Times:
    """Time a copy within the GPU by its own clock, any other by the host's, until the data has arrived."""
    host = torch.device("cpu")
    source = numbers(host if direction == TO_GPU else device, layout, size, host_memory == "pinned")
    target = torch.empty(source.shape, dtype=source.dtype, device=host if direction == TO_HOST else device,
                         pin_memory=direction == TO_HOST and host_memory == "pinned")
    copy: Callable[[], object] = partial(target.copy_, source, non_blocking=True)
    if direction == WITHIN:
        return time_one(copy, device, BUDGET, at_least=5, queued=True)

    def copy_and_wait() -> None:
        copy()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return time_one(copy_and_wait, host, BUDGET, at_least=5)


def numbers(device: torch.device, layout: str, size: int, pinned: bool) -> Tensor:
    """`size` bytes, either on their own or as the first column of a matrix."""
    if layout == "whole":
        return torch.ones(size, dtype=torch.uint8, device=device, pin_memory=pinned)
    return torch.ones(size // 4, ROW, device=device, pin_memory=pinned)[:, 0]
