"""Lesson 02: the seconds of a generation without a cache, against its length."""
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch

from common.measure import models
from common.measure.ceilings import measure_ceilings
from common.measure.limits import forward_flops, weight_bytes
from common.measure.run import Point
from common.measure.tables import Table
from common.measure.timing import time_one
from common.model.attention import CausalAttention
from common.model.generate import generate, greedy
from common.model.llama import Llama

TABLE = Table("no_kv_times", key=("model", "dtype", "prompt_length", "output_length"),
              numbers=("time", "p05", "p95", "repeats", "limit_seconds", "matmul_flops_per_second",
                       "copy_bytes_per_second", "call_flops_per_second", "call_seconds"), optional=("predicted",))
PROMPT_LENGTH = 64
BUDGET = 10.0  # seconds of repeats at one point


@dataclass(frozen=True)
class Subject:
    """A model to time, and what has to be known of it and of the machine before the first prediction."""

    model: Llama
    prompt: list[int]
    limit_of_call: tuple[float, float]  # matmul FLOP/s, copy bytes/s: what this machine can do
    rate_of_call: tuple[float, float]  # FLOP/s of the longest call of the sweep, seconds of the shortest possible one


def output_lengths(device: torch.device) -> tuple[int, ...]:
    return (128, 256, 512, 1024, 2048) if device.type == "cuda" else (16, 32, 64, 128, 256)


def points(device: torch.device) -> list[Point]:
    lengths = output_lengths(device)
    return [Point(TABLE, {"model": name, "dtype": str(models.dtype_on(device)).removeprefix("torch."),
                          "prompt_length": PROMPT_LENGTH, "output_length": length},
                  partial(measure, partial(subject, name, device), length,
                          1 if name == "llama-3-8b-shape" else 3))
            for name in models.names(device) for length in lengths]


@cache
def subject(name: str, device: torch.device) -> Subject:
    """Load or make the model, and time the two calls and the two ceilings that limit and prediction rest on."""
    model = models.model_named(name, device)
    return characterise(model, models.random_prompt(model, PROMPT_LENGTH), PROMPT_LENGTH + max(output_lengths(device)))


def characterise(model: Llama, prompt: list[int], longest: int) -> Subject:
    weight = model.embed_tokens.weight
    ceilings = measure_ceilings(weight.device, weight.dtype)
    shortest_call, longest_call = (time_call(model, n) for n in (1, longest))
    return Subject(model, prompt, (ceilings.flops_per_second, ceilings.bytes_per_second),
                   (forward_flops(model.config, longest) / longest_call, shortest_call))


@torch.inference_mode()
def time_call(model: Llama, n: int) -> float:
    """Median seconds from n tokens to the choice of the next."""
    device = model.embed_tokens.weight.device
    token_ids, positions = torch.zeros(n, dtype=torch.long, device=device), torch.arange(n, device=device)

    def call() -> int:
        return greedy(model.logits(model(token_ids, positions, CausalAttention())[-1:]))

    return time_one(call, device, budget=1.0, at_least=3).median


def measure(get_subject: Callable[[], Subject], output_length: int, at_least: int = 1,
            budget: float = BUDGET) -> dict[str, float | None]:
    """One row: the generation of `output_length` tokens, its limit and its prediction."""
    it = get_subject()

    def generation(length: int) -> None:
        deque(generate(it.model, it.prompt, length), maxlen=0)  # no stop token: every run has the same length

    device = it.model.embed_tokens.weight.device
    times = time_one(lambda: generation(output_length), device, budget, at_least, 20, warm_up=lambda: generation(8))
    return {
        "time": times.median, "p05": times.p05, "p95": times.p95, "repeats": len(times.seconds),
        "limit_seconds": limit_seconds(it, output_length),
        "matmul_flops_per_second": it.limit_of_call[0], "copy_bytes_per_second": it.limit_of_call[1],
        "call_flops_per_second": it.rate_of_call[0], "call_seconds": it.rate_of_call[1],
        "predicted": predicted_seconds(it, output_length),
    }


def limit_seconds(it: Subject, output_length: int) -> float:
    """No call can be faster than its FLOPs at the matmul rate, nor than its weights at the copy bandwidth."""
    config, (flops_per_second, bytes_per_second) = it.model.config, it.limit_of_call
    moving = weight_bytes(config, it.model.embed_tokens.weight.element_size()) / bytes_per_second
    return sum(max(forward_flops(config, len(it.prompt) + step, causal=True) / flops_per_second, moving)
               for step in range(output_length))


def predicted_seconds(it: Subject, output_length: int) -> float | None:
    """What the lab's own formula (02.5) says before the generation is timed; None where it is not written yet."""
    from common.checks import load_lab

    try:
        predict = load_lab("no_kv_generation").predict_seconds
        return float(predict(it.model.config, len(it.prompt), output_length, *it.rate_of_call))
    except Exception:  # an unfinished or broken lab shall not cost the measurement
        return None
