"""The models to time, and the prompts that they read."""
import random
from functools import cache
from typing import Any

import torch

from common import STORY_LLAMA
from common.model.checkpoint import load_model, to_hf_config, to_hf_name
from common.model.llama import Llama
from common.model.shapes import LLAMA_3_8B, random_model


def names(device: torch.device) -> tuple[str, ...]:
    """On a CPU only the story model; on a GPU the 8B model's shape too, with random weights."""
    return ("story-llama", "llama-3-8b-shape") if device.type == "cuda" else ("story-llama",)


def dtype_on(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def dtype_name(device: torch.device) -> str:
    return str(dtype_on(device)).removeprefix("torch.")


@cache
def model_named(name: str, device: torch.device) -> Llama:
    if name == "story-llama":
        return load_model(STORY_LLAMA, dtype_on(device), device)
    return random_model(LLAMA_3_8B, dtype_on(device), device)


@cache
def peer_named(name: str, device: torch.device) -> tuple[Any, str]:
    """transformers' model on the very weights of `model_named`, and its version; or None, and why it is absent."""
    try:
        import transformers
    except ImportError as error:
        return None, f"transformers absent: {error}"
    return peer_of(model_named(name, device)), f"transformers {transformers.__version__}"


def peer_of(model: Llama) -> Any:
    """transformers' Llama of the same shape. It shares the weights, so that two large models fit where one does."""
    import transformers

    config = transformers.LlamaConfig.from_dict(to_hf_config(model.config))
    weight = model.embed_tokens.weight
    with torch.device("meta"):  # shapes only: the weights are ours
        peer = transformers.AutoModelForCausalLM.from_config(config, dtype=weight.dtype, attn_implementation="sdpa")
    peer.load_state_dict({to_hf_name(key): tensor for key, tensor in model.state_dict().items()}, strict=False,
                         assign=True)
    peer.tie_weights()
    peer.model.rotary_emb = type(peer.model.rotary_emb)(config=config).to(weight.device)  # is in no state_dict
    peer.generation_config.eos_token_id = None  # every generation has its full length
    return peer.eval()


def random_prompt(model: Llama, length: int, seed: int | str = "timings") -> list[int]:
    """Ids that mean nothing: the time of a pass does not depend on them."""
    rng = random.Random(seed)
    return [rng.randrange(model.config.vocab_size) for _ in range(length)]
