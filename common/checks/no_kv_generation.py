"""Lesson 02: checks of plain generation, of streaming, and of what both are computed to cost."""
import zlib
from collections.abc import Callable, Iterator
from itertools import accumulate
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from common.checks.compare import expect_close, expect_equal
from common.checks.draw import draw_config
from common.checks.exercise import Check, Exercise, Lesson, Mismatch, Values
from common.checks.oracle import CPU, draw_clear_prompt, oracle, story_model
from common.device import DEVICE
from common.measure import limits
from common.model.attention import Attention, CausalAttention
from common.model.generate import greedy
from common.model.llama import Config, Llama

# 02.1 -----------------------------------------------------------------------------------------------------------------

class TellsAStory(Check):
    name = "continues a story as the oracle does"
    points = 2
    mistake = "feeds back the wrong token, or runs the model on the wrong positions"
    advice = "In a loop: the whole prefix through the model, logits of hidden[-1:], choose, append, yield."
    new_tokens = 12

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"prompt_ids": draw_clear_prompt(rng, 32, self.new_tokens)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        tokens = lab.generate(story_model(DEVICE), inputs["prompt_ids"], self.new_tokens, frozenset(), greedy)
        return {"tokens": list(tokens)}

    def judge(self, inputs: Values, outputs: Values) -> None:
        want, _ = oracle(story_model(CPU), inputs["prompt_ids"], self.new_tokens)
        expect_equal("tokens", outputs["tokens"], want)


def scripted_next(token_ids: list[int], vocab_size: int) -> list[int]:
    """What `Script` puts after each prefix of `token_ids`: a checksum, in which every earlier token has its say."""
    sums = accumulate(token_ids, lambda so_far, id: zlib.crc32(id.to_bytes(8, "little"), so_far), initial=0)
    return [one % vocab_size for one in sums][1:]


class Script(nn.Module):
    """Stands in for a Llama, and writes down how it is called. Its logits have no ties and cost nothing."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.vocab_size = vocab_size
        self.here = nn.Parameter(torch.zeros(1, device=DEVICE), requires_grad=False)
        self.token_ids: list[list[int]] = []
        self.positions: list[list[int]] = []
        self.causal: list[bool] = []
        self.rows: list[int] = []

    def forward(self, token_ids: Tensor, positions: Tensor, attention: object) -> Tensor:
        self.token_ids.append(token_ids.tolist())
        self.positions.append(positions.tolist())
        self.causal.append(isinstance(attention, CausalAttention) and attention.batch == 1)
        following = scripted_next(self.token_ids[-1], self.vocab_size)
        return torch.tensor(following, dtype=torch.float32, device=token_ids.device)[:, None]

    def logits(self, hidden: Tensor) -> Tensor:
        self.rows.append(len(hidden))
        return -(torch.arange(self.vocab_size, device=hidden.device) - hidden).abs()


def scripted(prompt_ids: list[int], vocab_size: int, max_new_tokens: int, stop_ids: list[int]) -> tuple[list[int], int]:
    """The tokens that plain generation yields from a `Script`, and how often it calls the model."""
    token_ids = list(prompt_ids)
    for calls in range(1, max_new_tokens + 1):
        token_id = scripted_next(token_ids, vocab_size)[-1]
        if token_id in stop_ids:
            return token_ids[len(prompt_ids):], calls
        token_ids.append(token_id)
    return token_ids[len(prompt_ids):], max_new_tokens


class ScriptCheck(Check):
    """Generation from a script, with everything that it asked of the model."""

    draws = 5

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        vocab_size = int(rng.integers(50, 900))
        prompt_ids = rng.integers(0, vocab_size, rng.integers(90, 200)).tolist()
        return {"vocab_size": vocab_size, "prompt_ids": prompt_ids, "max_new_tokens": int(rng.integers(5, 20)),
                "stop_ids": []}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        model, prompt_ids = Script(inputs["vocab_size"]), list(inputs["prompt_ids"])
        tokens = lab.generate(model, prompt_ids, inputs["max_new_tokens"], frozenset(inputs["stop_ids"]), greedy)
        return {"tokens": list(tokens), "prompt_after": prompt_ids, "token_ids": model.token_ids,
                "positions": model.positions, "causal": model.causal, "rows": model.rows}

    def judge(self, inputs: Values, outputs: Values) -> None:
        tokens, calls = scripted(**inputs)
        expect_equal("tokens", outputs["tokens"], tokens)
        expect_equal("calls of the model", len(outputs["token_ids"]), calls)


class SendsTheWholePrefix(ScriptCheck):
    name = "sends the whole prefix, at positions from 0 on, in each call"
    points = 2
    mistake = "keeps only the last tokens, or numbers them from another place"
    advice = "Each call gets the prompt and all tokens so far, at positions 0 to N - 1, with a CausalAttention()."

    def judge(self, inputs: Values, outputs: Values) -> None:
        tokens, calls = scripted(**inputs)
        for call in range(min(calls, len(outputs["token_ids"]))):
            prefix = [*inputs["prompt_ids"], *tokens[:call]]
            expect_equal(f"number of tokens in call {call}", len(outputs["token_ids"][call]), len(prefix))
            expect_equal(f"last four tokens in call {call}", outputs["token_ids"][call][-4:], prefix[-4:])
            expect_equal(f"token ids of call {call}", outputs["token_ids"][call], prefix)
            expect_equal(f"positions of call {call}", outputs["positions"][call], list(range(len(prefix))))
        expect_equal("a CausalAttention() in each call", all(outputs["causal"]), True)


class EndsAtAStopToken(ScriptCheck):
    name = "ends at any stop id, without yielding it"
    points = 2
    mistake = "yields the stop token, goes on after it, or knows only one of several"
    advice = "If the chosen id is among stop_ids, return: it is not yielded, and the model is not called again."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        tokens, _ = scripted(**inputs)
        last = tokens[int(rng.integers(0, len(tokens) - 1))]
        others = sorted(set(range(inputs["vocab_size"])) - set(tokens))
        return inputs | {"stop_ids": [*rng.choice(others, 2).tolist(), last]}


class KeepsToTheMaximum(ScriptCheck):
    name = "yields max_new_tokens tokens, with one call each"
    points = 1
    mistake = "one token or one call too many or too few; above all where 0 or 1 tokens are asked for"
    advice = "max_new_tokens calls give max_new_tokens tokens, none for 0: one call and one token in each round."

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        none = super().drive(lab, inputs | {"max_new_tokens": 0})
        return super().drive(lab, inputs) | {"calls_for_none": len(none["token_ids"]), "none": none["tokens"]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_equal("tokens for max_new_tokens = 0", outputs["none"], [])
        expect_equal("calls of the model for max_new_tokens = 0", outputs["calls_for_none"], 0)
        expect_equal(f"number of tokens for {inputs['max_new_tokens']}", len(outputs["tokens"]),
                     inputs["max_new_tokens"])
        super().judge(inputs, outputs)


class AsksForOneRow(ScriptCheck):
    name = "asks for the logits of one row per token"
    points = 1
    mistake = "scores the vocabulary for every token of the prefix, and throws all rows but one away"
    advice = "Only the last token's logits are needed: model.logits(hidden[-1:]) instead of model.logits(hidden)."

    def judge(self, inputs: Values, outputs: Values) -> None:
        _, calls = scripted(**inputs)
        expect_equal("rows given to model.logits, call by call", outputs["rows"], [1] * calls)


class LeavesThePromptAlone(ScriptCheck):
    name = "leaves the caller's prompt as it was"
    points = 1
    mistake = "appends to the list that it was given, which is the caller's"
    advice = "token_ids = list(prompt_ids) is a list of your own; token_ids = prompt_ids is the caller's."

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_equal("length of prompt_ids afterwards", len(outputs["prompt_after"]), len(inputs["prompt_ids"]))
        expect_equal("prompt_ids afterwards", outputs["prompt_after"], inputs["prompt_ids"])


class UsesTheChoice(ScriptCheck):
    name = "takes what `choose` makes of one row, once per token"
    points = 1
    mistake = "takes the arg max itself, or calls `choose` more than once for a token"
    advice = "The next token is int(choose(logits)), asked once per token with logits (1, V): it may be random."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        return inputs | {"choices": rng.integers(0, inputs["vocab_size"], inputs["max_new_tokens"]).tolist()}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        shapes = []

        def choose(logits: Tensor) -> int:
            shapes.append(list(logits.shape))
            return inputs["choices"][(len(shapes) - 1) % len(inputs["choices"])]

        model = Script(inputs["vocab_size"])
        tokens = list(lab.generate(model, inputs["prompt_ids"], len(inputs["choices"]), frozenset(), choose))
        return {"tokens": tokens, "shapes": shapes}

    def judge(self, inputs: Values, outputs: Values) -> None:
        want = inputs["choices"]
        expect_equal("tokens", outputs["tokens"], want)
        expect_equal("shapes that choose saw", outputs["shapes"], [[1, inputs["vocab_size"]]] * len(want))


class YieldsAtOnce(ScriptCheck):
    name = "yields each token before it calls the model again"
    points = 2
    mistake = "collects all tokens first, so that the reader waits for the last one"
    advice = "`yield token_id` inside the loop hands over each token at once; a list returned at the end does not."

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        model, calls = Script(inputs["vocab_size"]), []
        for _ in lab.generate(model, inputs["prompt_ids"], inputs["max_new_tokens"], frozenset(), greedy):
            calls.append(len(model.token_ids))
        return {"calls": calls}

    def judge(self, inputs: Values, outputs: Values) -> None:
        want = list(range(1, inputs["max_new_tokens"] + 1))
        expect_equal("calls of the model before each token is handed over", outputs["calls"], want)


# 02.2 -----------------------------------------------------------------------------------------------------------------

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WIDE = "éßñøč€日本語語の🪁🥧🐈"  # two, three and four bytes in UTF-8


def decoder(tokens: list[list[int]]) -> Callable[[list[int]], str]:
    """Decode as a byte-level tokenizer whose token i is the bytes `tokens[i]`, and which drops the first space."""

    def decode(ids: list[int]) -> str:
        text = b"".join(bytes(tokens[id]) for id in ids).decode("utf-8", errors="replace")
        return text.removeprefix(" ")

    return decode


def draw_text(rng: np.random.Generator, words: int, alphabet: str) -> str:
    """Each word after a space, the first one too."""
    return "".join(" " + "".join(rng.choice(list(alphabet), rng.integers(1, 6))) for _ in range(words))


def cut(rng: np.random.Generator, data: bytes, longest: int) -> list[list[int]]:
    """Pieces of 1 to `longest` bytes, wherever that cuts."""
    pieces, start = [], 0
    while start < len(data):
        end = start + int(rng.integers(1, longest + 1))
        pieces.append(list(data[start:end]))
        start = end
    return pieces


class StreamCheck(Check):
    """Every id is a token of its own: id i stands for the bytes tokens[i]."""

    draws = 10

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        taken = 0

        def arriving() -> Iterator[int]:
            nonlocal taken
            for taken in range(1, len(inputs["tokens"]) + 1):  # noqa: B007  (counts what was asked for)
                yield taken - 1

        pieces, after = [], []
        for piece in lab.stream_text(arriving(), decoder(inputs["tokens"])):
            pieces.append(piece)
            after.append(taken)
        return {"pieces": pieces, "after": after}

    def judge(self, inputs: Values, outputs: Values) -> None:
        whole = decoder(inputs["tokens"])(list(range(len(inputs["tokens"])))).rstrip("\ufffd")
        expect_equal("joined text", "".join(outputs["pieces"]), whole)


class StreamsPlainText(StreamCheck):
    name = "streams plain letters"
    points = 1
    draws = 1
    mistake = "repeats what was shown before, or loses something"
    advice = "Decode all ids so far, and yield what is new in it since the last piece."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"tokens": [list(str(letter).encode()) for letter in rng.choice(list(LETTERS), 16)]}


class KeepsSpaces(StreamCheck):
    name = "keeps the spaces between words"
    points = 1
    mistake = "decodes each token alone, which loses the space that its word begins with"
    advice = "decode([id]) drops a leading space: decode the ids from the first one on, and cut off what was yielded."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"tokens": [list(f" {word}".encode()) for word in draw_text(rng, 12, LETTERS).split()]}


class KeepsCharactersWhole(StreamCheck):
    name = "never shows half a character"
    points = 2
    mistake = "yields U+FFFD where a token ends inside a character"
    advice = "Text that ends in U+FFFD has an unfinished character there: hold that back until its last byte has come."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        text = draw_text(rng, 6, LETTERS + WIDE) + "🪁"
        return {"tokens": cut(rng, text.encode(), longest=3)}

    def judge(self, inputs: Values, outputs: Values) -> None:
        halves = [piece for piece in outputs["pieces"] if "\ufffd" in piece]
        if halves:
            raise Mismatch(f"{len(halves)} pieces hold U+FFFD, the first of them {halves[0]!r}")
        super().judge(inputs, outputs)


class LeavesOutTheUnfinished(KeepsCharactersWhole):
    name = "leaves out a character that is never finished"
    points = 1
    mistake = "flushes the held-back bytes as U+FFFD when the ids end"
    advice = "If the ids end inside a character, drop that one alone: whole characters before it belong to the text."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        data = draw_text(rng, 3, LETTERS).encode() + "🪁".encode()[: rng.integers(1, 4)]
        return {"tokens": [*cut(rng, data[:-1], longest=2), [data[-1]]]}


class StreamsAtOnce(StreamCheck):
    name = "yields text before it takes the next id"
    points = 2
    mistake = "waits for a space, for the next token or for the end"
    advice = "As soon as the text so far ends with a whole character, yield all of it, before asking for another id."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"tokens": cut(rng, draw_text(rng, 8, LETTERS + WIDE).encode(), longest=4)}

    def judge(self, inputs: Values, outputs: Values) -> None:
        decode = decoder(inputs["tokens"])
        if "" in outputs["pieces"]:
            raise Mismatch("an empty piece was yielded")
        for taken in range(1, len(inputs["tokens"]) + 1):
            due = decode(list(range(taken)))
            shown = "".join(piece for piece, at in zip(outputs["pieces"], outputs["after"], strict=True) if at <= taken)
            if not due.endswith("\ufffd") and shown != due:
                raise Mismatch(f"after {taken} ids {due[-20:]!r} was due, and {shown[-20:]!r} had been yielded")


# 02.3 and 02.4 --------------------------------------------------------------------------------------------------------

def counted_flops(config: dict[str, int], n: int, attention: Attention | None = None) -> int:
    """What torch counts when a model of this shape runs on n tokens and scores the last. Nothing is computed."""
    with torch.device("meta"):
        model = Llama(Config(**config))
        model.rotary.to("meta")
        token_ids = torch.zeros(n, dtype=torch.long)
    # torch counts the products of the plain formula; its fused kernel on the CPU it counts as nothing at all.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
        model.logits(model(token_ids, token_ids, attention or CausalAttention())[-1:])
    return counter.get_total_flops()


class ForwardCheck(Check):
    draws = 5

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"flops": lab.forward_flops(Config(**inputs["config"]), inputs["n"])}

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_equal(f"FLOPs of {inputs['n']} tokens through {inputs['config']}", outputs["flops"],
                     counted_flops(**inputs))


class CountsOneToken(ForwardCheck):
    name = "counts one token in a square model"
    points = 1
    draws = 1
    mistake = "forgets one of the seven matrices of a layer, or the logits, or counts a product once instead of twice"
    advice = "Per layer q, k, v, o, gate, up and down, then the logits: 2 * rows * columns for each token and matrix."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        size = 8 * int(rng.integers(2, 6))
        return {"config": {"vocab_size": size, "dim": size, "n_layers": 1, "n_heads": size // 8,
                           "n_kv_heads": size // 8, "head_dim": 8, "ffn_dim": size}, "n": 1}


class CountsAnyShape(ForwardCheck):
    name = "counts grouped heads and widths of any size"
    points = 2
    mistake = "takes dim for n_heads * head_dim, or as many key/value heads as query heads"
    advice = "q and o are dim x (n_heads * head_dim), k and v dim x (n_kv_heads * head_dim): neither need be dim x dim."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"config": draw_config(rng), "n": 1}


class CountsAttention(ForwardCheck):
    name = "counts attention, and the logits of one row"
    points = 2
    mistake = "leaves attention out, counts it for one key, halves it, or scores the vocabulary for every token"
    advice = "For n tokens: 4 * n * n * head_dim * n_heads of attention per layer, every matrix n times, logits once."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"config": draw_config(rng), "n": int(rng.integers(5, 100))}


class CountsExactly(ForwardCheck):
    name = "is an exact int where a float is not"
    points = 1
    mistake = "divides with / or multiplies by floats, which know whole numbers up to 2^53 only"
    advice = "Count in whole numbers: a float has 53 bits, and a long prompt takes more operations than that."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        config = {"vocab_size": 128_257, "dim": 4099, "n_layers": 3, "n_heads": 33, "n_kv_heads": 11, "head_dim": 126,
                  "ffn_dim": 14_337}  # nearly Llama-3-8B's, but hardly a factor of 2, which would suit a float
        return {"config": config, "n": 2 * int(rng.integers(2_500_000, 5_000_000)) + 1}

    def judge(self, inputs: Values, outputs: Values) -> None:
        if not isinstance(outputs["flops"], int):
            raise Mismatch(f"FLOPs: got {outputs['flops']!r}, a {type(outputs['flops']).__name__}, want an int")
        super().judge(inputs, outputs)


class GenerationCheck(Check):
    draws = 4

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        flops = lab.generation_flops(Config(**inputs["config"]), inputs["prompt_length"], inputs["new_tokens"])
        return {"flops": flops}

    def judge(self, inputs: Values, outputs: Values) -> None:
        config, prompt_length, new_tokens = inputs["config"], inputs["prompt_length"], inputs["new_tokens"]
        want = sum(counted_flops(config, n) for n in range(prompt_length, prompt_length + new_tokens))
        expect_equal(f"FLOPs of {new_tokens} tokens after {prompt_length}", outputs["flops"], want)


class CountsOneCall(GenerationCheck):
    name = "is one call's for one new token"
    points = 1
    draws = 1
    mistake = "runs the model a second time, after the only token"
    advice = "One new token costs one call, on the prompt alone: nothing runs on the token that comes last."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"config": draw_config(rng), "prompt_length": int(rng.integers(5, 30)), "new_tokens": 1}


class CountsGrowingPrefixes(GenerationCheck):
    name = "adds up calls on ever longer prefixes"
    points = 2
    mistake = "multiplies one call by the number of tokens, or is off by one in the prefixes' lengths"
    advice = "Token number i (from 0) costs a call on prompt_length + i tokens: add them up."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"config": draw_config(rng), "prompt_length": int(rng.integers(1, 20)),
                "new_tokens": int(rng.integers(2, 12))}


class CountsNothingForNothing(GenerationCheck):
    name = "is 0 where no token is asked for"
    points = 1
    draws = 1
    mistake = "counts a pass over the prompt that nobody needs"
    advice = "Without a token to generate the model is not called."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"config": draw_config(rng), "prompt_length": int(rng.integers(1, 20)), "new_tokens": 0}


# 02.5 -----------------------------------------------------------------------------------------------------------------


def flops_of_calls(inputs: Values) -> list[int]:
    first = inputs["prompt_length"]
    return [limits.forward_flops(Config(**inputs["config"]), n) for n in range(first, first + inputs["new_tokens"])]


class PredictionCheck(Check):
    draws = 5

    def draw_generation(self, rng: np.random.Generator) -> Values:
        return {"config": draw_config(rng), "prompt_length": int(rng.integers(1, 50)),
                "new_tokens": int(rng.integers(10, 60))}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"seconds": lab.predict_seconds(**inputs | {"config": Config(**inputs["config"])})}

    def judge(self, inputs: Values, outputs: Values) -> None:
        want = sum(max(flops / inputs["flops_per_second"], inputs["seconds_per_call"])
                   for flops in flops_of_calls(inputs))
        if not isinstance(outputs["seconds"], float):
            expect_equal("seconds", outputs["seconds"], float(want))
        # Sums of at most 60 doubles in another order differ by 60 * 2^-53 = 7e-15 of the value at most.
        expect_close("seconds", torch.tensor(outputs["seconds"], dtype=torch.float64),
                     torch.tensor(float(want), dtype=torch.float64), atol=0, rtol=1e-12)


class PredictsComputing(PredictionCheck):
    name = "is operations over rate where calls cost nothing else"
    points = 1
    draws = 1
    mistake = "divides by the wrong thing, or leaves out calls"
    advice = "With seconds_per_call = 0 the prediction is generation_flops(...) / flops_per_second, as a plain float."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return self.draw_generation(rng) | {"flops_per_second": float(rng.uniform(1e6, 1e12)), "seconds_per_call": 0.0}


class PredictsWaiting(PredictionCheck):
    name = "is seconds_per_call for each call that computes less"
    points = 1
    mistake = "forgets what every call costs, or adds it to the computing that it hides"
    advice = "No call is faster than seconds_per_call, and one that computes longer hides it: max, not the sum."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = self.draw_generation(rng)
        slowest_call = max(flops_of_calls(inputs)) / 1e9
        return inputs | {"flops_per_second": 1e9, "seconds_per_call": slowest_call * float(rng.uniform(1, 3))}


class PredictsEachCall(PredictionCheck):
    name = "decides call by call which of the two is longer"
    points = 2
    mistake = "takes the longer of two totals"
    advice = "Short prefixes wait, long ones compute: take the max for each call, then add up."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = self.draw_generation(rng)
        calls = flops_of_calls(inputs)
        return inputs | {"flops_per_second": 1e9, "seconds_per_call": calls[len(calls) // 2] / 1e9}


LESSON = Lesson("02", "no_kv_generation", "Generation without a cache", minutes=60, exercises=(
    Exercise("02.1", "Generate, rerunning the whole prefix", "generate", minutes=15, difficulty=2,
             checks=(TellsAStory(), SendsTheWholePrefix(), EndsAtAStopToken(), KeepsToTheMaximum(), AsksForOneRow(),
                     LeavesThePromptAlone(), UsesTheChoice(), YieldsAtOnce()),
             refused=("common.model.generate.generate",)),
    Exercise("02.2", "Stream whole characters", "stream_text", minutes=10, difficulty=2,
             checks=(StreamsPlainText(), KeepsSpaces(), KeepsCharactersWhole(), LeavesOutTheUnfinished(),
                     StreamsAtOnce())),
    Exercise("02.3", "The operations of one call", "forward_flops", minutes=15, difficulty=3,
             checks=(CountsOneToken(), CountsAnyShape(), CountsAttention(), CountsExactly()),
             refused=("common.measure.limits.forward_flops",
                      "torch.utils.flop_counter.FlopCounterMode.get_total_flops")),
    Exercise("02.4", "The operations of a whole generation", "generation_flops", minutes=5, difficulty=2,
             checks=(CountsOneCall(), CountsGrowingPrefixes(), CountsNothingForNothing()),
             refused=("common.measure.limits.forward_flops",
                      "torch.utils.flop_counter.FlopCounterMode.get_total_flops")),
    Exercise("02.5", "Predict the time", "predict_seconds", minutes=10, difficulty=2,
             checks=(PredictsComputing(), PredictsWaiting(), PredictsEachCall()),
             refused=("common.measure.limits.forward_flops",)),
))
