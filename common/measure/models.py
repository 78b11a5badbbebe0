"""The models that are timed, and what they are given to read."""
import random
from functools import cache

import torch

from common import STORY_LLAMA
from common.model.checkpoint import load_model
from common.model.llama import Llama
from common.model.shapes import LLAMA_3_8B, random_model


def names(device: torch.device) -> tuple[str, ...]:
    """On a CPU the story model alone; on a GPU the 8B model's shape too, with random weights."""
    return ("story-llama", "llama-3-8b-shape") if device.type == "cuda" else ("story-llama",)


def dtype_on(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


@cache
def model_named(name: str, device: torch.device) -> Llama:
    if name == "story-llama":
        return load_model(STORY_LLAMA, dtype_on(device), device)
    return random_model(LLAMA_3_8B, dtype_on(device), device)


def random_prompt(model: Llama, length: int, seed: int | str = "timings") -> list[int]:
    """Ids that mean nothing: the time of a pass does not depend on them."""
    rng = random.Random(seed)
    return [rng.randrange(model.config.vocab_size) for _ in range(length)]
