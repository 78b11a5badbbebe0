"""What checks of several lessons draw, and how they hand it to a lab."""
import numpy as np
import torch
from torch import Tensor

from common.checking.exercise import Rng


def randn(rng: Rng, *shape: int) -> Tensor:
    """Standard normal numbers, float32."""
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def integer(rng: Rng, low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return int(rng.integers(low, high + 1))


def draw_config(rng: Rng) -> dict[str, int]:
    """The numbers of a small `Config`, no two related: heads that do not fill the width, grouped keys, odd sizes."""
    kv_heads = integer(rng, 1, 3)
    return {"vocab_size": integer(rng, 30, 199), "dim": integer(rng, 10, 59), "n_layers": integer(rng, 2, 4),
            "n_heads": kv_heads * integer(rng, 2, 4), "n_kv_heads": kv_heads, "head_dim": 2 * integer(rng, 2, 11),
            "ffn_dim": integer(rng, 20, 149)}


def draw_qkv(rng: Rng, rows: tuple[int, ...], heads: tuple[int, int, int],
             dtype: torch.dtype) -> dict[str, Tensor]:
    """q, k and v of shape (*rows, heads, D); `heads` are query heads, key/value heads and D."""
    h, kh, d = heads
    return {name: randn(rng, *rows, number, d).to(dtype) for name, number in (("q", h), ("k", kh), ("v", kh))}


def as_slices(*parts: Tensor) -> list[Tensor]:
    """The same (N, heads, D) tensors as slices of one, as a fused projection gives them: not contiguous."""
    return list(torch.cat(parts, dim=1).split([part.shape[1] for part in parts], dim=1))
