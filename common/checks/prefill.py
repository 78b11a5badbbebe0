"""Lesson 04: checks of padding, packing, of attention over many requests, and of generation for all of them.

Two oracles. Each attention is held against causal attention in float64 over the tokens of one request after the other;
each generation against plain generation without a cache, one prompt after the other. A tolerance is ten times the
largest error of the reference, and of tests/alternatives/prefill.py, over 500 seeds of all checks (60 where the whole
model runs), rounded up; the largest error stands beside it.
"""
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from itertools import accumulate, pairwise
from types import ModuleType
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from common import STORY_LLAMA
from common.checks.compare import expect_close, expect_equal, expect_like
from common.checks.counters import Operations, counted
from common.checks.draw import draw_config, randn
from common.checks.exercise import Check, Exercise, Lesson, Mismatch, Values
from common.checks.oracle import CLEAR, CPU, draw_prompt, first_departure, oracle, story_model
from common.checks.transformer import as_slices, causal_attention
from common.device import DEVICE
from common.model.attention import CausalAttention
from common.model.checkpoint import load_model
from common.model.llama import Config, Llama

ATTENTION_ATOL = 1.5e-5  # largest error 1.4e-6, with values of about 1
LOGITS_ATOL = 3e-4  # largest error 2.5e-5, with logits up to about 20

# 04.1 -----------------------------------------------------------------------------------------------------------------


class CountCheck(Check):
    draws = 5

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        real, padding = lab.count_tokens(inputs["lengths"], inputs["batch_size"])
        return {"real": real, "padding": padding}

    def judge(self, inputs: Values, outputs: Values) -> None:
        lengths, size = inputs["lengths"], inputs["batch_size"]
        padding = 0
        for place, length in enumerate(lengths):
            first = place - place % size
            padding += max(lengths[first : first + size]) - length
        what = f"for lengths {str(lengths)[:80]} in batches of {size}"
        expect_equal(f"real tokens {what}", outputs["real"], sum(lengths))
        expect_equal(f"padding {what}", outputs["padding"], padding)


class CountsOneBatch(CountCheck):
    name = "counts one batch of four prompts"
    points = 1
    mistake = "counts the whole rectangle as padding, or forgets that the longest needs none"
    advice = "A batch of B prompts fills B * (its longest) places; padding is what the prompts' tokens leave of them."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"lengths": rng.integers(1, 100, 4).tolist(), "batch_size": 4}


class CountsEachBatch(CountCheck):
    name = "pads each batch to its own longest prompt"
    points = 1
    mistake = "pads everything to the longest of all"
    advice = "Take batch_size prompts at a time, lengths[start : start + batch_size]; each has a longest of its own."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        size, batches = int(rng.integers(1, 8)), int(rng.integers(2, 6))
        return {"lengths": rng.integers(1, 400, size * batches).tolist(), "batch_size": size}


class CountsAPartialBatch(CountCheck):
    name = "counts a last batch that is not full"
    points = 1
    mistake = "drops the prompts after the last full batch, or fills that one up with empty rows"
    advice = "The last batch may have fewer than batch_size prompts: it has only as many rows as prompts."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        size = int(rng.integers(3, 9))
        number = size * int(rng.integers(0, 4)) + int(rng.integers(1, size))
        return {"lengths": rng.integers(1, 400, number).tolist(), "batch_size": size}


# 04.2 -----------------------------------------------------------------------------------------------------------------


def draw_ids(rng: np.random.Generator, lengths: list[int]) -> list[list[int]]:
    return [rng.integers(0, 900, length).tolist() for length in lengths]


class PadCheck(Check):
    draws = 4
    side = "right"

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        lengths = rng.permutation([1, 30, *rng.integers(1, 30, int(rng.integers(0, 5)))]).tolist()
        return {"prompts": draw_ids(rng, lengths), "side": self.side, "pad_id": 900 + int(rng.integers(0, 99))}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return dict(zip(("token_ids", "positions", "mask"), lab.pad(**inputs), strict=True))

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_equal("token_ids", outputs["token_ids"], torch.tensor(rectangle(inputs, inputs["pad_id"])))


def rectangle(inputs: Values, fill: int, rows: list[list[int]] | None = None) -> list[list[int]]:
    rows = inputs["prompts"] if rows is None else rows
    longest = max(map(len, rows))
    fills = [[fill] * (longest - len(row)) for row in rows]
    return [row + more if inputs["side"] == "right" else more + row for row, more in zip(rows, fills, strict=True)]


class StacksEqualPrompts(PadCheck):
    name = "stacks prompts of equal length"
    points = 1
    draws = 1
    mistake = "returns other shapes or dtypes than the docstring says"
    advice = "Three (B, T) tensors: ids int64, positions int64 from 0 in each row, and a bool mask, all True here."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"prompts": draw_ids(rng, [4] * 4), "side": "right", "pad_id": 900}

    def judge(self, inputs: Values, outputs: Values) -> None:
        super().judge(inputs, outputs)
        expect_equal("positions", outputs["positions"], torch.arange(4).repeat(4, 1))
        expect_equal("mask", outputs["mask"], torch.ones(4, 4, dtype=torch.bool))


class PadsOnTheRight(PadCheck):
    name = "fills up behind the prompts"
    points = 1
    mistake = "padding on the other side, or another length than the longest prompt's"
    advice = "side='right': row i begins with prompt i, and pad_id follows up to the longest prompt's length."


class PadsOnTheLeft(PadCheck):
    name = "fills up before the prompts"
    points = 1
    side = "left"
    mistake = "padding on the right whatever `side` says"
    advice = "side='left': row i ends with prompt i, and pad_id stands before it."


class NumbersFromZero(PadCheck):
    name = "numbers each prompt's tokens from 0, on either side"
    points = 2
    mistake = "numbers the rectangle's columns, so that padding on the left shifts every prompt"
    advice = "Positions count a prompt's own tokens, 0 to its length - 1, wherever in its row they stand."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return super().draw(rng, dtype) | {"side": ("left", "right")[int(rng.integers(2))]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        own = [list(range(len(prompt))) for prompt in inputs["prompts"]]
        want = torch.tensor(rectangle(inputs, -1, own))
        expect_like("positions", outputs["positions"], want)
        longest = want.shape[1]
        if not ((outputs["positions"] >= 0) & (outputs["positions"] < longest)).all():
            raise Mismatch(f"positions: {outputs['positions'].min()} to {outputs['positions'].max()}, and all should "
                           f"lie from 0 to {longest - 1}, those of padding too")
        expect_equal(f"positions of the prompts' tokens, padded on the {inputs['side']} (padding shown as -1)",
                     outputs["positions"].where(want >= 0, -1), want)


class MarksThePadding(PadCheck):
    name = "masks the padding and nothing else"
    points = 2
    mistake = "takes every token with pad_id's number for padding"
    advice = "A prompt may hold pad_id itself (a stop token, say): the mask follows from lengths, not from ids."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype) | {"side": ("left", "right")[int(rng.integers(2))]}
        longest = max(inputs["prompts"], key=len)
        return inputs | {"pad_id": longest[int(rng.integers(len(longest)))]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        ones = [[1] * len(prompt) for prompt in inputs["prompts"]]
        expect_equal(f"mask, padded on the {inputs['side']}", outputs["mask"],
                     torch.tensor(rectangle(inputs, 0, ones)).bool())


# 04.3 -----------------------------------------------------------------------------------------------------------------


def draw_heads(rng: np.random.Generator) -> tuple[int, int, int]:
    """Query heads, key heads and head dim, with as many queries to a key as may be."""
    kv_heads = int(rng.integers(1, 4))
    return kv_heads * int(rng.integers(1, 5)), kv_heads, 2 * int(rng.integers(2, 12))


def draw_qkv(rng: np.random.Generator, rows: tuple[int, ...], heads: tuple[int, int, int],
             dtype: torch.dtype) -> Values:
    """q, k and v of shape (*rows, heads, D)."""
    h, kh, d = heads
    return {name: randn(rng, *rows, number, d).to(dtype) for name, number in (("q", h), ("k", kh), ("v", kh))}


def draw_lengths(rng: np.random.Generator, batch: int, longest: int) -> list[int]:
    """Lengths from 1 to `longest`, both among them where there are two; in any order."""
    ends = [longest, 1][:batch]
    return rng.permutation([*ends, *rng.integers(1, longest + 1, batch - len(ends))]).tolist()


class PaddedCheck(Check):
    """A rectangle of heads. What stands in padding is large, so that it shows wherever it is seen."""

    draws = 4
    heads = (2, 2, 8)

    def draw_shape(self, rng: np.random.Generator) -> tuple[list[int], str]:
        """The prompts' lengths, and the side of their padding."""
        return draw_lengths(rng, int(rng.integers(2, 6)), int(rng.integers(5, 40))), "left"

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        lengths, side = self.draw_shape(rng)
        column = torch.arange(max(lengths))
        short = torch.tensor(lengths)[:, None]
        mask = column < short if side == "right" else column >= max(lengths) - short
        inputs = draw_qkv(rng, (mask.numel(),), self.heads, dtype)
        scale = torch.where(mask.flatten(), 1, 20)[:, None, None].to(dtype)
        return {"mask": mask, "side": side} | {name: heads * scale for name, heads in inputs.items()}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        attention = lab.PaddedAttention(inputs["mask"])
        return {"out": attention(0, *as_slices(*(inputs[name] for name in "qkv")))}

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_like("attention", outputs["out"], inputs["q"])
        for row, mask in enumerate(inputs["mask"]):
            real = mask.nonzero()[:, 0] + row * len(mask)
            want = causal_attention(*(inputs[name][real].double() for name in "qkv"))
            expect_close(f"row {row}, {len(real)} of {len(mask)} tokens real, padding on the {inputs['side']}",
                         outputs["out"][real], want, ATTENTION_ATOL)


class AttendsInARectangle(PaddedCheck):
    name = "attends in a rectangle that has no padding"
    points = 2
    draws = 1
    mistake = "lets the rows of the batch see one another, or tokens see what comes later"
    advice = "N = B * T rows become (B, heads, T, D): unflatten(0, (B, T)), transpose(1, 2); then causal, row by row."

    def draw_shape(self, rng: np.random.Generator) -> tuple[list[int], str]:
        return [8] * 4, "right"


class HidesPaddingBehind(PaddedCheck):
    name = "hides padding on the right"
    points = 1
    mistake = "lets padding be seen, or hides the prompt's last token"
    advice = "Behind the last real token stands padding: no real token may see it, and causal order forbids it already."

    def draw_shape(self, rng: np.random.Generator) -> tuple[list[int], str]:
        return super().draw_shape(rng)[0], "right"


class HidesPaddingBefore(PaddedCheck):
    name = "hides padding on the left"
    points = 2
    mistake = "masks the wrong side, or the queries instead of the keys"
    advice = "A key counts where mask[b, key] is True and key <= query: (B, 1, T, T), from mask[:, None, :] and tril."


class StaysFinite(PaddedCheck):
    name = "leaves no nan in the rows of padding"
    points = 2
    mistake = "a softmax over nothing: a token of padding whose every key is masked"
    advice = "A token of padding that may see nothing gets 0 / 0: let it see itself, or replace nan by numbers."

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_like("attention", outputs["out"], inputs["q"])
        strange = (~outputs["out"].isfinite()).flatten(1).any(dim=1).sum().item()
        expect_equal(f"rows that are not finite, of {len(outputs['out'])}", strange, 0)
        super().judge(inputs, outputs)


class SharesKeyHeads(PaddedCheck):
    name = "lets query heads share key heads"
    points = 1
    heads = (6, 2, 8)
    mistake = "expects as many key heads as query heads, or maps them by modulo"
    advice = "Query head h reads key head h // (H // KH): enable_gqa=True, or keys repeated with repeat_interleave."


# 04.4 -----------------------------------------------------------------------------------------------------------------


@cache
def exact_model() -> Llama:
    """The story model in float64."""
    return load_model(STORY_LLAMA, torch.float64, CPU)


def logits_alone(prompt_ids: list[int]) -> Tensor:
    """What the model says after a prompt by itself, in float64: (V,)."""
    model, ids = exact_model(), torch.tensor(prompt_ids)
    with torch.inference_mode():
        return model.logits(model(ids, torch.arange(len(ids)), CausalAttention())[-1:])[0].clone()


def draw_prompts(rng: np.random.Generator, lengths: list[int]) -> list[list[int]]:
    return [draw_prompt(rng, length) for length in lengths]


@contextmanager
def scored_rows(model: Llama) -> Iterator[list[int]]:
    """How many rows each call of `model.logits` in a `with` block is given."""
    logits, rows = model.logits, []

    def noted(hidden: Tensor) -> Tensor:
        rows.append(len(hidden))
        return logits(hidden)

    with patch.object(model, "logits", noted):
        yield rows


class PrefillCheck(Check):
    draws = 2

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        # At least three: padding can be the begin token too, and behind a prompt of that alone nothing would show.
        lengths = draw_lengths(rng, int(rng.integers(3, 5)), int(rng.integers(100, 300)))
        return {"prompts": draw_prompts(rng, lengths), "side": "right"}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"logits": lab.padded_prefill(story_model(DEVICE), inputs["prompts"], inputs["side"])}

    def judge(self, inputs: Values, outputs: Values) -> None:
        want = torch.stack([logits_alone(prompt) for prompt in inputs["prompts"]])
        lengths = [len(prompt) for prompt in inputs["prompts"]]
        expect_like("logits", outputs["logits"], want.float())
        for row, (got, alone) in enumerate(zip(outputs["logits"], want, strict=True)):
            expect_close(f"logits of row {row}, prompts of {lengths} tokens padded on the {inputs['side']}", got, alone,
                         LOGITS_ATOL)


class PrefillsARectangle(PrefillCheck):
    name = "says what follows prompts of equal length"
    points = 1
    draws = 1
    mistake = "gives another row than that of each prompt's last token"
    advice = "Flatten ids and positions, run the model, and take hidden row i * T + T - 1 for prompt i."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"prompts": draw_prompts(rng, [32] * 4), "side": "right"}


class PrefillsPaddedRight(PrefillCheck):
    name = "finds each prompt's last token before its padding"
    points = 2
    mistake = "takes the last column, which is padding wherever a prompt is shorter"
    advice = "Padded on the right, prompt i ends in column len(prompt) - 1: its row is i * T + len(prompt) - 1."


class PrefillsPaddedLeft(PrefillCheck):
    name = "finds each prompt's last token behind its padding"
    points = 2
    mistake = "takes column len(prompt) - 1 although the prompt ends in the last one"
    advice = "Padded on the left, every prompt ends in the last column: its row is i * T + T - 1."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return super().draw(rng, dtype) | {"side": "left"}


class SpendsOnePass(PrefillCheck):
    name = "spends one pass, and logits for one row per prompt"
    points = 2
    mistake = "runs prompts one by one, scores the vocabulary for every row, or numbers columns instead of tokens"
    advice = "One call with all B * T tokens at the positions of `pad`, then model.logits(hidden[last]) with B rows."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        lengths = draw_lengths(rng, int(rng.integers(2, 7)), int(rng.integers(10, 40)))
        return {"prompts": draw_prompts(rng, lengths), "side": "left"}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        model, calls = story_model(DEVICE), []
        hook = model.register_forward_pre_hook(lambda _, args: calls.append([args[0].tolist(), args[1].tolist()]))
        try:
            with scored_rows(model) as rows:
                lab.padded_prefill(model, inputs["prompts"], inputs["side"])
        finally:
            hook.remove()
        return {"calls": calls, "rows": rows}

    def judge(self, inputs: Values, outputs: Values) -> None:
        prompts, longest = inputs["prompts"], max(map(len, inputs["prompts"]))
        expect_equal("calls of the model", len(outputs["calls"]), 1)
        expect_equal("rows given to model.logits, call by call", outputs["rows"], [len(prompts)])
        [[token_ids, positions]] = outputs["calls"]
        expect_equal("tokens that went through the model", len(token_ids), len(prompts) * longest)
        for row, prompt in enumerate(prompts):
            own = slice((row + 1) * longest - len(prompt), (row + 1) * longest)
            expect_equal(f"ids of prompt {row}", token_ids[own], prompt)
            expect_equal(f"positions of prompt {row}, which has {len(prompt)} of {longest} tokens", positions[own],
                         list(range(len(prompt))))


# 04.5 -----------------------------------------------------------------------------------------------------------------


class PackCheck(Check):
    draws = 4

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"prompts": draw_ids(rng, draw_lengths(rng, int(rng.integers(2, 8)), 30))}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return dict(zip(("token_ids", "positions", "cu_seqlens"), lab.pack(inputs["prompts"]), strict=True))

    def judge(self, inputs: Values, outputs: Values) -> None:
        prompts = inputs["prompts"]
        expect_equal("token_ids", outputs["token_ids"], torch.tensor(sum(prompts, [])))
        expect_equal("cu_seqlens", outputs["cu_seqlens"],
                     torch.tensor([0, *accumulate(map(len, prompts))], dtype=torch.int32))
        own = [position for prompt in prompts for position in range(len(prompt))]
        expect_equal("positions", outputs["positions"], torch.tensor(own))


class PacksOnePrompt(PackCheck):
    name = "packs a single prompt"
    points = 1
    draws = 1
    mistake = "returns other shapes or dtypes than the docstring says"
    advice = "For one prompt of four ids: those ids, positions 0 to 3 (both int64), and cu_seqlens [0, 4] in int32."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"prompts": draw_ids(rng, [4])}


class PacksManyPrompts(PackCheck):
    name = "packs prompts of any lengths, each from position 0 on"
    points = 2
    mistake = "numbers the whole row, gives lengths instead of cumulative lengths, or leaves out the 0 or the N"
    advice = "positions begin again at 0 with each prompt; cu_seqlens = [0, n0, n0 + n1, ...], one entry more than B."


class TraceCheck(Check):
    """Calls of a model's attention, one after the other: [{keep, counts, q, k, v}].

    counts[i] new tokens of each request that is left after `keep`; q, k, v are (n_layers, tokens, heads, D).
    """

    draws = 3

    def judge(self, inputs: Values, outputs: Values) -> None:
        for number, (call, got, want) in enumerate(zip(inputs["calls"], outputs["out"], alone(inputs), strict=True)):
            expect_like(f"attention in call {number}", got, call["q"])
            starts = [0, *accumulate(call["counts"])]
            for layer in range(len(want)):
                for row, (start, end) in enumerate(pairwise(starts)):
                    expect_close(f"call {number} ({describe(call)}), row {row} of the batch, layer {layer}",
                                 got[layer, start:end], want[layer, start:end], ATTENTION_ATOL)


def describe(call: Values) -> str:
    if max(call["counts"]) > 1:
        return f"prompts of {str(call['counts'])[1:60].rstrip(']')} tokens"
    return "one token of each request"


def draw_call(rng: np.random.Generator, config: Values, counts: list[int], dtype: torch.dtype,
              keep: list[int] | None = None) -> Values:
    heads = config["n_heads"], config["n_kv_heads"], config["head_dim"]
    return {"keep": keep, "counts": counts} | draw_qkv(rng, (config["n_layers"], sum(counts)), heads, dtype)


def heads_of(call: Values) -> list[tuple[Tensor, Tensor, Tensor]]:
    """q, k and v of each layer, as a model gives them."""
    return [as_slices(*heads) for heads in zip(call["q"], call["k"], call["v"], strict=True)]


def alone(inputs: Values) -> list[Tensor]:
    """What the tokens of each call gather in float64, each from the tokens of its own request up to itself."""
    running = list(range(len(inputs["calls"][0]["counts"])))
    places: dict[int, list[tuple[int, int]]] = {request: [] for request in running}  # of its tokens: (call, row of q)
    for number, call in enumerate(inputs["calls"]):
        running = running if call["keep"] is None else [running[row] for row in call["keep"]]
        starts = pairwise([0, *accumulate(call["counts"])])
        for request, (start, end) in zip(running, starts, strict=True):
            places[request] += [(number, row) for row in range(start, end)]
    want = [torch.zeros_like(call["q"], dtype=torch.float64) for call in inputs["calls"]]
    for own in places.values():
        q, k, v = (torch.stack([inputs["calls"][number][name][:, row] for number, row in own], dim=1).double()
                   for name in "qkv")
        for layer in range(len(q)):
            for (number, row), gathered in zip(own, causal_attention(q[layer], k[layer], v[layer]), strict=True):
                want[number][layer, row] = gathered
    return want


class RaggedCheck(TraceCheck):
    def draw_counts(self, rng: np.random.Generator) -> list[int]:
        return draw_lengths(rng, int(rng.integers(2, 8)), int(rng.integers(5, 40)))

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        config = draw_config(rng) | {"n_layers": 1}
        return {"calls": [draw_call(rng, config, self.draw_counts(rng), dtype)]}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        [call] = inputs["calls"]
        attention = lab.RaggedAttention(cumulative(call["counts"]))
        with Operations() as operations:
            out = [attention(layer, *heads) for layer, heads in enumerate(heads_of(call))]
        return {"out": [torch.stack(out)], "largest": operations.largest}


def cumulative(counts: list[int]) -> Tensor:
    return torch.tensor([0, *accumulate(counts)], dtype=torch.int32, device=DEVICE)


class AttendsPacked(RaggedCheck):
    name = "attends within one packed prompt"
    points = 1
    mistake = "another order of rows or heads than it was given"
    advice = "One prompt is the whole row: causal attention over all of it, out in the shape of q."

    def draw_counts(self, rng: np.random.Generator) -> list[int]:
        return [int(rng.integers(2, 20))]


class KeepsPromptsApart(RaggedCheck):
    name = "lets each prompt see itself alone, whatever the lengths"
    points = 3
    mistake = "lets a token see the prompt before its own, or cuts one place off"
    advice = "Prompt i is rows cu_seqlens[i] to cu_seqlens[i + 1]: attend causally within, join the pieces in order."


class NeverCrosses(RaggedCheck):
    name = "computes no scores between different prompts"
    points = 1
    draws = 1
    mistake = "one N x N matrix for all prompts, of which a mask then throws nearly everything away"
    advice = "Cut first, then score: with many prompts an N x N block mask wastes more than any padding."

    def draw_counts(self, rng: np.random.Generator) -> list[int]:
        return rng.integers(18, 25, 24).tolist()  # even all heads of all prompts' own scores are less than N * N / 2

    def judge(self, inputs: Values, outputs: Values) -> None:
        super().judge(inputs, outputs)
        n = sum(inputs["calls"][0]["counts"])
        if outputs["largest"] >= n * n:
            raise Mismatch(f"a tensor of {outputs['largest']} elements was made for N = {n} tokens of "
                           f"{len(inputs['calls'][0]['counts'])} prompts, and N * N is {n * n}")


# 04.6 -----------------------------------------------------------------------------------------------------------------


class PackedCheck(Check):
    """Tokens from `generate_packed`, held against each prompt's own oracle."""

    new_tokens = 16

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"tokens": lab.generate_packed(story_model(DEVICE), inputs["prompts"], self.new_tokens, frozenset())}

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_greedy(inputs["prompts"], outputs["tokens"], self.new_tokens)


def expect_greedy(prompts: list[list[int]], tokens: list[list[int]], new_tokens: int) -> None:
    """Each prompt has got `new_tokens` tokens, and those that the oracle gives it alone."""
    expect_equal("number of requests", len(tokens), len(prompts))
    for request, (prompt, own) in enumerate(zip(prompts, tokens, strict=True)):
        expect_equal(f"number of new tokens of request {request}", len(own), new_tokens)
        if departure := first_departure(story_model(CPU), prompt, own):
            index, want = departure
            raise Mismatch(f"request {request} of {len(prompts)}, a prompt of {len(prompt)} tokens: its new token "
                           f"{index} (from 0) is {own[index]}, and would be {want} if it ran alone")


class GoesOnBesideAnother(PackedCheck):
    name = "goes on with prompts of equal length as with each alone"
    points = 1
    mistake = "attends to other tokens than its own once the prompts are read"
    advice = ("For each request and each step write down which rows of the cache belong to it, and print which ones it "
              "reads.")

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"prompts": draw_prompts(rng, [int(rng.integers(20, 40))] * 4)}


class GoesOnRagged(PackedCheck):
    name = "goes on with prompts of any lengths as with each alone"
    points = 2
    mistake = "is right for equal lengths alone"
    advice = "Work out where in the packed row the tokens of step 2 lie, those of request 0 and of the last request."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        lengths = draw_lengths(rng, int(rng.integers(3, 6)), int(rng.integers(100, 250)))
        return {"prompts": draw_prompts(rng, lengths)}


class SeesItsOwnRows(TraceCheck):
    name = "attends to its own request alone, in every step and layer"
    points = 3
    mistake = "misses its own new tokens, or sees another request's"
    advice = "Each new token sees its prompt, the tokens added to its own request since, and itself: count these rows."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        config, batch = draw_config(rng), int(rng.integers(2, 6))
        counts = draw_lengths(rng, batch, int(rng.integers(3, 12)))
        return {"calls": [draw_call(rng, config, each, dtype) for each in (counts, *5 * [[1] * batch])]}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        attention = lab.PackedCache(cumulative(inputs["calls"][0]["counts"]))
        return {"out": [torch.stack([attention(layer, *heads) for layer, heads in enumerate(heads_of(call))])
                        for call in inputs["calls"]]}


# 04.7 -----------------------------------------------------------------------------------------------------------------


def rows_as_given(lengths: list[int], step: int, request: int) -> list[int]:
    """The rows of the packed cache that the code given in 04.6 reads for a request's new token in a step from 1 on."""
    starts = [0, *accumulate(lengths)]
    everything = range(starts[-1] + step * len(lengths))
    return list(everything[starts[request] : starts[request + 1] + step])


def own_rows(lengths: list[int], step: int, request: int) -> list[int]:
    """The rows that are this request's by then: its prompt, and one of each step's rows."""
    starts = [0, *accumulate(lengths)]
    added = [starts[-1] + earlier * len(lengths) + request for earlier in range(step)]
    return [*range(starts[request], starts[request + 1]), *added]


class ExposeCheck(Check):
    """Many batches, each a list of lengths and a number of tokens; the judge replays which rows are read in each."""

    def draw_batch(self, rng: np.random.Generator) -> tuple[list[int], int]:
        raise NotImplementedError

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"batches": [list(self.draw_batch(rng)) for _ in range(100)]}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"exposed": [lab.exposes(list(lengths), new_tokens) for lengths, new_tokens in inputs["batches"]]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        for (lengths, new_tokens), got in zip(inputs["batches"], outputs["exposed"], strict=True):
            want = any(rows_as_given(lengths, step, request) != own_rows(lengths, step, request)
                       for step in range(1, new_tokens) for request in range(len(lengths)))
            expect_equal(f"exposes({lengths}, {new_tokens})", got, want)


class KnowsHowLong(ExposeCheck):
    name = "knows how many tokens it takes"
    points = 1
    mistake = "counts the first token, which the prefill gives, or waits too long"
    advice = "Try the given code with three prompts and max_new_tokens = 0, 1, 2, 3: when does the cache matter first?"

    def draw_batch(self, rng: np.random.Generator) -> tuple[list[int], int]:
        return rng.permutation([3, 7, 20]).tolist(), int(rng.integers(0, 5))


class KnowsHowMany(ExposeCheck):
    name = "knows how many requests it takes"
    points = 1
    mistake = "takes for granted that one request alone would show it, or that it takes three"
    advice = "Try the given code with one, two and three prompts: whose rows stand right behind a request's own?"

    def draw_batch(self, rng: np.random.Generator) -> tuple[list[int], int]:
        return rng.integers(1, 30, rng.integers(1, 4)).tolist(), int(rng.integers(4, 20))


class KnowsWhatMatters(ExposeCheck):
    name = "knows what does not matter"
    points = 1
    mistake = "makes it depend on the prompts' lengths"
    advice = "Equal prompts, different ones, prompts of one token: does the given code get any of these batches right?"

    def draw_batch(self, rng: np.random.Generator) -> tuple[list[int], int]:
        batch, length = int(rng.integers(1, 5)), int(rng.integers(2, 70))
        lengths = ([1] * batch, [length] * batch, rng.integers(1, 70, batch).tolist())[int(rng.integers(3))]
        return lengths, int(rng.integers(0, 6))


# 04.8 -----------------------------------------------------------------------------------------------------------------


class SlotCheck(TraceCheck):
    """Prompts and then single tokens on a SlotCache, whose memory is full of strange numbers to begin with."""

    steps = 4
    spare = 5  # places that the longest request leaves

    def draw_counts(self, rng: np.random.Generator) -> list[int]:
        return draw_lengths(rng, int(rng.integers(1, 7)), int(rng.integers(2, 25)))

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        config, counts = draw_config(rng), self.draw_counts(rng)
        calls = [draw_call(rng, config, each, dtype) for each in (counts, *self.steps * [[1] * len(counts)])]
        return {"config": config, "capacity": max(counts) + self.steps + self.spare, "calls": calls}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        slots = new_slots(lab, inputs)
        slots.keys.fill_(30)
        slots.values.fill_(30)
        outputs = {"out": [], "positions": [], "lengths": []}
        for call in inputs["calls"]:
            if call["keep"] is not None:
                slots.keep(call["keep"])
            outputs["positions"].append(slots.begin(call["counts"]))
            outputs["lengths"].append(list(slots.lengths))
            outputs["out"].append(self.attend(slots, call))
        return outputs

    def attend(self, slots: object, call: Values) -> Tensor:
        return torch.stack([slots(layer, *heads) for layer, heads in enumerate(heads_of(call))])


def new_slots(lab: ModuleType, inputs: Values) -> object:
    first = inputs["calls"][0]
    config = Config(**inputs["config"])
    return lab.SlotCache(config, len(first["counts"]), inputs["capacity"], first["q"].dtype, DEVICE)


class DecodesEqualPrompts(SlotCheck):
    name = "decodes after two prompts of four tokens"
    points = 1
    draws = 1
    mistake = "writes the new keys and values elsewhere than it reads them, or not at all"
    advice = "Write k to keys[layer][rows, :, positions], v likewise; then a token sees its slot up to its length."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        config = {"vocab_size": 8, "dim": 8, "n_layers": 1, "n_heads": 2, "n_kv_heads": 2, "head_dim": 4, "ffn_dim": 8}
        calls = [draw_call(rng, config, each, dtype) for each in ([4, 4], [1, 1], [1, 1])]
        return {"config": config, "capacity": 8, "calls": calls}


class NumbersNewTokens(SlotCheck):
    name = "gives new tokens their positions, and counts them"
    points = 2
    mistake = "is off by one in decoding, or counts in the packed row instead of in the request"
    advice = "New tokens of request i are at lengths[i], lengths[i] + 1, ... as lengths was before; then it grows."

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        slots = new_slots(lab, inputs)
        announced = [(slots.begin(call["counts"]), list(slots.lengths)) for call in inputs["calls"]]
        return {"positions": [positions for positions, _ in announced], "lengths": [after for _, after in announced]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        before = [0] * len(inputs["calls"][0]["counts"])
        for number, call in enumerate(inputs["calls"]):
            after = [length + count for length, count in zip(before, call["counts"], strict=True)]
            want = [position for span in zip(before, after, strict=True) for position in range(*span)]
            what = f"in call {number} ({describe(call)}) after {before}"
            expect_equal(f"positions {what}", outputs["positions"][number], torch.tensor(want))
            expect_equal(f"lengths {what}", outputs["lengths"][number], after)
            before = after


class DecodesRagged(SlotCheck):
    name = "lets each request see its own tokens alone, whatever the lengths"
    points = 3
    mistake = "shares a slot between requests or layers, masks the longest's length for all, or misses the newest token"
    advice = "Row b of the mask hides places from lengths[b] on, and no place before; the new token is already there."

    def draw_counts(self, rng: np.random.Generator) -> list[int]:
        return draw_lengths(rng, int(rng.integers(2, 7)), int(rng.integers(2, 25)))


class FillsItsSlots(SlotCheck):
    name = "fills a slot to its last place"
    points = 1
    spare = 0
    mistake = "refuses the last place, or masks it"
    advice = "A request whose length becomes exactly the capacity fits: only more is too much."


class LetsRequestsLeave(SlotCheck):
    name = "goes on with those that stay when others leave, in any order"
    points = 2
    mistake = "keeps the wrong slots, or forgets that lengths move up as well"
    advice = "After keep(rows) row i is what rows[i] was: its keys, its values and its length."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        config, counts = draw_config(rng), draw_lengths(rng, int(rng.integers(4, 8)), int(rng.integers(2, 25)))
        calls, left = [draw_call(rng, config, counts, dtype)], len(counts)
        while True:
            calls.append(draw_call(rng, config, [1] * left, dtype))
            if left == 1:
                return {"config": config, "capacity": max(counts) + len(calls) + self.spare, "calls": calls}
            stay = int(rng.integers(1, left))
            keep = sorted(rng.permutation(left)[:stay].tolist())
            calls.append(draw_call(rng, config, [1] * stay, dtype, keep))
            left = stay


class RefusesTooMuch(SlotCheck):
    name = "refuses what does not fit before anything is written"
    points = 2
    draws = 8
    mistake = "writes what still fits, counts tokens that it refuses, or leaves the error to torch"
    advice = "In `begin`, before anything else: lengths[i] + counts[i] > capacity for any i is a ValueError."

    def draw_counts(self, rng: np.random.Generator) -> list[int]:
        return draw_lengths(rng, int(rng.integers(3, 7)), int(rng.integers(2, 25)))

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        config, counts = inputs["config"], inputs["calls"][0]["counts"]
        longest = max(counts)
        if rng.random() < 0.5:  # a prompt that is too long
            return inputs | {"capacity": longest - 1, "calls": inputs["calls"][:1]} if longest > 1 else inputs
        # A step too far, for the longest request.
        calls = [draw_call(rng, config, each, dtype) for each in (counts, *3 * [[1] * len(counts)])]
        return inputs | {"capacity": longest + 2, "calls": calls}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        slots = new_slots(lab, inputs)
        slots.keys.fill_(30)
        slots.values.fill_(30)
        *fitting, last = inputs["calls"]
        for call in fitting:
            slots.begin(call["counts"])
            self.attend(slots, call)
        before = [slots.keys.clone(), slots.values.clone(), list(slots.lengths)]
        try:
            slots.begin(last["counts"])
            self.attend(slots, last)
            raised, message = "nothing", ""
        except NotImplementedError:
            raise
        except Exception as error:
            raised, message = type(error).__name__, str(error)
        return {"raised": raised, "message": message, "lengths": [before[2], list(slots.lengths)],
                "written": int((slots.keys != before[0]).sum() + (slots.values != before[1]).sum())}

    def judge(self, inputs: Values, outputs: Values) -> None:
        before, after = outputs["lengths"]
        capacity, counts = inputs["capacity"], inputs["calls"][-1]["counts"]
        too_long = [row for row, count in enumerate(counts) if before[row] + count > capacity]
        if not too_long:
            expect_equal("error where everything fits", outputs["raised"], "nothing")
            return
        what = f"{counts} more after {before}, capacity {capacity}"
        expect_equal(f"error for {what}", outputs["raised"], "ValueError")
        expect_equal(f"lengths after the error, {what}", after, before)
        expect_equal(f"elements of keys and values that have changed, {what}", outputs["written"], 0)
        named = set(map(int, re.findall(r"\d+", outputs["message"])))
        if capacity not in named or not any({row, before[row]} <= named for row in too_long):
            raise Mismatch(f"the error for {what} should name row, length and capacity: {outputs['message'][:120]!r}")


class ReservesOnce(SlotCheck):
    name = "stays in the memory that it reserved"
    points = 1
    mistake = "grows by torch.cat, or makes a new cache in each step"
    advice = "Write into self.keys and self.values in place, keys[layer][rows, :, positions] = k; assign no new ones."

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        slots, moved = new_slots(lab, inputs), 0
        places = slots.keys.data_ptr(), slots.values.data_ptr()
        for call in inputs["calls"]:
            slots.begin(call["counts"])
            self.attend(slots, call)
            moved += (slots.keys.data_ptr(), slots.values.data_ptr()) != places
        return {"moved": moved, "shapes": [list(slots.keys.shape), list(slots.values.shape)]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        config, batch = inputs["config"], len(inputs["calls"][0]["counts"])
        shape = [config["n_layers"], batch, config["n_kv_heads"], inputs["capacity"], config["head_dim"]]
        expect_equal("shapes of keys and values", outputs["shapes"], [shape, shape])
        expect_equal("calls after which keys or values lay elsewhere", outputs["moved"], 0)


class AttendsAtOnce(Check):
    name = "decodes a large batch in as many operations as a small one"
    points = 2
    mistake = "loops over the requests: on a GPU 64 requests in 32 layers are then thousands of launches in each step"
    advice = "One attention for the whole batch: q (B, KH, H/KH, D), keys (B, KH, longest, D), mask (B, 1, 1, longest)."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        config = draw_config(rng)
        return {"config": config, "batches": [
            {"config": config, "capacity": 40,
             "calls": [draw_call(rng, config, each, dtype) for each in ([7] * batch, [1] * batch)]}
            for batch in (2, 19)]}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        counts = []
        for batch in inputs["batches"]:
            slots = new_slots(lab, batch)
            prompts, step = batch["calls"]
            slots.begin(prompts["counts"])
            for layer, heads in enumerate(heads_of(prompts)):
                slots(layer, *heads)
            slots.begin(step["counts"])
            with Operations() as operations:
                slots(0, *heads_of(step)[0])
            counts.append(operations.count)
        return {"counts": counts}

    def judge(self, inputs: Values, outputs: Values) -> None:
        small, large = outputs["counts"]
        if large != small:
            raise Mismatch(f"torch operations in one layer of one step: {small} for 2 requests, {large} for 19")


class ReadsWhatIsUsed(SlotCheck):
    name = "reads nothing behind the longest request"
    points = 1
    mistake = "attends over the whole capacity, and pays for room that nobody uses"
    advice = "Cut keys and values to the longest request, keys[layer, :, :, :longest], before you attend."
    spare = 20

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        slots, outputs = new_slots(lab, inputs), []
        for call in inputs["calls"]:
            slots.begin(call["counts"])
            for memory in (slots.keys, slots.values):
                memory.nan_to_num_(nan=30)
                memory[..., max(slots.lengths):, :] = torch.nan  # a product with it shows, even one that is masked
            outputs.append(self.attend(slots, call))
        return {"out": outputs}


# 04.9 -----------------------------------------------------------------------------------------------------------------


class BatchCheck(Check):
    """`generate_batch`, with its calls, its tokens and its rows of logits counted."""

    new_tokens = 8

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        model, stop_ids = story_model(DEVICE), frozenset(inputs["stop_ids"])
        with counted(model) as cost, scored_rows(model) as rows:
            tokens = lab.generate_batch(model, inputs["prompts"], inputs["max_new_tokens"], stop_ids,
                                        inputs["capacity"])
        return {"tokens": tokens, "calls": cost.model_calls, "tokens_through": cost.tokens, "rows": rows}

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_greedy(inputs["prompts"], outputs["tokens"], inputs["max_new_tokens"])

    def inputs_of(self, prompts: list[list[int]], max_new_tokens: int, stop_ids: Sequence[int] = (),
                  spare: int = 0) -> Values:
        """Prompts in slots that have `spare` more places than they need."""
        capacity = max(map(len, prompts)) + max(max_new_tokens - 1, 0) + spare
        return {"prompts": prompts, "max_new_tokens": max_new_tokens, "stop_ids": list(stop_ids), "capacity": capacity}


class TellsEqualStories(BatchCheck):
    name = "tells stories of equal length as the oracle does"
    points = 1
    mistake = "another row than each prompt's last, or tokens that are fed back to another request"
    advice = "pack, begin, model, hidden[cu_seqlens[1:] - 1]; then for each request one token: arg max, begin, model."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return self.inputs_of(draw_prompts(rng, [32] * 3), self.new_tokens, spare=10)


class TellsAnyStories(BatchCheck):
    name = "tells stories of any lengths, up to exactly the capacity"
    points = 3
    draws = 2
    mistake = "is right for equal lengths alone, or refuses the last place of a slot"
    advice = "The longest prompt and max_new_tokens - 1 new tokens are what a slot must hold; that much fits."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        lengths = draw_lengths(rng, int(rng.integers(2, 6)), int(rng.integers(100, 350)))
        return self.inputs_of(draw_prompts(rng, lengths), self.new_tokens)


class TellsOneStory(BatchCheck):
    name = "takes a batch of one, be it of one token"
    points = 1
    mistake = "loses the batch dimension, or takes a prompt of one token for a step of decoding"
    advice = "A batch of one is a batch: keep lists and (1, ...) tensors, and no squeeze()."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return self.inputs_of(draw_prompts(rng, [1, int(rng.integers(2, 100))]), self.new_tokens)

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        batches = [inputs | {"prompts": [prompt]} for prompt in inputs["prompts"]]
        return {"tokens": sum((super(TellsOneStory, self).drive(lab, batch)["tokens"] for batch in batches), [])}


class StopCheck(BatchCheck):
    """Requests that end at different times: one at once, one never, and not in their order."""

    max_new_tokens = 9

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        prompts: list[list[int]] = []
        while True:
            prompts = [*prompts[-3:], self.draw_clear(rng)]
            told = [told_alone(tuple(prompt), self.max_new_tokens)[0] for prompt in prompts]
            for _ in range(10):
                at_once, later = rng.integers(len(prompts), size=2)
                stop_ids = [told[at_once][0], told[later][int(rng.integers(2, 7))]]
                ends = [ends_after(tokens, stop_ids) for tokens in told]
                if len(set(ends)) == 4 and max(ends) == self.max_new_tokens:
                    order = rng.permutation(4).tolist()
                    if order.index(ends.index(0)) > order.index(ends.index(self.max_new_tokens)):
                        order.reverse()  # the first to leave stands before one that stays: rows have to move up
                    return self.inputs_of([prompts[place] for place in order], self.max_new_tokens, stop_ids, spare=3)

    def draw_clear(self, rng: np.random.Generator) -> list[int]:
        """A short prompt after which the oracle is sure of every token."""
        while True:
            prompt = draw_prompt(rng, int(rng.integers(1, 40)))
            if told_alone(tuple(prompt), self.max_new_tokens)[1] > CLEAR:
                return prompt


@lru_cache(maxsize=100)
def told_alone(prompt_ids: tuple[int, ...], new_tokens: int) -> tuple[list[int], float]:
    return oracle(story_model(CPU), list(prompt_ids), new_tokens)


def ends_after(tokens: list[int], stop_ids: list[int]) -> int:
    """How many tokens come before the first stop id."""
    return next((index for index, token_id in enumerate(tokens) if token_id in stop_ids), len(tokens))


def told_until(inputs: Values) -> list[list[int]]:
    """What each request should give."""
    told = [told_alone(tuple(prompt), inputs["max_new_tokens"])[0] for prompt in inputs["prompts"]]
    return [tokens[:ends_after(tokens, inputs["stop_ids"])] for tokens in told]


class StopsEachOnItsOwn(StopCheck):
    name = "ends each request at its own stop token, in any order"
    points = 3
    mistake = "ends all with the first, returns the stop token, or mixes up requests once one has left"
    advice = "Rows move up when a request leaves: remember which request each row of the batch belongs to."

    def judge(self, inputs: Values, outputs: Values) -> None:
        want = told_until(inputs)
        expect_equal("number of requests", len(outputs["tokens"]), len(want))
        for request, (got, own) in enumerate(zip(outputs["tokens"], want, strict=True)):
            expect_equal(f"new tokens of request {request}, where the requests end after {[len(x) for x in want]}",
                         got, own)


class SpendsNothingOnTheEnded(StopCheck):
    name = "sends no token of a request that has ended"
    points = 3
    mistake = "computes ended requests until the last one has ended, or sends tokens that nobody goes on from"
    advice = "After each step only the rows that stay go on: cache.keep(stay), their tokens, their requests."

    def judge(self, inputs: Values, outputs: Values) -> None:
        ends = [len(tokens) for tokens in told_until(inputs)]
        most = inputs["max_new_tokens"]
        # In step s (from 1) token s of every request goes through that has one, and is not the last that is asked for.
        rows = [len(ends), *(sum(end >= step for end in ends) for step in range(1, most))]
        rows = [number for number in rows if number]
        expect_equal(f"calls of the model, where requests end after {ends}", outputs["calls"], len(rows))
        expect_equal("rows given to model.logits, call by call", outputs["rows"], rows)
        expect_equal("tokens that went through the model", outputs["tokens_through"],
                     sum(map(len, inputs["prompts"])) + sum(rows[1:]))


class KeepsToTheMaximum(BatchCheck):
    name = "gives max_new_tokens tokens for as many calls"
    points = 1
    mistake = "one token or one call too many or too few; above all where 0 or 1 tokens are asked for"
    advice = "max_new_tokens calls give max_new_tokens tokens, none for 0: the last token is not sent to the model."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        lengths = draw_lengths(rng, int(rng.integers(1, 5)), 30)
        inputs = self.inputs_of(draw_prompts(rng, lengths), int(rng.integers(2, 5)), spare=2)
        return inputs | {"maxima": [inputs["max_new_tokens"], 1, 0]}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"runs": [super(KeepsToTheMaximum, self).drive(lab, inputs | {"max_new_tokens": most})
                         for most in inputs["maxima"]]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        for most, run in zip(inputs["maxima"], outputs["runs"], strict=True):
            expect_greedy(inputs["prompts"], run["tokens"], most)
            expect_equal(f"rows given to model.logits for max_new_tokens = {most}, call by call", run["rows"],
                         [len(inputs["prompts"])] * most)
            expect_equal(f"calls of the model for max_new_tokens = {most}", run["calls"], most)


class RefusesBeforeItCalls(BatchCheck):
    name = "refuses an empty prompt and one too long before the model is called"
    points = 2
    mistake = "notices it in the middle of a generation, or not at all"
    advice = "Look at all prompts first: len(prompt) + max_new_tokens - 1 > capacity, or an empty one, is a ValueError."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        """Batches in each of which one prompt is at fault: [prompts, its index, capacity]."""
        prompts = draw_prompts(rng, rng.integers(2, 30, int(rng.integers(3, 6))).tolist())
        inputs, index = self.inputs_of(prompts, int(rng.integers(2, 8))), int(rng.integers(len(prompts)))
        longer = [*prompts[:index], prompts[index] + max(prompts, key=len), *prompts[index + 1:]]
        empty = [*prompts[:index], [], *prompts[index + 1:]]
        too_short = len(longer[index]) + inputs["max_new_tokens"] - 2
        return inputs | {"batches": [[longer, index, too_short], [empty, index, inputs["capacity"]]]}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"runs": [self.refused(lab, inputs | {"prompts": prompts, "capacity": capacity})
                         for prompts, _, capacity in inputs["batches"]]}

    def refused(self, lab: ModuleType, inputs: Values) -> Values:
        with counted(story_model(DEVICE)) as cost:
            try:
                super().drive(lab, inputs)
                raised, message = "nothing", ""
            except NotImplementedError:
                raise
            except Exception as error:
                raised, message = type(error).__name__, str(error)
        return {"raised": raised, "message": message, "calls": cost.model_calls}

    def judge(self, inputs: Values, outputs: Values) -> None:
        for (prompts, index, capacity), run in zip(inputs["batches"], outputs["runs"], strict=True):
            what = (f"prompts of {list(map(len, prompts))} tokens, {inputs['max_new_tokens']} new ones, "
                    f"capacity {capacity}")
            expect_equal(f"error for {what}", run["raised"], "ValueError")
            expect_equal(f"calls of the model before the error for {what}", run["calls"], 0)
            if str(index) not in re.findall(r"\d+", run["message"]):
                raise Mismatch(f"the error for {what} should name prompt {index}: {run['message'][:120]!r}")


LESSON = Lesson("04", "prefill", "Prefill", minutes=120, exercises=(
    Exercise("04.1", "Count what padding wastes", "count_tokens", minutes=5, difficulty=1,
             checks=(CountsOneBatch(), CountsEachBatch(), CountsAPartialBatch())),
    Exercise("04.2", "Pad on either side", "pad", minutes=10, difficulty=1,
             checks=(StacksEqualPrompts(), PadsOnTheRight(), PadsOnTheLeft(), NumbersFromZero(), MarksThePadding()),
             refused=("torch.nn.utils.rnn.pad_sequence",)),
    Exercise("04.3", "Attention in a padded rectangle", "PaddedAttention", minutes=15, difficulty=3,
             checks=(AttendsInARectangle(), HidesPaddingBehind(), HidesPaddingBefore(), StaysFinite(),
                     SharesKeyHeads())),
    Exercise("04.4", "Prefill, padded", "padded_prefill", minutes=10, difficulty=2,
             checks=(PrefillsARectangle(), PrefillsPaddedRight(), PrefillsPaddedLeft(), SpendsOnePass())),
    Exercise("04.5", "Pack instead of pad", "RaggedAttention", minutes=15, difficulty=2,
             checks=(PacksOnePrompt(), PacksManyPrompts(), AttendsPacked(), KeepsPromptsApart(), NeverCrosses())),
    Exercise("04.6", "Bug hunt: a cache that is right for one token", "PackedCache", minutes=20, difficulty=3,
             checks=(GoesOnBesideAnother(), GoesOnRagged(), SeesItsOwnRows())),
    Exercise("04.7", "What exposes the bug", "exposes", minutes=5, difficulty=2,
             checks=(KnowsHowLong(), KnowsHowMany(), KnowsWhatMatters())),
    Exercise("04.8", "Slots", "SlotCache", minutes=25, difficulty=4,
             checks=(DecodesEqualPrompts(), NumbersNewTokens(), DecodesRagged(), FillsItsSlots(), LetsRequestsLeave(),
                     RefusesTooMuch(), ReservesOnce(), AttendsAtOnce(), ReadsWhatIsUsed())),
    Exercise("04.9", "Generate for a whole batch", "generate_batch", minutes=15, difficulty=3,
             checks=(TellsEqualStories(), TellsAnyStories(), TellsOneStory(), StopsEachOnItsOwn(),
                     SpendsNothingOnTheEnded(), KeepsToTheMaximum(), RefusesBeforeItCalls())),
))
