"""The oracle: what plain greedy generation without a cache gives, and prompts on which it is sure of itself."""
import random
from functools import cache

import numpy as np
import torch

from common import STORY_LLAMA
from common.model.attention import CausalAttention
from common.model.checkpoint import load_model
from common.model.generate import greedy
from common.model.llama import Llama
from common.model.storyworld import story
from common.model.tokenizer import Tokenizer

CPU = torch.device("cpu")
CLEAR = 1e-3  # two logits closer than this may change places between two right float32 computations


@cache
def story_model(device: torch.device) -> Llama:
    return load_model(STORY_LLAMA, device=device)


def oracle(model: Llama, prompt_ids: list[int], new_tokens: int) -> tuple[list[int], float]:
    """Greedy tokens of the model, and the smallest lead that a chosen logit had over the second best."""
    token_ids, lead = list(prompt_ids), float("inf")
    for _ in range(new_tokens):
        with torch.inference_mode():
            hidden = model(torch.tensor(token_ids), torch.arange(len(token_ids)), CausalAttention())
            logits = model.logits(hidden[-1:])
            best, second = logits[0].topk(2).values.tolist()
            token_ids.append(greedy(logits))
        lead = min(lead, best - second)
    return token_ids[len(prompt_ids):], lead


def draw_prompt(rng: np.random.Generator, length: int) -> list[int]:
    """The first `length` ids of a fresh story, the begin token among them."""
    text = story(random.Random(int(rng.integers(1 << 30))), tokens=2 * length + 60).text  # plenty: it may fall short
    return Tokenizer(STORY_LLAMA).encode(text)[:length]


def draw_clear_prompt(rng: np.random.Generator, length: int, new_tokens: int) -> list[int]:
    """A prompt after which the oracle generates `new_tokens` without a close call and without a stop token."""
    stop_ids = Tokenizer(STORY_LLAMA).stop_ids
    while True:
        prompt_ids = draw_prompt(rng, length)
        tokens, lead = oracle(story_model(CPU), prompt_ids, new_tokens)
        if lead > CLEAR and not stop_ids & set(tokens):
            return prompt_ids


def first_departure(model: Llama, prompt_ids: list[int], token_ids: list[int]) -> tuple[int, int] | None:
    """The first of `token_ids` that the oracle would not have chosen after all before it, and what it would have.

    One pass over the whole text marks every token. Two logits closer than CLEAR count as equally good.
    """
    if not token_ids:
        return None
    text = torch.tensor([*prompt_ids, *token_ids[:-1]])
    with torch.inference_mode():
        logits = model.logits(model(text, torch.arange(len(text)), CausalAttention())[len(prompt_ids) - 1:])
    for index, (row, token_id) in enumerate(zip(logits, token_ids, strict=True)):
        if not 0 <= token_id < len(row) or row[token_id] < row.max() - CLEAR:
            return index, int(row.argmax())
    return None
