"""What `draw` functions of several lessons need."""
import numpy as np
import torch
from torch import Tensor


def randn(rng: np.random.Generator, *shape: int) -> Tensor:
    """Standard normal numbers, float32."""
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def integer(rng: np.random.Generator, low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return int(rng.integers(low, high + 1))


def draw_config(rng: np.random.Generator) -> dict[str, int]:
    """The numbers of a small `Config`, no two related: heads that do not fill the width, grouped keys, odd sizes."""
    kv_heads = int(rng.integers(1, 4))
    return {"vocab_size": int(rng.integers(30, 200)), "dim": int(rng.integers(10, 60)),
            "n_layers": int(rng.integers(2, 5)), "n_heads": kv_heads * int(rng.integers(2, 5)), "n_kv_heads": kv_heads,
            "head_dim": 2 * int(rng.integers(2, 12)), "ffn_dim": int(rng.integers(20, 150))}
