"""What torch counts when a model runs, for the formulas of the labs to be held against. Nothing is computed."""
from functools import lru_cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from common.model.attention import Attention, CausalAttention
from common.model.llama import Config, Llama


@lru_cache(maxsize=8)
def shape_of(config: Config) -> Llama:
    """A model that has shapes and no numbers."""
    with torch.device("meta"):
        model = Llama(config)
        model.rotary.to("meta")
        return model


def counted_flops(config: dict[str, int], n: int, attention: Attention | None = None) -> int:
    """The operations of a model of this shape on n tokens, the logits of the last one included."""
    model = shape_of(Config(**config))
    token_ids = torch.zeros(n, dtype=torch.long, device="meta")
    # torch counts the products of the plain formula; its fused kernel on the CPU it counts as nothing at all.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
        model.logits(model(token_ids, token_ids, attention or CausalAttention())[-1:])
    return counter.get_total_flops()
