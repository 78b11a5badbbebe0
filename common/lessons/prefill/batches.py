"""04.9: generation for a whole batch, each request ending on its own."""
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

import torch

from common.checking.compare import expect_equal
from common.checking.draw import integer
from common.checking.exercise import Check, Exercise, Mismatch, Values
from common.checking.lab import raised_by
from common.checking.watch import watched
from common.device import DEVICE
from common.lessons.prefill.shared import Lengths, Rng, draw_prompts, expect_greedy, ragged
from common.oracles.generation import CLEAR, CPU, draw_prompt, oracle, story_model

STOP_WITHIN = 9  # tokens are asked for where some requests stop earlier


def arguments(prompts: list[list[int]], max_new_tokens: int, stop_ids: Sequence[int] = (), spare: int = 0) -> Values:
    """Those of `generate_batch`, with slots that have `spare` more places than they need."""
    capacity = max(map(len, prompts)) + max_new_tokens - 1 + spare
    return {"prompts": prompts, "max_new_tokens": max_new_tokens, "stop_ids": list(stop_ids), "capacity": capacity}


def generate(lab: ModuleType, inputs: Values) -> Values:
    """What `generate_batch` gives, and what it asks of the model."""
    model, stop_ids = story_model(DEVICE), frozenset(inputs["stop_ids"])
    with watched(model) as calls:
        tokens = lab.generate_batch(model, inputs["prompts"], inputs["max_new_tokens"], stop_ids, inputs["capacity"])
    return {"tokens": tokens, "calls": calls.count, "tokens_through": calls.tokens, "rows": calls.rows}


# Requests that nothing stops ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class StoriesCheck(Check):
    """Tokens for a batch of prompts, held against each prompt's own oracle."""

    lengths: Lengths
    new_tokens: tuple[int, int] = (8, 8)  # the fewest and the most
    spare: int = 0  # places that the longest request leaves

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        prompts = draw_prompts(rng, self.lengths(rng))
        return arguments(prompts, integer(rng, *self.new_tokens), spare=self.spare)

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return generate(lab, inputs)

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_greedy(inputs["prompts"], outputs["tokens"], inputs["max_new_tokens"])


class OneByOneCheck(StoriesCheck):
    """Each prompt is a batch of its own."""

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        runs = [generate(lab, inputs | {"prompts": [prompt]}) for prompt in inputs["prompts"]]
        return {"tokens": sum((run["tokens"] for run in runs), [])}


class MaximumCheck(StoriesCheck):
    """The same prompts for several maxima, 0 and 1 among them."""

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        return inputs | {"maxima": [inputs["max_new_tokens"], 1, 0]}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"runs": [generate(lab, inputs | {"max_new_tokens": most}) for most in inputs["maxima"]]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        for most, run in zip(inputs["maxima"], outputs["runs"], strict=True):
            expect_greedy(inputs["prompts"], run["tokens"], most)
            expect_equal(f"rows given to model.logits for max_new_tokens = {most}, call by call", run["rows"],
                         [len(inputs["prompts"])] * most)
            expect_equal(f"calls of the model for max_new_tokens = {most}", run["calls"], most)


class RefusalCheck(StoriesCheck):
    """Batches in each of which one prompt is at fault: [prompts, its index, capacity]."""

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        prompts, index = inputs["prompts"], integer(rng, 0, len(inputs["prompts"]) - 1)
        longer = [*prompts[:index], prompts[index] + max(prompts, key=len), *prompts[index + 1:]]
        empty = [*prompts[:index], [], *prompts[index + 1:]]
        too_short = len(longer[index]) + inputs["max_new_tokens"] - 2
        return inputs | {"batches": [[longer, index, too_short], [empty, index, inputs["capacity"]]]}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        runs = []
        for prompts, _, capacity in inputs["batches"]:
            batch = inputs | {"prompts": prompts, "capacity": capacity}
            with watched(story_model(DEVICE)) as calls:
                raised, message = raised_by(lambda batch=batch: generate(lab, batch))
            runs.append({"raised": raised, "message": message, "calls": calls.count})
        return {"runs": runs}

    def judge(self, inputs: Values, outputs: Values) -> None:
        for (prompts, index, capacity), run in zip(inputs["batches"], outputs["runs"], strict=True):
            what = (f"prompts of {list(map(len, prompts))} tokens, {inputs['max_new_tokens']} new ones, "
                    f"capacity {capacity}")
            expect_equal(f"error for {what}", run["raised"], "ValueError")
            expect_equal(f"calls of the model before the error for {what}", run["calls"], 0)
            if str(index) not in re.findall(r"\d+", run["message"]):
                raise Mismatch(f"the error for {what} should name prompt {index}: {run['message'][:120]!r}")


# Requests that stop ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class StopCheck(Check):
    """Requests that end at different times: one at once, one never, and not in their order."""

    judged: Callable[[Values, Values, list[list[int]]], None]  # with what each request should give

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        prompts: list[list[int]] = []
        while True:
            prompts = [*prompts[-3:], draw_clear(rng)]
            tokens = [tokens_alone(tuple(prompt))[0] for prompt in prompts]
            for _ in range(10):
                at_once, later = rng.integers(len(prompts), size=2)
                stop_ids = [tokens[at_once][0], tokens[later][integer(rng, 2, 6)]]
                ends = [len(until_stop(own, stop_ids)) for own in tokens]
                if len(set(ends)) == 4 and max(ends) == STOP_WITHIN:
                    order = rng.permutation(4).tolist()
                    if order.index(ends.index(0)) > order.index(ends.index(STOP_WITHIN)):
                        order.reverse()  # the first to leave stands before one that stays: rows have to move up
                    return arguments([prompts[place] for place in order], STOP_WITHIN, stop_ids, spare=3)

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return generate(lab, inputs)

    def judge(self, inputs: Values, outputs: Values) -> None:
        want = [until_stop(tokens_alone(tuple(prompt))[0], inputs["stop_ids"]) for prompt in inputs["prompts"]]
        self.judged(inputs, outputs, want)


def draw_clear(rng: Rng) -> list[int]:
    """A short prompt after which the oracle is sure of every token."""
    while True:
        prompt = draw_prompt(rng, integer(rng, 1, 39))
        if tokens_alone(tuple(prompt))[1] > CLEAR:
            return prompt


@lru_cache(maxsize=100)
def tokens_alone(prompt_ids: tuple[int, ...]) -> tuple[list[int], float]:
    return oracle(story_model(CPU), list(prompt_ids), STOP_WITHIN)


def until_stop(tokens: list[int], stop_ids: list[int]) -> list[int]:
    return tokens[:next((index for index, token_id in enumerate(tokens) if token_id in stop_ids), len(tokens))]


def expect_own_ends(inputs: Values, outputs: Values, want: list[list[int]]) -> None:
    expect_equal("number of requests", len(outputs["tokens"]), len(want))
    for request, (got, own) in enumerate(zip(outputs["tokens"], want, strict=True)):
        expect_equal(f"new tokens of request {request}, where the requests end after {list(map(len, want))}", got, own)


def expect_nothing_for_the_ended(inputs: Values, outputs: Values, want: list[list[int]]) -> None:
    ends = list(map(len, want))
    # In step s (from 1) token s of every request goes through that has one, and is not the last that is asked for.
    rows = [len(ends), *(sum(end >= step for end in ends) for step in range(1, STOP_WITHIN))]
    rows = [number for number in rows if number]
    expect_equal(f"calls of the model, where requests end after {ends}", outputs["calls"], len(rows))
    expect_equal("rows given to model.logits, call by call", outputs["rows"], rows)
    expect_equal("tokens that went through the model", outputs["tokens_through"],
                 sum(map(len, inputs["prompts"])) + sum(rows[1:]))


EXERCISE = Exercise("04.9", "Generate for a whole batch", "generate_batch", minutes=15, difficulty=3, checks=(
    StoriesCheck("tells stories of equal length as the oracle does", 1, lengths=lambda rng: [32] * 3, spare=10,
        advice="pack, begin, model, hidden[cu_seqlens[1:] - 1]; then for each request one token: arg max, begin, "
               "model."),
    StoriesCheck("tells stories of any lengths, up to exactly the capacity", 3, draws=2,
        lengths=ragged(batch=(2, 5), longest=(100, 349)),
        advice="The longest prompt and max_new_tokens - 1 new tokens are what a slot must hold; that much fits."),
    OneByOneCheck("takes a batch of one, be it of one token", 1, lengths=lambda rng: [1, integer(rng, 2, 99)],
        advice="A batch of one is a batch: keep lists and (1, ...) tensors, and no squeeze()."),
    StopCheck("ends each request at its own stop token, in any order", 3, judged=expect_own_ends,
        advice="Rows move up when a request leaves: remember which request each row of the batch belongs to."),
    StopCheck("sends no token of a request that has ended", 3, judged=expect_nothing_for_the_ended,
        advice="After each step only the rows that stay go on: cache.keep(stay), their tokens, their requests."),
    MaximumCheck("gives max_new_tokens tokens for as many calls", 1, new_tokens=(2, 4), spare=2,
        lengths=ragged(batch=(1, 4), longest=(30, 30)),
        advice="max_new_tokens calls give max_new_tokens tokens, none for 0: the last token is not sent to the model."),
    RefusalCheck("refuses an empty prompt and one too long before the model is called", 2, new_tokens=(2, 7),
        lengths=lambda rng: rng.integers(2, 30, integer(rng, 3, 5)).tolist(),
        advice="Look at all prompts first: len(prompt) + max_new_tokens - 1 > capacity, or an empty one, is a "
               "ValueError."),
))
