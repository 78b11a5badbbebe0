"""Guard margins: sentinels around a tensor that show reads and writes beyond its ends.

Triton's interpreter, like a GPU, does not notice a load or store that leaves its tensor. Here the tensor lies inside a
larger buffer, if asked for with a gap after each of its rows. Around inputs the buffer holds NaN (for integers: the
smallest value), so that a stray load spoils the result. Around outputs, and around what is updated in place, it holds
an ordinary number, so that even a stray store of NaN changes it.
"""
import math

import torch
from torch import Tensor

MARGIN = 16_384  # elements on either side: as wide as the widest block that a lesson's kernels use
QUIET = 1000  # exact in every dtype, bfloat16 included


def poison(dtype: torch.dtype) -> float | int:
    return float("nan") if dtype.is_floating_point else torch.iinfo(dtype).min


def guarded_input(tensor: Tensor, gap: int = 0, margin: int = MARGIN) -> Tensor:
    """A copy of `tensor` between margins that spoil whatever is computed from them; see `surrounded` for `gap`."""
    return surrounded(tensor, poison(tensor.dtype), gap, margin)


def guarded_in_place(tensor: Tensor, gap: int = 0) -> Tensor:
    """A copy of `tensor` that is to be updated in place; see `stray_writes`."""
    return surrounded(tensor, QUIET, gap)


def guarded_output(like: Tensor, gap: int = 0) -> Tensor:
    """An output of the same shape and dtype, itself poisoned so that unwritten elements show; see `stray_writes`."""
    return guarded_in_place(torch.full_like(like, poison(like.dtype)), gap)


def stray_writes(output: Tensor) -> int:
    """How many elements around a `guarded_output` or `guarded_in_place`, gaps included, have been overwritten."""
    buffer = output._base
    outside = torch.ones_like(buffer, dtype=torch.bool)
    outside.as_strided(output.shape, output.stride(), output.storage_offset()).fill_(False)
    return int((buffer[outside] != QUIET).sum())


def surrounded(tensor: Tensor, fill: float | int, gap: int = 0, margin: int = MARGIN) -> Tensor:
    """A copy inside a buffer of `fill`, contiguous but for `gap` elements after each row (each tensor[n])."""
    row = math.prod(tensor.shape[1:]) + gap
    buffer = torch.full((len(tensor) * row + 2 * margin,), fill, dtype=tensor.dtype, device=tensor.device)
    rows = buffer[margin:margin + len(tensor) * row].view(len(tensor), row)
    view = rows[:, :row - gap].view(tensor.shape)
    view.copy_(tensor)
    return view
