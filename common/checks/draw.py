"""What `draw` functions of several lessons need."""
import numpy as np
import torch
from torch import Tensor


def randn(rng: np.random.Generator, *shape: int) -> Tensor:
    """Standard normal numbers, float32."""
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
