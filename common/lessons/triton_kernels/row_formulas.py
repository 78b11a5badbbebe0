"""The row kernels' formulas in plain torch, one small operation after the other."""
import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5
KV_HEADS = 8

Results = tuple[Tensor, ...]


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
