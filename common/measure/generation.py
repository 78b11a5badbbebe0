"""What timings of whole generations share: a model on a machine, the prompt and the lengths, and the plainest table.

Each generation has its full length: no token ends it.
"""
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from common.measure import models
from common.measure.ceilings import Ceilings, measure_ceilings
from common.measure.tables import Table
from common.measure.timing import time_one
from common.model.attention import CausalAttention
from common.model.costs import forward_flops
from common.model.generate import greedy
from common.model.llama import Llama

# Generations without a cache: later figures compare with them.
NO_KV_TIMES = Table("no_kv_times", key=("model", "dtype", "prompt_length", "output_length"),
                    numbers=("time", "p05", "p95", "repeats", "limit_seconds", "matmul_flops_per_second",
                             "copy_bytes_per_second", "call_flops_per_second", "call_seconds"),
                    optional=("predicted",))
PROMPT_LENGTH = 64


def output_lengths(device: torch.device) -> tuple[int, ...]:
    return (128, 256, 512, 1024, 2048) if device.type == "cuda" else (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Plan:
    """How much time a model may take at one point."""

    longest: int  # output length
    longest_of_peer: int
    at_least: int  # repeats
    budget: float  # seconds of repeats


@dataclass(frozen=True)
class Subject:
    """A model to time, and what has to be known of it and of the machine before the first prediction.

    `peer` is transformers' model on the same weights, and `peer_name` its version, or the reason why it is absent.
    """

    model: Llama
    prompt: list[int]
    ceilings: Ceilings  # what this machine can do
    call_flops_per_second: float  # of the longest call of the sweep
    call_seconds: float  # of the shortest possible call
    peer: Any = None
    peer_name: str = ""

    @property
    def device(self) -> torch.device:
        return self.model.embed_tokens.weight.device

    @property
    def bytes_per_weight(self) -> int:
        return self.model.embed_tokens.weight.element_size()

    def columns(self) -> dict[str, float]:
        """The columns of a table that hold the machine's rates."""
        return self.ceilings.columns() | {"call_flops_per_second": self.call_flops_per_second,
                                          "call_seconds": self.call_seconds}


@cache
def subject_named(name: str, device: torch.device) -> Subject:
    """Load or make the model, and time the two calls and the two ceilings that limit and prediction rest on."""
    model = models.model_named(name, device)
    return characterise(model, models.random_prompt(model, PROMPT_LENGTH), PROMPT_LENGTH + max(output_lengths(device)))


@cache
def subject_with_peer(name: str, device: torch.device) -> Subject:
    subject = subject_named(name, device)
    peer, peer_name = models.peer_named(name, device)
    return replace(subject, peer=peer, peer_name=peer_name)


def characterise(model: Llama, prompt: list[int], longest: int) -> Subject:
    """Time a call on one token, a call on `longest` tokens, and the machine's ceilings."""
    weight = model.embed_tokens.weight
    ceilings = measure_ceilings(weight.device, weight.dtype)
    shortest_call, longest_call = (time_call(model, n) for n in (1, longest))
    return Subject(model, prompt, ceilings, forward_flops(model.config, longest) / longest_call, shortest_call)


@torch.inference_mode()
def time_call(model: Llama, n: int) -> float:
    """Median seconds from n tokens to the choice of the next."""
    device = model.embed_tokens.weight.device
    token_ids, positions = torch.zeros(n, dtype=torch.long, device=device), torch.arange(n, device=device)

    def call() -> int:
        return greedy(model.logits(model(token_ids, positions, CausalAttention())[-1:]))

    return time_one(call, device, budget=1.0, at_least=3).median
