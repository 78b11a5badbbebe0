"""Everything that this lesson measures."""
import torch

from common.lessons.triton_kernels import copy_timings, row_timings
from common.measure.run import Point


def points(device: torch.device) -> list[Point]:
    return row_timings.points(device) + copy_timings.points(device)
