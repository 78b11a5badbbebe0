"""The seconds of a generation with the lab's KV cache, on the prompts and lengths of the table without a cache.

transformers' `generate` with its default cache runs in the same rounds, on the same weights. Prefill is the generation
of one token, decode is what all further tokens add to that.
"""
from collections import deque
from collections.abc import Callable
from functools import partial
from types import ModuleType

import torch

from common import labs_folder
from common.checking.lab import load_lab
from common.measure import models
from common.measure.generation import PROMPT_LENGTH, Plan, Subject, output_lengths, subject_with_peer
from common.measure.run import Point
from common.measure.tables import Table
from common.measure.timing import time_each
from common.model.costs import generation_limits
from common.model.generate import greedy

TABLE = Table("single_batch_times", key=("model", "dtype", "prompt_length", "output_length"),
              numbers=("time", "p05", "p95", "repeats", "prefill_s", "decode_s", "limit_seconds",
                       "matmul_flops_per_second", "copy_bytes_per_second", "call_flops_per_second", "call_seconds"),
              optional=("predicted", "predicted_prefill_s", "peer_time", "peer_prefill_s", "peer_decode_s",
                        "decode_ratio"), words=("peer", "code"))

ON_CPU = Plan(longest=2048, longest_of_peer=2048, at_least=3, budget=10)
ON_GPU = {"story-llama": Plan(longest=2048, longest_of_peer=512, at_least=1, budget=2),
          "llama-3-8b-shape": Plan(longest=1024, longest_of_peer=256, at_least=1, budget=1)}


def points(device: torch.device) -> list[Point]:
    found = []
    for name in models.names(device):
        plan = ON_GPU[name] if device.type == "cuda" else ON_CPU
        for length in output_lengths(device):
            if length <= plan.longest:
                key = {"model": name, "dtype": models.dtype_name(device),
                       "prompt_length": PROMPT_LENGTH, "output_length": length}
                found.append(Point(TABLE, key, partial(measure, partial(subject_with_peer, name, device), length,
                                                       plan)))
    return found


def measure(get_subject: Callable[[], Subject], output_length: int, plan: Plan) -> dict[str, float | str | None]:
    """One row. Raises what the lab raises, NotImplementedError for a stub, before anything is timed."""
    lab, subject = load_lab("kv_cache"), get_subject()
    ids = torch.tensor([subject.prompt], device=subject.device)

    def ours(length: int) -> None:
        deque(lab.generate(subject.model, subject.prompt, length, frozenset(), greedy), maxlen=0)

    def theirs(length: int) -> None:
        subject.peer.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, do_sample=False,
                              pad_token_id=0)

    sides = [ours, theirs] if subject.peer is not None and output_length <= plan.longest_of_peer else [ours]
    functions = [partial(side, length) for side in sides for length in (output_length, 1)]
    whole, prefill, *peer_times = time_each(functions, subject.device, plan.budget, plan.at_least, at_most=20,
                                            warm_up=lambda: [side(8) for side in sides])
    row = {
        **whole.columns(), "prefill_s": prefill.median, "decode_s": whole.median - prefill.median,
        "limit_seconds": limit_seconds(subject, output_length), **subject.columns(),
        **dict.fromkeys(TABLE.optional), "peer": subject.peer_name, "code": labs_folder().name,
    } | predicted_seconds(lab, subject, output_length)
    if peer_times:
        peer_whole, peer_prefill = (times.median for times in peer_times)
        row |= {"peer_time": peer_whole, "peer_prefill_s": peer_prefill, "peer_decode_s": peer_whole - peer_prefill,
                "decode_ratio": row["decode_s"] / (peer_whole - peer_prefill)}
    return row


def limit_seconds(subject: Subject, output_length: int) -> float:
    """No call can be faster than its FLOPs at the matmul rate, nor than its weights and its cache can be moved."""
    ceilings = subject.ceilings
    return sum(generation_limits(subject.model.config, [len(subject.prompt)], output_length,
                                 ceilings.flops_per_second, ceilings.bytes_per_second, subject.bytes_per_weight))


def predicted_seconds(lab: ModuleType, subject: Subject, output_length: int) -> dict[str, float]:
    """What the lab's own formula (03.6) says before the generation is timed; nothing where it is not written yet.

    It takes the two rates of lesson 02, how fast a long call computes and how long the shortest takes, and the copy
    bandwidth.
    """
    try:
        prefill, decode = lab.predict_seconds(subject.model.config, len(subject.prompt), output_length,
                                              subject.call_flops_per_second, subject.ceilings.bytes_per_second,
                                              subject.call_seconds, subject.bytes_per_weight)
        return {"predicted": float(prefill + decode), "predicted_prefill_s": float(prefill)}
    except Exception:  # an unfinished or broken prediction must not cost the measurement
        return {}
