"""The seconds of a generation without a cache, against its length."""
from collections import deque
from collections.abc import Callable
from functools import partial

import torch

from common.checking.lab import load_lab
from common.measure import models
from common.measure.generation import NO_KV_TIMES, PROMPT_LENGTH, Subject, output_lengths, subject_named
from common.measure.run import Point
from common.measure.timing import time_one
from common.model.costs import forward_flops, weight_bytes
from common.model.generate import generate

BUDGET = 10.0  # seconds of repeats at one point


def points(device: torch.device) -> list[Point]:
    return [Point(NO_KV_TIMES, {"model": name, "dtype": models.dtype_name(device),
                                "prompt_length": PROMPT_LENGTH, "output_length": length},
                  partial(measure, partial(subject_named, name, device), length,
                          1 if name == "llama-3-8b-shape" else 3))
            for name in models.names(device) for length in output_lengths(device)]


def measure(get_subject: Callable[[], Subject], output_length: int, at_least: int = 1,
            budget: float = BUDGET) -> dict[str, float | None]:
    """One row: the generation of `output_length` tokens, its limit and its prediction."""
    subject = get_subject()

    def generation(length: int) -> None:
        deque(generate(subject.model, subject.prompt, length), maxlen=0)

    times = time_one(lambda: generation(output_length), subject.device, budget, at_least, 20,
                     warm_up=lambda: generation(8))
    return times.columns() | {"limit_seconds": limit_seconds(subject, output_length), **subject.columns(),
                              "predicted": predicted_seconds(subject, output_length)}


def limit_seconds(subject: Subject, output_length: int) -> float:
    """No call can be faster than its FLOPs at the matmul rate, nor than its weights at the copy bandwidth."""
    config, ceilings = subject.model.config, subject.ceilings
    moving = weight_bytes(config, subject.bytes_per_weight) / ceilings.bytes_per_second
    return sum(max(forward_flops(config, len(subject.prompt) + step, causal=True) / ceilings.flops_per_second, moving)
               for step in range(output_length))


def predicted_seconds(subject: Subject, output_length: int) -> float | None:
    """What the lab's own formula (02.5) says before the generation is timed; None where it is not written yet."""
    try:
        predict = load_lab("no_kv_generation").predict_seconds
        return float(predict(subject.model.config, len(subject.prompt), output_length,
                             subject.call_flops_per_second, subject.call_seconds))
    except Exception:  # an unfinished or broken lab must not cost the measurement
        return None
