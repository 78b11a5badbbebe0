"""Lesson 03: the seconds of a generation with the lab's KV cache, on the prompts and lengths of lesson 02.

transformers' `generate` with its default cache runs in the same rounds, on the same weights. Prefill is the generation
of one token, decode is what all further tokens add to that.
"""
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import Any

import torch

from common import labs_folder
from common.checks import load_lab
from common.measure import models, no_kv
from common.measure.limits import call_bytes, call_flops
from common.measure.run import Point
from common.measure.tables import Table
from common.measure.timing import time_each
from common.model.generate import greedy

TABLE = Table("single_batch_times", key=("model", "dtype", "prompt_length", "output_length"),
              numbers=("time", "p05", "p95", "repeats", "prefill_s", "decode_s", "limit_seconds",
                       "matmul_flops_per_second", "copy_bytes_per_second", "call_flops_per_second", "call_seconds"),
              optional=("predicted", "predicted_prefill_s", "peer_time", "peer_prefill_s", "peer_decode_s",
                        "decode_ratio"), words=("peer", "code"))


@dataclass(frozen=True)
class Plan:
    """How much time a model may take on a GPU. On a CPU nothing is that slow."""

    longest: int
    longest_of_peer: int
    at_least: int
    budget: float  # seconds of repeats at one point


PATIENT = Plan(longest=2048, longest_of_peer=2048, at_least=3, budget=10)
ON_GPU = {"story-llama": Plan(longest=2048, longest_of_peer=512, at_least=1, budget=2),
          "llama-3-8b-shape": Plan(longest=1024, longest_of_peer=256, at_least=1, budget=1)}


def points(device: torch.device) -> list[Point]:
    found = []
    for name in models.names(device):
        plan = ON_GPU[name] if device.type == "cuda" else PATIENT
        for length in no_kv.output_lengths(device):
            if length <= plan.longest:
                key = {"model": name, "dtype": str(models.dtype_on(device)).removeprefix("torch."),
                       "prompt_length": no_kv.PROMPT_LENGTH, "output_length": length}
                found.append(Point(TABLE, key, partial(measure, partial(subject, name, device), length, plan)))
    return found


@dataclass(frozen=True)
class Subject:
    """What lesson 02 knows of a model and of the machine, and transformers' model of the same weights, if any."""

    plain: no_kv.Subject
    peer: Any
    peer_name: str


@cache
def subject(name: str, device: torch.device) -> Subject:
    return Subject(no_kv.subject(name, device), *models.peer_named(name, device))


def measure(get_subject: Callable[[], Subject], output_length: int, plan: Plan) -> dict[str, float | str | None]:
    """One row. Raises what the lab raises, NotImplementedError for a stub, before anything is timed."""
    lab, it = load_lab("kv_cache"), get_subject()
    model, prompt = it.plain.model, it.plain.prompt
    device = model.embed_tokens.weight.device
    ids = torch.tensor([prompt], device=device)

    def ours(length: int) -> None:
        deque(lab.generate(model, prompt, length, frozenset(), greedy), maxlen=0)

    def theirs(length: int) -> None:
        it.peer.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, do_sample=False,
                         pad_token_id=0)

    sides = [ours, theirs] if it.peer is not None and output_length <= plan.longest_of_peer else [ours]
    functions = [partial(side, length) for side in sides for length in (output_length, 1)]
    whole, prefill, *other = time_each(functions, device, plan.budget, plan.at_least, at_most=20,
                                       warm_up=lambda: [side(8) for side in sides])
    row = {
        "time": whole.median, "p05": whole.p05, "p95": whole.p95, "repeats": len(whole.seconds),
        "prefill_s": prefill.median, "decode_s": whole.median - prefill.median,
        "limit_seconds": limit_seconds(it.plain, output_length),
        "matmul_flops_per_second": it.plain.limit_of_call[0], "copy_bytes_per_second": it.plain.limit_of_call[1],
        "call_flops_per_second": it.plain.rate_of_call[0], "call_seconds": it.plain.rate_of_call[1],
        **dict.fromkeys(TABLE.optional), "peer": it.peer_name, "code": labs_folder().name,
    } | predicted_seconds(lab, it.plain, output_length)
    if other:
        peer_whole, peer_prefill = (times.median for times in other)
        row |= {"peer_time": peer_whole, "peer_prefill_s": peer_prefill, "peer_decode_s": peer_whole - peer_prefill,
                "decode_ratio": row["decode_s"] / (peer_whole - peer_prefill)}
    return row


def limit_seconds(it: no_kv.Subject, output_length: int) -> float:
    """No call can be faster than its FLOPs at the matmul rate, nor than its weights and its cache can be moved."""
    config, (flops_per_second, bytes_per_second) = it.model.config, it.limit_of_call
    width = it.model.embed_tokens.weight.element_size()
    calls = [(len(it.prompt), 0), *((1, len(it.prompt) + step) for step in range(output_length - 1))]
    return sum(max(call_flops(config, new, held, causal=True) / flops_per_second,
                   call_bytes(config, new, held, width) / bytes_per_second) for new, held in calls)


def predicted_seconds(lab: ModuleType, it: no_kv.Subject, output_length: int) -> dict[str, float]:
    """What the lab's own formula (03.6) says before the generation is timed; nothing where it is not written yet.

    It is given two rates of lesson 02, how fast a long call computes and how long the shortest takes, and the copy
    bandwidth.
    """
    flops_per_second, seconds_per_call = it.rate_of_call
    _, bytes_per_second = it.limit_of_call
    try:
        prefill, decode = lab.predict_seconds(it.model.config, len(it.prompt), output_length, flops_per_second,
                                              bytes_per_second, seconds_per_call,
                                              it.model.embed_tokens.weight.element_size())
        return {"predicted": float(prefill + decode), "predicted_prefill_s": float(prefill)}
    except Exception:  # an unfinished or broken prediction shall not cost the measurement
        return {}
