"""What no code on this machine can beat: its copy bandwidth and its matmul rate, measured here and now."""
from dataclasses import dataclass

import torch

from common.measure.timing import time_one


@dataclass(frozen=True)
class Ceilings:
    """The best of several repeats, since whatever else the machine does can only slow it down."""

    bytes_per_second: float
    flops_per_second: float

    def columns(self) -> dict[str, float]:
        """The columns of a table that hold these."""
        return {"matmul_flops_per_second": self.flops_per_second, "copy_bytes_per_second": self.bytes_per_second}


def measure_ceilings(device: torch.device, dtype: torch.dtype, budget: float = 1.0) -> Ceilings:
    """Copy a buffer far larger than any cache, and multiply two square matrices of `dtype`."""
    on_gpu = device.type == "cuda"
    source = torch.ones(2**30 if on_gpu else 2**27, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = time_one(lambda: target.copy_(source), device, budget, at_least=3)

    n = 8192 if on_gpu else 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    matmul = time_one(lambda: torch.mm(a, b), device, budget, at_least=3)
    # A copy reads and writes each byte; a matmul of n x n matrices adds n products into each of n * n sums.
    return Ceilings(2 * source.numel() / min(copy.seconds), 2 * n**3 / min(matmul.seconds))
