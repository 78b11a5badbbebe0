"""What several exercises of lesson 04 share: prompts of unlike lengths, calls of an attention, and two oracles.

Each attention is held against causal attention in float64 over the tokens of one request after the other; each
generation against plain generation without a cache, one prompt after the other. A tolerance is ten times the largest
error of the reference, and of tests/alternatives/prefill.py, over 500 seeds of all checks (60 where the whole model
runs), rounded up; the largest error stands beside it.
"""
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from common.checking.compare import expect_close, expect_equal, expect_like
from common.checking.draw import as_slices, draw_config, draw_qkv, integer
from common.checking.exercise import Check, Mismatch, Values
from common.checking.watch import Operations
from common.device import DEVICE
from common.oracles.attention import causal_mod, plain_attention
from common.oracles.generation import CPU, draw_prompt, first_departure, story_model

Rng = np.random.Generator
Lengths = Callable[[Rng], list[int]]  # draws the length of each prompt

ATTENTION_ATOL = 1.5e-5  # largest error 1.4e-6, with values of about 1

# Prompts --------------------------------------------------------------------------------------------------------------


def ragged(batch: tuple[int, int], longest: tuple[int, int], between: bool = False) -> Lengths:
    """Draws lengths from 1 to that of the longest prompt, both among them where there are two; in any order.

    The number of prompts and the length of the longest lie within these bounds. With `between` all further prompts are
    longer than 1 and shorter than the longest.
    """
    def draw(rng: Rng) -> list[int]:
        size, most = integer(rng, *batch), integer(rng, *longest)
        ends, inside = [most, 1][:size], (2, most) if between else (1, most + 1)
        return rng.permutation([*ends, *rng.integers(*inside, size - len(ends))]).tolist()

    return draw


def draw_ids(rng: Rng, lengths: list[int]) -> list[list[int]]:
    return [rng.integers(0, 900, length).tolist() for length in lengths]


def draw_prompts(rng: Rng, lengths: list[int]) -> list[list[int]]:
    """The beginnings of stories."""
    return [draw_prompt(rng, length) for length in lengths]


def expect_greedy(prompts: list[list[int]], tokens: list[list[int]], new_tokens: int) -> None:
    """Each prompt has got `new_tokens` tokens, and those that the oracle gives it alone."""
    expect_equal("number of requests", len(tokens), len(prompts))
    for request, (prompt, own) in enumerate(zip(prompts, tokens, strict=True)):
        expect_equal(f"number of new tokens of request {request}", len(own), new_tokens)
        if departure := first_departure(story_model(CPU), prompt, own):
            index, want = departure
            raise Mismatch(f"request {request} of {len(prompts)}, a prompt of {len(prompt)} tokens: its new token "
                           f"{index} (from 0) is {own[index]}, and would be {want} if it ran alone")


# Calls of a model's attention -----------------------------------------------------------------------------------------


def draw_calls(rng: Rng, config: Values, lengths: list[int], steps: int, dtype: torch.dtype) -> list[Values]:
    """The packed prompts of a batch, then `steps` times one token of each."""
    return [draw_call(rng, config, counts, dtype) for counts in (lengths, *steps * [[1] * len(lengths)])]


def draw_call(rng: Rng, config: Values, counts: list[int], dtype: torch.dtype, keep: list[int] | None = None) -> Values:
    """counts[i] new tokens of each request that is left after `keep`; q, k, v are (n_layers, tokens, heads, D)."""
    heads = config["n_heads"], config["n_kv_heads"], config["head_dim"]
    return {"keep": keep, "counts": counts} | draw_qkv(rng, (config["n_layers"], sum(counts)), heads, dtype)


def attend(attention: Callable, call: Values) -> Tensor:
    """What the attention gives in all layers of one call of the model."""
    layers = zip(call["q"], call["k"], call["v"], strict=True)
    return torch.stack([attention(layer, *as_slices(*heads)) for layer, heads in enumerate(layers)])


def expect_alone(inputs: Values, outputs: Values) -> None:
    """In each call every token has gathered, in float64, what it would if its request ran alone."""
    first = inputs["calls"][0]
    seen = [(first["k"][:, :0], first["v"][:, :0])] * len(first["counts"])  # keys and values of each row of the batch
    for number, (call, got) in enumerate(zip(inputs["calls"], outputs["out"], strict=True)):
        expect_like(f"attention in call {number}", got, call["q"])
        q, k, v = (call[name].split(call["counts"], dim=1) for name in "qkv")
        rows = got.split(call["counts"], dim=1)
        if call["keep"] is not None:
            seen = [seen[row] for row in call["keep"]]
        seen = [(torch.cat((keys, k[row]), dim=1), torch.cat((values, v[row]), dim=1))
                for row, (keys, values) in enumerate(seen)]
        for layer in range(len(got)):
            for row, (keys, values) in enumerate(seen):
                hide = causal_mod(q[row].shape[1], keys.shape[1])
                want, _ = plain_attention(q[row][layer], keys[layer], values[layer], hide)
                expect_close(f"call {number} ({describe(call)}), row {row} of the batch, layer {layer}",
                             rows[row][layer], want, ATTENTION_ATOL)


def describe(call: Values) -> str:
    if max(call["counts"]) > 1:
        return f"prompts of {str(call['counts'])[1:60].rstrip(']')} tokens"
    return "one token of each request"


@dataclass(frozen=True, kw_only=True)
class PackedCheck(Check):
    """An attention that is made from cu_seqlens: the packed prompts, then `steps` times one token of each."""

    attention: Callable[[ModuleType, Tensor], Callable]
    lengths: Lengths
    judged: Callable[[Values, Values], None] = expect_alone
    config: Callable[[Rng], Values] = draw_config
    steps: int = 0
    draws: int = 3

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        return {"calls": draw_calls(rng, self.config(rng), self.lengths(rng), self.steps, dtype)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        cu_seqlens = [0, *accumulate(inputs["calls"][0]["counts"])]
        attention = self.attention(lab, torch.tensor(cu_seqlens, dtype=torch.int32, device=DEVICE))
        with Operations() as operations:
            out = [attend(attention, call) for call in inputs["calls"]]
        return {"out": out, "largest": operations.largest}

    def judge(self, inputs: Values, outputs: Values) -> None:
        self.judged(inputs, outputs)
