"""Guard margins: sentinels around a tensor that show reads and writes beyond its ends.

Triton's interpreter, like a GPU, does not notice a load or store that leaves its tensor. Here the tensor lies inside a
larger buffer. The margins of inputs hold NaN (for integers: the smallest value), so that a stray load spoils the
result. The margins of outputs hold an ordinary number, so that even a stray store of NaN changes them.
"""
import torch
from torch import Tensor

MARGIN = 1024  # elements on either side: as wide as the widest block that a lesson's kernels use
QUIET = 1000  # exact in every dtype, bfloat16 included


def poison(dtype: torch.dtype) -> float | int:
    return float("nan") if dtype.is_floating_point else torch.iinfo(dtype).min


def guarded_input(tensor: Tensor, margin: int = MARGIN) -> Tensor:
    """A contiguous copy of `tensor` between margins that spoil whatever is computed from them."""
    return surrounded(tensor, poison(tensor.dtype), margin)


def guarded_output(like: Tensor) -> Tensor:
    """An output of the same shape and dtype, itself poisoned so that unwritten elements show; see `stray_writes`."""
    return surrounded(torch.full_like(like, poison(like.dtype)), QUIET)


def stray_writes(output: Tensor) -> int:
    """How many elements of the margins of a `guarded_output` have been overwritten."""
    buffer = output._base
    return int((torch.cat((buffer[:MARGIN], buffer[-MARGIN:])) != QUIET).sum())


def surrounded(tensor: Tensor, fill: float | int, margin: int = MARGIN) -> Tensor:
    buffer = torch.full((tensor.numel() + 2 * margin,), fill, dtype=tensor.dtype, device=tensor.device)
    view = buffer[margin:margin + tensor.numel()].view(tensor.shape)
    view.copy_(tensor)
    return view
