"""The one clock of the course: `time_each` and `time_one` time everything."""
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

Function = Callable[[], object]


@dataclass(frozen=True)
class Times:
    """The seconds that each repeat took."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def p05(self) -> float:
        return float(np.percentile(self.seconds, 5))

    @property
    def p95(self) -> float:
        return float(np.percentile(self.seconds, 95))

    def columns(self, prefix: str = "") -> dict[str, float]:
        """The columns of a table that hold these times.

        With a prefix, as in "peer_time", without `repeats`: that many rounds gave the other times of the row too.
        """
        columns = {f"{prefix}time": self.median, f"{prefix}p05": self.p05, f"{prefix}p95": self.p95}
        return columns if prefix else columns | {"repeats": len(self.seconds)}


def time_one(function: Function, device: torch.device, budget: float = 2.0, at_least: int = 1, at_most: int = 100,
             warm_up: Function | None = None, queued: bool = False) -> Times:
    """Time one function; see `time_each`."""
    return time_each([function], device, budget, at_least, at_most, warm_up, queued)[0]


def time_each(functions: list[Function], device: torch.device, budget: float = 2.0, at_least: int = 1,
              at_most: int = 100, warm_up: Function | None = None, queued: bool = False) -> list[Times]:
    """Time functions in turn, round after round, so that whatever else the machine does meets all of them alike.

    Calls `warm_up` first, or by default each function once. Rounds go on until `budget` seconds are spent, but never
    fewer than `at_least` nor more than `at_most`. `queued` is for kernels on a GPU: it leaves out what launching them
    costs the CPU, as in an engine whose GPU always has work waiting.
    """
    for function in [warm_up] if warm_up else functions:
        function()
    seconds_of_each: list[list[float]] = [[] for _ in functions]
    start = time.perf_counter()
    rounds = 0
    while rounds < at_least or (rounds < at_most and time.perf_counter() - start < budget):
        for function, seconds in zip(functions, seconds_of_each, strict=True):
            seconds.append(time_on_gpu(function, device, queued) if device.type == "cuda" else time_on_cpu(function))
        rounds += 1
    return [Times(tuple(seconds)) for seconds in seconds_of_each]


def time_on_cpu(function: Function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


HEAD_START = 2_000_000  # cycles, about a millisecond: longer than any launch takes


def time_on_gpu(function: Function, device: torch.device, queued: bool = False) -> float:
    """Between two events of the GPU's own clock, with nothing of an earlier repeat left in its L2 cache."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    flush_buffer(device).zero_()
    torch.cuda.synchronize(device)
    if queued:
        torch.cuda._sleep(HEAD_START)  # the GPU waits, and meanwhile the CPU gets ahead
    begin.record()
    function()
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end) / 1e3


@cache
def flush_buffer(device: torch.device) -> torch.Tensor:
    """Memory twice as large as the L2 cache: writing it drives everything else out."""
    return torch.empty(2 * torch.cuda.get_device_properties(device).L2_cache_size, dtype=torch.uint8, device=device)
