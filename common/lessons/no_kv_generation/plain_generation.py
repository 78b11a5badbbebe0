"""02.1: generation that runs the whole prefix through the model for each token."""
import zlib
from dataclasses import dataclass
from itertools import accumulate
from types import ModuleType

import torch
from torch import Tensor, nn

from common.checking.compare import expect_equal
from common.checking.draw import integer
from common.checking.exercise import Check, Exercise, Rng, Values
from common.checking.story import StoryCheck
from common.checking.watch import watched
from common.device import DEVICE
from common.model import generate as plain
from common.model.attention import CausalAttention
from common.oracles.generation import CPU


class Script(nn.Module):
    """Stands in for a Llama. Its logits have no ties and cost nothing."""

    def __init__(self, vocab_size: int, device: torch.device):
        super().__init__()
        self.vocab_size = vocab_size
        self.here = nn.Parameter(torch.zeros(1, device=device), requires_grad=False)
        self.causal: list[bool] = []  # of each call, whether it came with a CausalAttention()

    def forward(self, token_ids: Tensor, positions: Tensor, attention: object) -> Tensor:
        """After each prefix comes its checksum, in which every token has its say."""
        self.causal.append(isinstance(attention, CausalAttention) and attention.batch == 1)
        words = [id.to_bytes(8, "little") for id in token_ids.tolist()]
        _, *checksums = accumulate(words, lambda checksum, word: zlib.crc32(word, checksum), initial=0)
        following = [checksum % self.vocab_size for checksum in checksums]
        return torch.tensor(following, dtype=torch.float32, device=token_ids.device)[:, None]

    def logits(self, hidden: Tensor) -> Tensor:
        return -(torch.arange(self.vocab_size, device=hidden.device) - hidden).abs()


@dataclass(frozen=True, kw_only=True)
class ScriptCheck(Check):
    """Generation from a script. Of what it gives and asks of the model, `compared` is as in plain generation."""

    compared: tuple[str, ...]
    draws: int = 5

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        vocab_size = integer(rng, 50, 899)
        prompt_ids = rng.integers(0, vocab_size, integer(rng, 90, 199)).tolist()
        return {"vocab_size": vocab_size, "prompt_ids": prompt_ids, "max_new_tokens": integer(rng, 5, 19),
                "stop_ids": []}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return generate(lab, inputs, DEVICE)

    def judge(self, inputs: Values, outputs: Values) -> None:
        want = generate(plain, inputs, CPU)
        for what in self.compared:
            expect_equal(what, outputs[what], want[what])


def generate(lab: ModuleType, inputs: Values, device: torch.device) -> Values:
    """All that can be seen of a generation from a script. Without `choices` it is greedy."""
    model, prompt_ids, choices = Script(inputs["vocab_size"], device), [*inputs["prompt_ids"]], inputs.get("choices")
    tokens, calls_before, shapes = [], [], []

    def choose(logits: Tensor) -> int:
        shapes.append(list(logits.shape))
        return choices[(len(shapes) - 1) % len(choices)] if choices else plain.greedy(logits)

    with watched(model) as calls:
        stop_ids = frozenset(inputs["stop_ids"])
        for token_id in lab.generate(model, prompt_ids, inputs["max_new_tokens"], stop_ids, choose):
            tokens.append(token_id)
            calls_before.append(calls.count)
    return {"tokens": tokens, "calls of the model": calls.count, "sent": calls.sent, "positions": calls.positions,
            "a CausalAttention() in each call": all(model.causal), "shapes that choose saw": shapes,
            "rows given to model.logits, call by call": calls.rows,
            "calls of the model before each token is handed over": calls_before,
            "length of prompt_ids afterwards": len(prompt_ids), "prompt_ids afterwards": prompt_ids}


class PrefixCheck(ScriptCheck):
    def judge(self, inputs: Values, outputs: Values) -> None:
        want = generate(plain, inputs, CPU)
        for call, (sent, prefix) in enumerate(zip(outputs["sent"], want["sent"], strict=False)):
            expect_equal(f"number of tokens in call {call}", len(sent), len(prefix))
            expect_equal(f"last four tokens in call {call}", sent[-4:], prefix[-4:])
            expect_equal(f"token ids of call {call}", sent, prefix)
            expect_equal(f"positions of call {call}", outputs["positions"][call], want["positions"][call])
        super().judge(inputs, outputs)


class StopCheck(ScriptCheck):
    """The script comes to one of many stop ids, so that knowing a few of them does not help."""

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        tokens = generate(plain, inputs, CPU)["tokens"]
        reached = tokens[integer(rng, 0, len(tokens) - 2)]
        return inputs | {"stop_ids": [*sorted(set(range(inputs["vocab_size"])) - set(tokens)), reached]}


class MaximumCheck(ScriptCheck):
    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        none = super().drive(lab, inputs | {"max_new_tokens": 0})
        return super().drive(lab, inputs) | {"none": none["tokens"], "calls_for_none": none["calls of the model"]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        most = inputs["max_new_tokens"]
        expect_equal("tokens for max_new_tokens = 0", outputs["none"], [])
        expect_equal("calls of the model for max_new_tokens = 0", outputs["calls_for_none"], 0)
        expect_equal(f"number of tokens for {most}", len(outputs["tokens"]), most)
        super().judge(inputs, outputs)


class ChoiceCheck(ScriptCheck):
    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        return inputs | {"choices": rng.integers(0, inputs["vocab_size"], inputs["max_new_tokens"]).tolist()}


EXERCISE = Exercise("02.1", "Generate, rerunning the whole prefix", "generate", minutes=15, difficulty=2,
                    refused=("common.model.generate.generate",), checks=(
    StoryCheck("continues a story as the oracle does", 2, new_tokens=12,
        advice="In a loop: the whole prefix through the model, logits of hidden[-1:], choose, append, yield."),
    PrefixCheck("sends the whole prefix, at positions from 0 on, in each call", 2,
        compared=("a CausalAttention() in each call",),
        advice="Each call gets the prompt and all tokens so far, at positions 0 to N - 1, with a CausalAttention()."),
    StopCheck("ends at any stop id, without yielding it", 2, compared=("tokens", "calls of the model"),
        advice="If the chosen id is among stop_ids, return: it is not yielded, and the model is not called again."),
    MaximumCheck("yields max_new_tokens tokens, with one call each", 1, compared=("tokens", "calls of the model"),
        advice="max_new_tokens calls give max_new_tokens tokens, none for 0: one call and one token in each round."),
    ScriptCheck("asks for the logits of one row per token", 1, compared=("rows given to model.logits, call by call",),
        advice="Only the last token's logits are needed: model.logits(hidden[-1:]) instead of model.logits(hidden)."),
    ScriptCheck("leaves the caller's prompt as it was", 1,
        compared=("length of prompt_ids afterwards", "prompt_ids afterwards"),
        advice="token_ids = list(prompt_ids) is a list of your own; token_ids = prompt_ids is the caller's."),
    ChoiceCheck("takes what `choose` makes of one row, once per token", 1,
        compared=("tokens", "shapes that choose saw"),
        advice="The next token is int(choose(logits)), asked once per token with logits (1, V): it may be random."),
    ScriptCheck("yields each token before it calls the model again", 2,
        compared=("calls of the model before each token is handed over",),
        advice="`yield token_id` inside the loop hands over each token at once; a list returned at the end does not."),
))
