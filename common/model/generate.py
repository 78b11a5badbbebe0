"""Plain generation: the whole prefix through the model for every new token, nothing remembered.

Slow, and so short that it is plainly right: every faster engine of the course must produce the same tokens.
"""
from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from common.model.attention import CausalAttention
from common.model.llama import Llama


def greedy(logits: Float[Tensor, "N V"]) -> int:
    """The most likely token after the last of N tokens; the lowest id among equals."""
    return int(logits[-1].argmax())


@torch.inference_mode()
def generate(model: Llama, prompt_ids: list[int], max_new_tokens: int, stop_ids: Iterable[int] = (),
             choose: Callable[[Float[Tensor, "N V"]], int] = greedy) -> Iterator[int]:
    """Yield up to `max_new_tokens` ids after `prompt_ids`; a stop id ends generation and is not yielded."""
    device = next(model.parameters()).device
    token_ids = list(prompt_ids)
    for _ in range(max_new_tokens):
        hidden = model(torch.tensor(token_ids, device=device), torch.arange(len(token_ids), device=device),
                       CausalAttention())
        token_id = int(choose(model.logits(hidden[-1:])))
        if token_id in stop_ids:
            return
        token_ids.append(token_id)
        yield token_id
