"""Whole batches with the lab's engine: prompts of one length, and prompts of different lengths.

One row holds a batch. `prompt_tokens` counts its prompts' own tokens, `padded_tokens` those of the rectangle that
padding makes of them. Prefill is the generation of one token for each prompt, decode is what all further tokens add to
that, and `tokens_per_s` is the rate of these further tokens. The prefill of the padded rectangle runs in the same
rounds, and so does transformers' `generate` with its default cache, padded on the left as it must be, on the same
weights.
"""
import random
from collections.abc import Callable
from functools import partial

import torch

from common import labs_folder
from common.checking.lab import load_lab
from common.measure import models
from common.measure.generation import Plan, Subject, subject_with_peer
from common.measure.run import Point
from common.measure.tables import Table
from common.measure.timing import time_each
from common.model.costs import generation_limits

NUMBERS = ("prompt_tokens", "padded_tokens", "new_tokens", "repeats", "time", "p05", "p95", "prefill_s", "prefill_p05",
           "prefill_p95", "decode_s", "tokens_per_s", "padded_prefill_s", "padded_over_packed", "limit_prefill_s",
           "limit_decode_s", "matmul_flops_per_second", "copy_bytes_per_second")
PEER = ("peer_prefill_s", "peer_decode_s", "peer_tokens_per_s", "decode_ratio")
UNIFORM, DIFFERENT = (Table(name, key=("model", "dtype", "batch_size"), numbers=NUMBERS, optional=PEER,
                            words=("peer", "code")) for name in ("uniform_prefill", "different_prefill"))
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
NEW_TOKENS = 128
SHORTEST, LONGEST = 32, 512  # tokens of a prompt; equal prompts have the longest


def prompt_lengths(batch_size: int, different: bool) -> list[int]:
    """Every batch is the beginning of the next larger one."""
    rng = random.Random("different prompts")
    return [rng.randint(SHORTEST, LONGEST) if different else LONGEST for _ in range(batch_size)]


def points(device: torch.device) -> list[Point]:
    """On a CPU the story model, on a GPU only the 8B model's shape: batches of a small model say nothing there."""
    name = models.names(device)[-1]
    at_least, budget = (1, 1) if device.type == "cuda" else (1, 6)
    plan = Plan(longest=NEW_TOKENS, longest_of_peer=NEW_TOKENS, at_least=at_least, budget=budget)
    return [Point(table, {"model": name, "dtype": models.dtype_name(device), "batch_size": batch_size},
                  partial(measure, partial(subject_with_peer, name, device),
                          prompt_lengths(batch_size, table is DIFFERENT), plan))
            for table in (UNIFORM, DIFFERENT) for batch_size in BATCH_SIZES]


def measure(get_subject: Callable[[], Subject], lengths: list[int], plan: Plan) -> dict[str, float | str | None]:
    """One row. Raises what the lab raises, NotImplementedError for a stub, before anything is timed."""
    lab, subject, new_tokens = load_lab("prefill"), get_subject(), plan.longest
    model, device, longest = subject.model, subject.device, max(lengths)
    prompts = [models.random_prompt(model, length, seed=index) for index, length in enumerate(lengths)]
    rows = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
    ids = torch.tensor(rows, device=device)
    mask = torch.arange(longest, device=device) >= longest - torch.tensor(lengths, device=device)[:, None]

    def packed(new: int) -> None:
        lab.generate_batch(model, prompts, new, frozenset(), longest + new - 1)

    def padded() -> None:
        lab.padded_prefill(model, prompts, "right").argmax(dim=-1).tolist()

    def theirs(new: int) -> None:
        subject.peer.generate(ids, attention_mask=mask.long(), max_new_tokens=new, do_sample=False, pad_token_id=0)

    sides = [packed, theirs] if subject.peer is not None else [packed]
    functions = [padded, *(partial(side, new) for side in sides for new in (new_tokens, 1))]
    padded_prefill, whole, prefill, *peer_times = time_each(
        functions, device, plan.budget, plan.at_least, at_most=10,
        warm_up=lambda: [padded(), *(side(4) for side in sides)])
    ceilings = subject.ceilings
    limit_prefill, limit_decode = generation_limits(model.config, lengths, new_tokens, ceilings.flops_per_second,
                                                    ceilings.bytes_per_second, subject.bytes_per_weight)
    decoded = len(lengths) * (new_tokens - 1)
    row = {
        "prompt_tokens": sum(lengths), "padded_tokens": len(lengths) * longest, "new_tokens": new_tokens,
        **whole.columns(),
        "prefill_s": prefill.median, "prefill_p05": prefill.p05, "prefill_p95": prefill.p95,
        "decode_s": whole.median - prefill.median, "tokens_per_s": decoded / (whole.median - prefill.median),
        "padded_prefill_s": padded_prefill.median, "padded_over_packed": padded_prefill.median / prefill.median,
        "limit_prefill_s": limit_prefill, "limit_decode_s": limit_decode, **ceilings.columns(),
        **dict.fromkeys(PEER), "peer": subject.peer_name, "code": labs_folder().name,
    }
    if peer_times:
        peer_whole, peer_prefill = (times.median for times in peer_times)
        row |= {"peer_prefill_s": peer_prefill, "peer_decode_s": peer_whole - peer_prefill,
                "peer_tokens_per_s": decoded / (peer_whole - peer_prefill),
                "decode_ratio": row["decode_s"] / (peer_whole - peer_prefill)}
    return row
