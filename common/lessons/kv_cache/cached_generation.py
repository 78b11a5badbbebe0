"""03.3: generation on a cache, which sends each token through the model once."""
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from common.checking.compare import expect_close, expect_equal
from common.checking.draw import draw_config, integer
from common.checking.exercise import BF16, F32, Check, Exercise, Mismatch, Rng, Values
from common.checking.story import StoryCheck
from common.checking.watch import watched
from common.device import DEVICE
from common.lessons.kv_cache.shared import or_error
from common.model.attention import CausalAttention
from common.model.llama import Config, Llama
from common.model.shapes import random_model
from common.oracles.generation import CPU

ATOL = 6e-6  # ten times the largest error, found as that of 03.2: 5.6e-7, with logits of about 1


class Chooser:
    """Chooses what was drawn beforehand, and keeps the logits that it was shown."""

    def __init__(self, choices: list[int]):
        self.choices = choices
        self.logits: list[Tensor] = []

    def __call__(self, logits: Tensor) -> int:
        self.logits.append(logits.clone())
        return self.choices[(len(self.logits) - 1) % len(self.choices)]


def small_model(inputs: Values, device: torch.device) -> Llama:
    """The same random model of an odd shape on every device."""
    return random_model(Config(**inputs["config"]), F32, CPU, inputs["model_seed"]).to(device)


def generate(lab: ModuleType, inputs: Values, max_new_tokens: int, stop_ids: list[int]) -> Values:
    model, choose = small_model(inputs, DEVICE), Chooser(inputs["choices"])
    tokens, calls_before = [], []
    with watched(model) as calls:
        for token_id in lab.generate(model, [*inputs["prompt_ids"]], max_new_tokens, frozenset(stop_ids), choose):
            tokens.append(token_id)
            calls_before.append(calls.count)
    return {"tokens": tokens, "calls_before": calls_before, "calls": calls.count, "sent": calls.sent,
            "positions": calls.positions, "rows": calls.rows, "logits": choose.logits}


def expect_plain_logits(inputs: Values, prompt_ids: list[int], logits: list[Tensor], what: str = "") -> None:
    """What plain generation without a cache scores before it chooses each of `choices`, in float64."""
    text = torch.tensor([*prompt_ids, *inputs["choices"][:-1]])
    with torch.inference_mode():
        model = small_model(inputs, CPU).double()
        want = model.logits(model(text, torch.arange(len(text)), CausalAttention())[len(prompt_ids) - 1:])
    expect_equal(f"choices{what}", len(logits), len(want))
    for step, got in enumerate(logits):
        where = f"logits of new token {step} after {len(prompt_ids)}{what}"
        expect_close(where, got, want[step:step + 1], ATOL)


@dataclass(frozen=True, kw_only=True)
class ForcedCheck(Check):
    """Generation from a small random model where the tokens to choose are drawn beforehand, so that no tie matters."""

    judged: Callable[[Values, Values], None]
    length: tuple[int, int] = (33, 79)  # of the prompt: longer than the worked example's
    draws: int = 3

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        config, new_tokens = draw_config(rng), integer(rng, 4, 11)
        # None of them twice, so that a stop token cannot come early.
        ids = rng.permutation(config["vocab_size"])
        return {"config": config, "model_seed": integer(rng, 0, 2**30 - 1), "choices": ids[:new_tokens].tolist(),
                "prompt_ids": rng.integers(0, config["vocab_size"], integer(rng, *self.length)).tolist(),
                "unused_ids": ids[new_tokens:].tolist()}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return generate(lab, inputs, len(inputs["choices"]), [])

    def judge(self, inputs: Values, outputs: Values) -> None:
        self.judged(inputs, outputs)


class TwoPromptsCheck(ForcedCheck):
    """After a prompt of a single token, too."""

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        return inputs | {"first_id": integer(rng, 0, inputs["config"]["vocab_size"] - 1)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        shortest = super().drive(lab, inputs | {"prompt_ids": [inputs["first_id"]]})
        return super().drive(lab, inputs) | {"logits_after_one": shortest["logits"]}


def expect_the_same_logits(inputs: Values, outputs: Values) -> None:
    expect_plain_logits(inputs, inputs["prompt_ids"], outputs["logits"])
    expect_plain_logits(inputs, [inputs["first_id"]], outputs["logits_after_one"])


def expect_each_token_once(inputs: Values, outputs: Values) -> None:
    want = [inputs["prompt_ids"], *([token_id] for token_id in inputs["choices"][:-1])]
    expect_equal("tokens sent, call by call", [len(ids) for ids in outputs["sent"]], [len(ids) for ids in want])
    for call, (got, ids) in enumerate(zip(outputs["sent"], want, strict=True)):
        expect_equal(f"token ids of call {call}", got, ids)


def expect_continued_positions(inputs: Values, outputs: Values) -> None:
    position = 0
    for call, (ids, got) in enumerate(zip(outputs["sent"], outputs["positions"], strict=True)):
        expect_equal(f"positions of call {call}", got, list(range(position, position + len(ids))))
        position += len(ids)


class StopCheck(ForcedCheck):
    """Among many stop ids, so that knowing a few of them does not help, is the first choice, and then a later one."""

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        return inputs | {"stop_at": integer(rng, 1, len(inputs["choices"]) - 1)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        choices, others = inputs["choices"], inputs["unused_ids"]
        return {"runs": [generate(lab, inputs, len(choices), [*others, choices[at]]) for at in (0, inputs["stop_at"])]}


def expect_the_end(inputs: Values, outputs: Values) -> None:
    for at, run in zip((0, inputs["stop_at"]), outputs["runs"], strict=True):
        expect_equal(f"tokens where choice {at} is a stop id", run["tokens"], inputs["choices"][:at])
        expect_equal(f"calls of the model where choice {at} is a stop id", run["calls"], at + 1)


class MaximumCheck(ForcedCheck):
    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"runs": [generate(lab, inputs, n, []) for n in (0, 1, len(inputs["choices"]))]}


def expect_the_maximum(inputs: Values, outputs: Values) -> None:
    for n, run in zip((0, 1, len(inputs["choices"])), outputs["runs"], strict=True):
        expect_equal(f"tokens for max_new_tokens = {n}", run["tokens"], inputs["choices"][:n])
        expect_equal(f"calls of the model for max_new_tokens = {n}", run["calls"], n)


def expect_one_row(inputs: Values, outputs: Values) -> None:
    n, vocab_size = len(inputs["choices"]), inputs["config"]["vocab_size"]
    expect_equal("rows given to model.logits, call by call", outputs["rows"], [1] * n)
    shapes = [list(logits.shape) for logits in outputs["logits"]]
    expect_equal("shapes that choose saw", shapes, [[1, vocab_size]] * n)
    expect_equal("tokens", outputs["tokens"], inputs["choices"])


def expect_tokens_at_once(inputs: Values, outputs: Values) -> None:
    want = list(range(1, len(inputs["choices"]) + 1))
    expect_equal("calls of the model before each token is handed over", outputs["calls_before"], want)


class CapacityCheck(ForcedCheck):
    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        made = []

        class Noted(lab.KVCache):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                made.append([self.keys.shape[1], str(self.keys.dtype).removeprefix("torch.")])

        lab.KVCache = Noted
        model, n = small_model(inputs, DEVICE).bfloat16(), len(inputs["choices"])
        tokens = list(lab.generate(model, inputs["prompt_ids"], n, frozenset(), Chooser(inputs["choices"])))
        return {"made": made, "tokens": tokens}


def expect_one_cache(inputs: Values, outputs: Values) -> None:
    places = len(inputs["prompt_ids"]) + len(inputs["choices"]) - 1
    expect_equal("KVCaches made, as [capacity, dtype]", outputs["made"], [[places, "bfloat16"]])
    expect_equal("tokens", outputs["tokens"], inputs["choices"])


class ThreeRequestsCheck(ForcedCheck):
    """Two generations in turn, token by token, the second of them from the prompt backwards; then a third."""

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return or_error(lambda: self.generate_three(lab, inputs))

    def generate_three(self, lab: ModuleType, inputs: Values) -> Values:
        model, prompt_ids = small_model(inputs, DEVICE), inputs["prompt_ids"]
        choosers = [Chooser(inputs["choices"]) for _ in range(3)]
        first, second, third = (lab.generate(model, ids, len(inputs["choices"]), frozenset(), choose) for ids, choose
                                in zip((prompt_ids, prompt_ids[::-1], prompt_ids), choosers, strict=True))
        for _ in zip(first, second, strict=True):
            pass
        for _ in third:
            pass
        return {"logits": [choose.logits for choose in choosers]}


def expect_three_apart(inputs: Values, outputs: Values) -> None:
    if outputs["error"]:
        raise Mismatch(f"two generations in turn, and a third: {outputs['error']}")
    forwards, backwards = inputs["prompt_ids"], inputs["prompt_ids"][::-1]
    cases = (forwards, ", beside another"), (backwards, ", beside another"), (forwards, ", after two others")
    for (prompt_ids, what), logits in zip(cases, outputs["logits"], strict=True):
        expect_plain_logits(inputs, prompt_ids, logits, what)


EXERCISE = Exercise("03.3", "Generate, sending each token once", "generate", minutes=15, difficulty=2,
                    refused=("common.model.generate.generate",), checks=(
    StoryCheck("gives the next token of a story", 1, new_tokens=1,
        advice="Prefill: make a KVCache, a CachedAttention on it, and one call of the model with the whole prompt, "
               "at positions 0 to N - 1; then choose from model.logits(hidden[-1:])."),
    ForcedCheck("sends the prompt in one call, and then each token once", 2, judged=expect_each_token_once,
        advice="First call: the whole prompt. Each later call: the one token chosen last. None after the last choice."),
    ForcedCheck("numbers the tokens of the text from 0 on, across all calls", 1, judged=expect_continued_positions,
        advice="Positions go on where the cache ends: arange(cache.length, cache.length + N), asked before the call."),
    StoryCheck("continues a story as the oracle does", 2, new_tokens=12,
        advice="One cache and one CachedAttention serve the whole generation: after the prefill, send the chosen "
               "token alone, and they remember the rest."),
    TwoPromptsCheck("scores every token as plain generation does, after prompts of one token to several hundred", 3,
        length=(2, 399), judged=expect_the_same_logits,
        advice="Token t of the text gets position t, be it of the prompt or chosen, and all tokens before it are in "
               "the cache: cache.length is the position of the next one."),
    StopCheck("ends at any stop id, the very first token included, without yielding it", 2, judged=expect_the_end,
        advice="If the chosen id is among stop_ids, return: it is not yielded, and the model is not called again."),
    MaximumCheck("yields max_new_tokens tokens, with one call each", 1, judged=expect_the_maximum,
        advice="max_new_tokens calls give max_new_tokens tokens, none for 0: one call and one choice in each round."),
    ForcedCheck("scores one row per token, and shows it to `choose` once", 1, judged=expect_one_row,
        advice="token_id = int(choose(model.logits(hidden[-1:]))): one row of logits, one choice, which may be "
               "random."),
    ForcedCheck("yields each token before it calls the model again", 1, judged=expect_tokens_at_once,
        advice="`yield token_id` inside the loop, before the next call, hands over each token at once."),
    CapacityCheck("makes one cache, with room for exactly the tokens that can be sent", 1, judged=expect_one_cache,
        cpu=(BF16,), cuda=(BF16,),
        advice="KVCache(model.config, len(prompt_ids) + max_new_tokens - 1, dtype, device), with dtype and device of "
               "next(model.parameters()): the token chosen last is never sent."),
    ThreeRequestsCheck("knows nothing of another generation, before it or beside it", 2, judged=expect_three_apart,
        advice="Make the cache inside generate, anew for each call of it: what one request wrote is none of "
               "another's."),
    StoryCheck("continues a story of several hundred tokens", 1, new_tokens=4, length=(150, 399),
        advice="Nothing of the prompt may be dropped: the whole of it goes into the first call, however long it is."),
))
