"""The one interface between the decoder and attention, and its plainest backend."""
from typing import Protocol

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


class Attention(Protocol):
    """Called by every layer with its own packed, already rotated heads. Owns the mask and any key/value cache."""

    def __call__(
        self, layer: int, q: Float[Tensor, "N H D"], k: Float[Tensor, "N KH D"], v: Float[Tensor, "N KH D"]
    ) -> Float[Tensor, "N H D"]: ...


class CausalAttention:
    """No cache: the N tokens are `batch` whole sequences of equal length, each attending to its own past."""

    def __init__(self, batch: int = 1):
        self.batch = batch

    def __call__(
        self, layer: int, q: Float[Tensor, "N H D"], k: Float[Tensor, "N KH D"], v: Float[Tensor, "N KH D"]
    ) -> Float[Tensor, "N H D"]:
        q, k, v = (x.unflatten(0, (self.batch, -1)).transpose(1, 2) for x in (q, k, v))  # (batch, heads, T, D)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        return out.transpose(1, 2).flatten(0, 1)
