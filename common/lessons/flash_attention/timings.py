"""Everything that this lesson measures."""
import torch

from common.lessons.flash_attention import attention_timings, step_timings
from common.measure.run import Point


def points(device: torch.device) -> list[Point]:
    return attention_timings.points(device) + step_timings.points(device)
