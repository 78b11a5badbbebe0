"""What an attention leaves behind, tile by tile, if its values are chosen for it: what it loads, how it weighs."""
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.checking.guard import poison

BLOCK = 32  # rows whose trace lies in the same column; a head of D columns shows D blocks


def loads_show(like: Float[Tensor, "N H D"]) -> Float[Tensor, "N H D"]:
    """Values that are 0, but for a NaN in column j // BLOCK of row j.

    In p @ values, column c is NaN in those rows whose program loaded some of block c, even where their p is 0.
    """
    return torch.zeros_like(like).scatter_(2, columns_of(like), poison(like.dtype))


def loaded_blocks(out: Float[Tensor, "Nq H D"], nk: int) -> Bool[Tensor, "Nq blocks"]:
    """Which blocks of keys each query's program loaded, from the `out` of values of `loads_show`."""
    return out[:, 0, :-(-nk // BLOCK)].isnan()


def weights_show(like: Float[Tensor, "N H D"]) -> Float[Tensor, "N H D"]:
    """Values with a 1 in column j // BLOCK of row j: column c of p @ values is the weight that block c gets."""
    return torch.zeros_like(like).scatter_(2, columns_of(like), 1)


def columns_of(like: Tensor) -> Tensor:
    return torch.arange(len(like), device=like.device)[:, None, None].expand(-1, like.shape[1], 1) // BLOCK
