"""The course's own decoder against transformers', on the story model in float32: is the reference slow?"""
from collections import deque
from functools import partial

import torch

from common.measure import models
from common.measure.run import Point
from common.measure.tables import Table
from common.measure.timing import time_each
from common.model.attention import CausalAttention
from common.model.generate import generate

CPU = torch.device("cpu")
TABLE = Table("decoder_forward", key=("task", "batch", "tokens", "new_tokens"),
              numbers=("time", "p05", "p95", "repeats"),
              optional=("peer_time", "peer_p05", "peer_p95", "ratio"), words=("peer",))


def points(device: torch.device) -> list[Point]:
    """Only on a CPU: on a GPU both sides of so small a model only wait for kernel launches."""
    if device.type != "cpu":
        return []
    tasks = [("forward", 1, 512, 0), ("forward", 8, 64, 0), ("generate without cache", 1, 64, 128)]
    return [Point(TABLE, dict(zip(TABLE.key, task, strict=True)), partial(measure, *task)) for task in tasks]


@torch.inference_mode()
def measure(task: str, batch: int, tokens: int, new_tokens: int) -> dict:
    """One row: our median, theirs in the same rounds, and the ratio of the two."""
    model, (peer, name) = models.model_named("story-llama", CPU), models.peer_named("story-llama", CPU)
    ids = torch.tensor([models.random_prompt(model, tokens, seed=row) for row in range(batch)])

    def our_forward() -> torch.Tensor:
        return model.logits(model(ids.flatten(), torch.arange(tokens).repeat(batch), CausalAttention(batch)))

    def our_generation() -> None:
        deque(generate(model, ids[0].tolist(), new_tokens), maxlen=0)

    def their_forward() -> torch.Tensor:
        return peer(ids, use_cache=False).logits

    def their_generation() -> torch.Tensor:
        return peer.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False,
                             use_cache=False, pad_token_id=0)

    pair = [our_forward, their_forward] if task == "forward" else [our_generation, their_generation]
    ours, *theirs = time_each(pair if peer else pair[:1], CPU, budget=10, at_least=5, at_most=60)
    row = ours.columns() | dict.fromkeys(TABLE.optional) | {"peer": name}
    for times in theirs:
        row |= times.columns("peer_") | {"ratio": ours.median / times.median}
    return row
