"""Models that have a shape and no training: to time what is too large to ship, and to check small odd shapes."""
import torch

from common.model.llama import Config, Llama

LLAMA_3_8B = Config(vocab_size=128_256, dim=4096, n_layers=32, n_heads=32, n_kv_heads=8, head_dim=128, ffn_dim=14_336,
                    rope_theta=500_000.0, max_positions=8192)


def random_model(config: Config, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Llama:
    """A model of this shape that has learned nothing: its speed does not depend on the numbers."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            torch.manual_seed(seed)
            return Llama(config).to(device).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
