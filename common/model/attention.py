"""The one interface between the decoder and attention, and its plainest backend."""
from collections.abc import Sequence
from typing import Protocol

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

# What a layer hands over: the heads of the N packed tokens of this call, H for queries and KH for keys and values.
QueryHeads = Float[Tensor, "N H D"]
KVHeads = Float[Tensor, "N KH D"]


class Attention(Protocol):
    """Called by every layer with its own packed, already rotated heads. Owns the mask and any key/value cache."""

    def __call__(self, layer: int, q: QueryHeads, k: KVHeads, v: KVHeads) -> QueryHeads: ...


class SteppedAttention(Attention, Protocol):
    """A backend that serves more than one call of the model, and so has to be told what each call brings."""

    def begin(self, counts: Sequence[int]) -> Int[Tensor, "N"]:
        """Announce the next call: counts[i] new tokens of request i, N in all. Returns the positions of all N."""
        ...


class CausalAttention:
    """No cache: the N tokens are `batch` whole sequences of equal length, each attending to its own past."""

    def __init__(self, batch: int = 1):
        self.batch = batch

    def __call__(self, layer: int, q: QueryHeads, k: KVHeads, v: KVHeads) -> QueryHeads:
        q, k, v = (x.unflatten(0, (self.batch, -1)).transpose(1, 2) for x in (q, k, v))  # (batch, heads, T, D)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        return out.transpose(1, 2).flatten(0, 1)
