"""Lesson 03: checks of the cache, of attention and generation on it, and of what both are computed to cost."""
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.checks.compare import expect_close, expect_equal, expect_like
from common.checks.draw import draw_config, randn
from common.checks.exercise import Check, Exercise, Lesson, Mismatch, Values
from common.checks.lab import explain
from common.checks.no_kv_generation import counted_flops
from common.checks.oracle import CPU, draw_clear_prompt, oracle, story_model
from common.device import DEVICE
from common.measure import limits
from common.model.attention import CausalAttention
from common.model.generate import greedy
from common.model.llama import Config, Llama
from common.model.shapes import random_model

# 03.1 -----------------------------------------------------------------------------------------------------------------


def draw_chunks(rng: np.random.Generator, count: int, longest: int = 6) -> list[int]:
    """Numbers of tokens, each from 1 to `longest`."""
    return rng.integers(1, longest + 1, count).tolist()


def new_cache(lab: ModuleType, inputs: Values) -> object:
    return lab.KVCache(Config(**inputs["config"]), inputs["capacity"], inputs["k"].dtype, DEVICE)


def steps_of(inputs: Values) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Each step of the plan: the layer, how many tokens it holds so far, and the new keys and values."""
    held = [0] * len(inputs["k"])
    for layer, n in inputs["plan"]:
        start, end = held[layer], held[layer] + n
        held[layer] = end
        yield layer, start, inputs["k"][layer, start:end], inputs["v"][layer, start:end]


class CacheCheck(Check):
    """Tokens are written into the layers of `plan`, [layer, how many] after [layer, how many].

    `k` and `v` are (n_layers, T, KH, D): what each layer is given, from its first token on.
    """

    draws = 3
    cpu = cuda = (torch.float32, torch.bfloat16)

    def draw_plan(self, rng: np.random.Generator, config: dict[str, int]) -> list[list[int]]:
        """Every layer gets some chunks, and the layers take turns in no particular order."""
        plan = [[layer, n] for layer in range(config["n_layers"]) for n in draw_chunks(rng, 3)]
        return [plan[index] for index in rng.permutation(len(plan))]

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        config = draw_config(rng)
        plan = self.draw_plan(rng, config)
        longest = max(sum(n for at, n in plan if at == layer) for layer in range(config["n_layers"]))
        shape = (config["n_layers"], longest, config["n_kv_heads"], config["head_dim"])
        return {"config": config, "plan": plan, "capacity": longest + int(rng.integers(1, 30)),
                "k": randn(rng, *shape).to(dtype), "v": randn(rng, *shape).to(dtype)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        cache, keys, values = new_cache(lab, inputs), [], []
        for layer, _, k, v in steps_of(inputs):
            returned = cache.append(layer, *strided(k, v))
            keys.append(returned[0].clone())
            values.append(returned[1].clone())
        return {"keys": keys, "values": values}

    def judge(self, inputs: Values, outputs: Values) -> None:
        for step, (layer, start, k, _) in enumerate(steps_of(inputs)):
            for name in ("keys", "values"):
                want = inputs[name[0]][layer, :start + len(k)]
                expect_equal(f"{name} of layer {layer}, {len(k)} added to {start}", outputs[name][step], want)


def strided(k: Tensor, v: Tensor) -> Iterable[Tensor]:
    """The same as slices of one (N, 2 KH, D), as a fused projection gives them: not contiguous."""
    return torch.cat((k, v), dim=1).split(k.shape[1], dim=1)


def or_error(drive: Callable[[], Values]) -> Values:
    """What `drive` gives, or what was raised in it: where an error is the mistake that a check looks for."""
    try:
        return drive() | {"error": ""}
    except NotImplementedError:
        raise
    except Exception as error:
        return {"error": explain(error)}


class HoldsOneChunk(CacheCheck):
    name = "gives back four tokens of a single layer"
    points = 1
    draws = 1
    mistake = "writes elsewhere than it reads, or mixes up keys and values"
    advice = "Write k to self.keys[layer, start:end] and v to self.values[layer, start:end]; return both up to end."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        config = {"vocab_size": 8, "dim": 4, "n_layers": 1, "n_heads": 1, "n_kv_heads": 1, "head_dim": 4, "ffn_dim": 4}
        return {"config": config, "plan": [[0, 4]], "capacity": 8,
                "k": randn(rng, 1, 4, 1, 4).to(dtype), "v": randn(rng, 1, 4, 1, 4).to(dtype)}


class AppendsChunks(CacheCheck):
    name = "appends chunk after chunk, and returns all tokens so far"
    points = 2
    mistake = "writes one place too far or too early, or returns the new chunk or the whole memory alone"
    advice = "A layer that holds `start` tokens gets the next N at start : start + N, and returns the first start + N."

    def draw_plan(self, rng: np.random.Generator, config: dict[str, int]) -> list[list[int]]:
        layer = int(rng.integers(0, config["n_layers"]))  # one only, so that the other check finds who mixes layers
        return [[layer, n] for n in draw_chunks(rng, 6)]


class KeepsLayersApart(CacheCheck):
    name = "keeps the layers apart, in whatever order they come"
    points = 2
    mistake = "writes one layer's tokens into another, or has one counter for all layers"
    advice = "Each layer has its own place, self.keys[layer], and needs its own count of the tokens that it holds."


class HasLength(CacheCheck):
    name = "has the length that every layer has reached"
    points = 1
    mistake = "counts calls, or the layer that is ahead, or all layers together"
    advice = "length is what *every* layer holds: the smallest of the layers' counts, and 0 at first."
    cpu = cuda = (torch.float32,)

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        cache = new_cache(lab, inputs)
        lengths = [cache.length]
        for layer, _, k, v in steps_of(inputs):
            cache.append(layer, k, v)
            lengths.append(cache.length)
        return {"lengths": lengths}

    def judge(self, inputs: Values, outputs: Values) -> None:
        held = [0] * inputs["config"]["n_layers"]
        expect_equal("length of a new cache", outputs["lengths"][0], 0)
        for (layer, n), length in zip(inputs["plan"], outputs["lengths"][1:], strict=True):
            held[layer] += n
            expect_equal(f"length where the layers hold {held}", length, min(held))


class ReturnsViews(CacheCheck):
    name = "returns views of memory that was reserved once"
    points = 2
    mistake = "grows by torch.cat, or copies what it returns"
    advice = ("Make self.keys and self.values in __init__, (n_layers, capacity, KH, D), write into them in place, and "
              "return slices of them: no torch.cat, no clone, no indexing by a list.")

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return or_error(partial(self.look_at_memory, lab, inputs))

    def look_at_memory(self, lab: ModuleType, inputs: Values) -> Values:
        cache = new_cache(lab, inputs)
        first = (cache.keys, cache.values)
        places = [(at.data_ptr(), at.untyped_storage().data_ptr()) for at in first]
        moved = copied = 0
        for layer, _, k, v in steps_of(inputs):
            returned = cache.append(layer, k, v)
            for memory, place, view in zip((cache.keys, cache.values), places, returned, strict=True):
                moved += (memory.data_ptr(), memory.untyped_storage().data_ptr()) != place
                copied += (view.data_ptr(), view.stride()) != (memory[layer].data_ptr(), memory[layer].stride())
        return {"shapes": [list(at.shape) for at in first], "moved": moved, "copied": copied,
                "dtypes": [str(at.dtype) for at in first]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        config = inputs["config"]
        if outputs["error"]:
            raise Mismatch(f"keys and values are no tensors of (n_layers, capacity, KH, D): {outputs['error']}")
        shape = [config["n_layers"], inputs["capacity"], config["n_kv_heads"], config["head_dim"]]
        expect_equal("shapes of keys and values", outputs["shapes"], [shape, shape])
        expect_equal("dtypes of keys and values", outputs["dtypes"], 2 * [str(inputs["k"].dtype)])
        expect_equal("times that keys or values lay elsewhere after an append", outputs["moved"], 0)
        expect_equal("returned tensors that are no views of keys or values", outputs["copied"], 0)


class FillsUp(CacheCheck):
    name = "takes as many tokens as it has room for"
    points = 1
    mistake = "refuses the last place"
    advice = "A chunk that ends exactly at capacity fits: only end > capacity is too much."
    cpu = cuda = (torch.float32,)

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        return inputs | {"capacity": inputs["k"].shape[1]}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return or_error(partial(super().drive, lab, inputs))

    def judge(self, inputs: Values, outputs: Values) -> None:
        if outputs["error"]:
            raise Mismatch(f"chunks {inputs['plan']} in a cache of {inputs['capacity']}: {outputs['error']}")
        super().judge(inputs, outputs)


class RefusesTooMuch(Check):
    name = "says no to too many tokens before it writes any"
    points = 2
    draws = 4
    mistake = "leaves the error to torch, writes what still fits, or counts tokens that it refused"
    advice = ("Compare end with the capacity first, and raise a ValueError that says how many tokens the layer holds, "
              "how many were to be added, and the capacity. Nothing may have changed by then.")

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        config, capacity = draw_config(rng), int(rng.integers(4, 40))
        layer, held = int(rng.integers(1, config["n_layers"])), int(rng.integers(1, capacity))
        asked = capacity - held + int(rng.integers(1, 4))
        shape = (held + asked, config["n_kv_heads"], config["head_dim"])
        return {"config": config, "capacity": capacity, "layer": layer, "held": held, "asked": asked,
                "k": randn(rng, *shape).to(dtype), "v": randn(rng, *shape).to(dtype)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        cache, k, v, held, layer = new_cache(lab, inputs), inputs["k"], inputs["v"], inputs["held"], inputs["layer"]
        for at in range(inputs["config"]["n_layers"]):  # the others hold one token more
            cache.append(at, k[:held + (at != layer)], v[:held + (at != layer)])
        before = [bits(memory) for memory in (cache.keys, cache.values)]
        length, raised, message = cache.length, "nothing", ""
        try:
            cache.append(layer, k[held:], v[held:])
        except Exception as error:
            raised, message = type(error).__name__, str(error)
        changed = sum(int((bits(now) != then).sum())
                      for now, then in zip((cache.keys, cache.values), before, strict=True))
        outputs = {"raised": raised, "message": message, "changed": changed, "lengths": [length, cache.length]}
        end = inputs["capacity"]
        return outputs | or_error(lambda: dict(zip(
            ("keys", "values"), cache.append(layer, k[held:end], v[held:end]), strict=True)))

    def judge(self, inputs: Values, outputs: Values) -> None:
        held, asked, capacity = inputs["held"], inputs["asked"], inputs["capacity"]
        what = f"{asked} tokens for layer {inputs['layer']}, which holds {held} of {capacity}"
        if outputs["raised"] != "ValueError":
            raise Mismatch(f"{what}: raised {outputs['raised']}, want a ValueError")
        expect_equal(f"{what}: bytes of keys and values that were changed", outputs["changed"], 0)
        expect_equal(f"{what}: length before and after", outputs["lengths"], 2 * [held])
        missing = {held, asked, capacity} - {int(number) for number in re.findall(r"\d+", outputs["message"])}
        if missing:
            raise Mismatch(f"{what}: the message {outputs['message']!r} lacks {sorted(missing)}")
        if outputs["error"]:
            raise Mismatch(f"{what}: afterwards what fits is refused too. {outputs['error']}")
        for name in ("keys", "values"):
            expect_equal(f"{what}: {name}, after what fits was appended instead", outputs[name],
                         inputs[name[0]][:capacity])


def bits(tensor: Tensor) -> Tensor:
    """Every byte, so that even NaN can be compared."""
    return tensor.contiguous().view(torch.uint8).clone()


class SharesNothing(CacheCheck):
    name = "shares nothing with another cache"
    points = 1
    mistake = "keeps memory or counts where all caches see them, such as in the class"
    advice = "Whatever __init__ makes belongs to self: nothing mutable in the class, and none in a default argument."
    cpu = cuda = (torch.float32,)

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        caches, keys, values = [new_cache(lab, inputs) for _ in range(2)], [], []
        for layer, _, k, v in steps_of(inputs):
            returned = caches[0].append(layer, k, v)
            caches[1].append(layer, -k, -v)  # another request, which comes right after
            keys.append(returned[0].clone())
            values.append(returned[1].clone())
        return {"keys": keys, "values": values}


# 03.2 -----------------------------------------------------------------------------------------------------------------


class Shelf:
    """A cache that joins what it is given, and writes down each append. Plainly right, and not the lab's."""

    def __init__(self):
        self.appended: list[list[int]] = []  # [layer, how many tokens]
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.appended.append([layer, len(k)])
        before = self.kept.get(layer, (k[:0], v[:0]))
        self.kept[layer] = torch.cat((before[0], k)), torch.cat((before[1], v))
        return self.kept[layer]


class AttentionCheck(Check):
    """The tokens of one sequence in chunks, each to every layer; the oracle gets them all at once, in float64."""

    draws = 4
    cpu = cuda = (torch.float32, torch.bfloat16)
    layers = 1
    # Ten times the largest error, of the reference and of tests/alternatives/kv_cache.py, over 500 seeds of every check
    # here: 1.7e-6 and 1.5e-2, with values of about 1.
    atol = {torch.float32: 1.7e-5, torch.bfloat16: 0.15}

    def draw_chunks(self, rng: np.random.Generator) -> list[int]:
        raise NotImplementedError

    def draw_heads(self, rng: np.random.Generator) -> tuple[int, int, int]:
        """Query heads, key/value heads, head dim."""
        heads = int(rng.integers(1, 4))
        return heads, heads, 4 * int(rng.integers(2, 24))

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        chunks, (h, kh, d) = self.draw_chunks(rng), self.draw_heads(rng)
        return {"chunks": chunks} | {name: randn(rng, self.layers, sum(chunks), heads, d).to(dtype)
                                     for name, heads in (("q", h), ("k", kh), ("v", kh))}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        shelf = Shelf()
        attention, out = lab.CachedAttention(shelf), []
        for part in zip(*(inputs[name].split(inputs["chunks"], dim=1) for name in "qkv"), strict=True):
            out.append([attention(layer, *fused(*(x[layer] for x in part))) for layer in range(self.layers)])
        return {"out": out, "appended": shelf.appended}

    def judge(self, inputs: Values, outputs: Values) -> None:
        want = [CausalAttention()(layer, *(inputs[name][layer].double() for name in "qkv"))
                for layer in range(self.layers)]
        held = 0
        for n, of_layers in zip(inputs["chunks"], outputs["out"], strict=True):
            for layer, got in enumerate(of_layers):
                what = f"{n} tokens after {held}, layer {layer}"
                expect_like(what, got, inputs["q"][layer, held:held + n])
                expect_close(what, got, want[layer][held:held + n], self.atol[got.dtype])
            held += n


def fused(q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
    """The same tensors as slices of one (N, H + 2 KH, D), as a fused projection gives them: not contiguous."""
    return list(torch.cat((q, k, v), dim=1).split([q.shape[1], k.shape[1], v.shape[1]], dim=1))


class AttendsCold(AttentionCheck):
    name = "attends over the first chunk of a cold cache"
    points = 1
    draws = 1
    mistake = "another formula than softmax(q k / sqrt(D)) v over the past, or another shape than (N, H, D)"
    advice = "keys, values = cache.append(layer, k, v). On a cold cache, attend to them as without one, causally."

    def draw_chunks(self, rng: np.random.Generator) -> list[int]:
        return [4]

    def draw_heads(self, rng: np.random.Generator) -> tuple[int, int, int]:
        return 1, 1, 4


class DecodesOneToken(AttentionCheck):
    name = "lets a single new token see all tokens, itself among them"
    points = 2
    mistake = "masks a single row as if it were the first token, or leaves out the token's own key"
    advice = ("The last of T tokens sees all T and needs no mask. With is_causal=True a single row of queries sees the "
              "first key only.")

    def draw_chunks(self, rng: np.random.Generator) -> list[int]:
        return [int(rng.integers(5, 60)), 1, 1, 1]


class MasksWarmChunks(AttentionCheck):
    name = "aligns the mask of a chunk on a warm cache at its bottom right"
    points = 3
    mistake = "aligns it at the top left as is_causal does, forgets it, or is off by one"
    advice = ("Row i of N new tokens is token T - N + i of the text and sees keys 0 to T - N + i: shift the mask's "
              "diagonal by T - N.")

    def draw_chunks(self, rng: np.random.Generator) -> list[int]:
        return [int(rng.integers(1, 40)), *rng.integers(2, 20, 2).tolist()]


class SharesKeyHeads(AttentionCheck):
    name = "gives query head h the key/value head h // (H // KH), in chunks of every kind"
    points = 2
    mistake = "takes head h % KH, in prefill, in a chunk or in decoding"
    advice = ("Neighbouring query heads share: with H = 4 and KH = 2 they use 0, 0, 1, 1. unflatten(1, (KH, G)) keeps "
              "neighbours together, unflatten(1, (G, KH)) does not.")

    def draw_chunks(self, rng: np.random.Generator) -> list[int]:
        return [int(rng.integers(2, 30)), 1, int(rng.integers(2, 12))]

    def draw_heads(self, rng: np.random.Generator) -> tuple[int, int, int]:
        kh = int(rng.integers(2, 4))
        return kh * int(rng.integers(2, 5)), kh, 4 * int(rng.integers(2, 24))


class AppendsOncePerLayer(AttentionCheck):
    name = "appends to the layer that it is called for, once"
    points = 2
    draws = 2
    layers = 3
    mistake = "writes into another layer, twice, or not in every kind of chunk"
    advice = "Begin each call with one cache.append(layer, k, v), for the layer that came in: all else follows from it."

    def draw_chunks(self, rng: np.random.Generator) -> list[int]:
        return [int(rng.integers(2, 12)), 1, int(rng.integers(2, 12)), 1, 1]

    def judge(self, inputs: Values, outputs: Values) -> None:
        want = [[layer, n] for n in inputs["chunks"] for layer in range(self.layers)]
        expect_equal("number of appends", len(outputs["appended"]), len(want))
        expect_equal("appends, as [layer, tokens]", outputs["appended"], want)
        super().judge(inputs, outputs)


# 03.3 -----------------------------------------------------------------------------------------------------------------


class StoryCheck(Check):
    """A prompt from a fresh story, after which the oracle is sure of every token."""

    new_tokens: int

    def draw_length(self, rng: np.random.Generator) -> int:
        return 32

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"prompt_ids": draw_clear_prompt(rng, self.draw_length(rng), self.new_tokens)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        tokens = lab.generate(story_model(DEVICE), inputs["prompt_ids"], self.new_tokens, frozenset(), greedy)
        return {"tokens": list(tokens)}

    def judge(self, inputs: Values, outputs: Values) -> None:
        want, _ = oracle(story_model(CPU), inputs["prompt_ids"], self.new_tokens)
        expect_equal(f"tokens after {len(inputs['prompt_ids'])}", outputs["tokens"], want)


class GivesTheNextToken(StoryCheck):
    name = "gives the next token of a story"
    points = 1
    mistake = "no prefill of the whole prompt, or logits of another row than the last"
    advice = ("Prefill: make a KVCache, a CachedAttention on it, and one call of the model with the whole prompt, at "
              "positions 0 to N - 1; then choose from model.logits(hidden[-1:]).")
    new_tokens = 1


class TellsAStory(StoryCheck):
    name = "continues a story as the oracle does"
    points = 2
    mistake = "loses the prompt after the first token, or feeds back the wrong token"
    advice = ("One cache and one CachedAttention serve the whole generation: after the prefill, send the chosen token "
              "alone, and they remember the rest.")
    new_tokens = 12


class RemembersALongStory(StoryCheck):
    name = "continues a story of several hundred tokens"
    points = 1
    mistake = "forgets the beginning, or has room for short prompts only"
    advice = "Nothing of the prompt may be dropped: the whole of it goes into the first call, however long it is."
    new_tokens = 4

    def draw_length(self, rng: np.random.Generator) -> int:
        return int(rng.integers(150, 400))


class Chooser:
    """Chooses what was drawn beforehand, and keeps the logits that it was shown."""

    def __init__(self, choices: list[int]):
        self.choices = choices
        self.logits: list[Tensor] = []

    def __call__(self, logits: Tensor) -> int:
        self.logits.append(logits.clone())
        return self.choices[(len(self.logits) - 1) % len(self.choices)]


@dataclass
class Calls:
    """What a generation asks of a model, call after call."""

    sent: list[list[int]] = field(default_factory=list)
    positions: list[list[int]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


def watch(model: Llama) -> Calls:
    """Write down all further calls of `model` and of its `logits`."""
    calls, score = Calls(), model.logits

    def note(module: Llama, args: tuple, kwargs: dict) -> None:
        given = dict(zip(("token_ids", "positions", "attention"), args, strict=False)) | kwargs
        calls.sent.append(given["token_ids"].tolist())
        calls.positions.append(given["positions"].tolist())

    def note_rows(hidden: Tensor) -> Tensor:
        calls.rows.append(len(hidden))
        return score(hidden)

    model.register_forward_pre_hook(note, with_kwargs=True)
    model.logits = note_rows
    return calls


def small_model(inputs: Values, device: torch.device) -> Llama:
    """The same random model of an odd shape on every device."""
    return random_model(Config(**inputs["config"]), torch.float32, CPU, inputs["model_seed"]).to(device)


def plain_logits(inputs: Values, prompt_ids: list[int], choices: list[int]) -> Tensor:
    """Row i: what plain generation without a cache scores before it chooses choices[i], in float64. (n, V)"""
    token_ids = torch.tensor([*prompt_ids, *choices[:-1]])
    with torch.inference_mode():
        model = small_model(inputs, CPU).double()
        hidden = model(token_ids, torch.arange(len(token_ids)), CausalAttention())
        return model.logits(hidden[len(prompt_ids) - 1:])


class ForcedCheck(Check):
    """Generation from a small random model where the tokens to choose are drawn beforehand, so that no tie matters."""

    draws = 3
    atol = 6e-6  # ten times the largest error, found in the same way: 5.6e-7, with logits of about 1
    lengths = 33, 80  # of the prompt: longer than the worked example's

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        config, new_tokens = draw_config(rng), int(rng.integers(4, 12))
        # None of them twice, so that a stop token cannot come early.
        ids = rng.permutation(config["vocab_size"])
        return {"config": config, "model_seed": int(rng.integers(1 << 30)), "choices": ids[:new_tokens].tolist(),
                "prompt_ids": rng.integers(0, config["vocab_size"], rng.integers(*self.lengths)).tolist(),
                "unused_ids": ids[new_tokens:].tolist()}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return self.generate(lab, inputs, len(inputs["choices"]), [])

    def generate(self, lab: ModuleType, inputs: Values, max_new_tokens: int, stop_ids: list[int]) -> Values:
        model, choose = small_model(inputs, DEVICE), Chooser(inputs["choices"])
        calls, tokens, calls_before = watch(model), [], []
        for token_id in lab.generate(model, list(inputs["prompt_ids"]), max_new_tokens, frozenset(stop_ids), choose):
            tokens.append(token_id)
            calls_before.append(len(calls.sent))
        return {"tokens": tokens, "calls_before": calls_before, "sent": calls.sent, "positions": calls.positions,
                "rows": calls.rows, "logits": choose.logits}

    def judge_logits(self, prompt_ids: list[int], inputs: Values, logits: list[Tensor], what: str = "") -> None:
        want = plain_logits(inputs, prompt_ids, inputs["choices"])
        expect_equal(f"choices{what}", len(logits), len(want))
        for step, got in enumerate(logits):
            where = f"logits of new token {step} after {len(prompt_ids)}{what}"
            expect_close(where, got, want[step:step + 1], self.atol)


class GivesPlainLogits(ForcedCheck):
    name = "scores every token as plain generation does, after prompts of one token to several hundred"
    points = 3
    lengths = 2, 400
    mistake = "positions from the wrong offset, or keys and values that are lost or stand in the wrong place"
    advice = ("Token t of the text gets position t, be it of the prompt or chosen, and all tokens before it are in the "
              "cache: cache.length is the position of the next one.")

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        return inputs | {"first_id": int(rng.integers(0, inputs["config"]["vocab_size"]))}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        shortest = self.generate(lab, inputs | {"prompt_ids": [inputs["first_id"]]}, len(inputs["choices"]), [])
        return super().drive(lab, inputs) | {"logits_after_one": shortest["logits"]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        self.judge_logits(inputs["prompt_ids"], inputs, outputs["logits"])
        self.judge_logits([inputs["first_id"]], inputs, outputs["logits_after_one"])


class SendsEachTokenOnce(ForcedCheck):
    name = "sends the prompt in one call, and then each token once"
    points = 2
    mistake = "sends the prefix again, the prompt token by token, or the last token too"
    advice = "First call: the whole prompt. Each later call: the one token chosen last. None after the last choice."

    def judge(self, inputs: Values, outputs: Values) -> None:
        want = [inputs["prompt_ids"], *([token_id] for token_id in inputs["choices"][:-1])]
        expect_equal("tokens sent, call by call", [len(ids) for ids in outputs["sent"]], [len(ids) for ids in want])
        for call, (got, ids) in enumerate(zip(outputs["sent"], want, strict=True)):
            expect_equal(f"token ids of call {call}", got, ids)


class ContinuesPositions(ForcedCheck):
    name = "numbers the tokens of the text from 0 on, across all calls"
    points = 1
    mistake = "starts at 0 in each call, at 1, or is off by one after the prompt"
    advice = "Positions go on where the cache ends: arange(cache.length, cache.length + N), asked before the call."

    def judge(self, inputs: Values, outputs: Values) -> None:
        position = 0
        for call, (ids, got) in enumerate(zip(outputs["sent"], outputs["positions"], strict=True)):
            expect_equal(f"positions of call {call}", got, list(range(position, position + len(ids))))
            position += len(ids)


class EndsAtAStopToken(ForcedCheck):
    name = "ends at any stop id, the very first token included, without yielding it"
    points = 2
    mistake = "yields the stop token, goes on after it, or knows only one of several"
    advice = "If the chosen id is among stop_ids, return: it is not yielded, and the model is not called again."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        return inputs | {"stop_at": int(rng.integers(1, len(inputs["choices"])))}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        runs = [self.generate(lab, inputs, len(inputs["choices"]), [*inputs["unused_ids"][:2], inputs["choices"][at]])
                for at in (0, inputs["stop_at"])]
        return {"tokens": [run["tokens"] for run in runs], "calls": [len(run["sent"]) for run in runs]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        for at, tokens, calls in zip((0, inputs["stop_at"]), outputs["tokens"], outputs["calls"], strict=True):
            expect_equal(f"tokens where choice {at} is a stop id", tokens, inputs["choices"][:at])
            expect_equal(f"calls of the model where choice {at} is a stop id", calls, at + 1)


class KeepsToTheMaximum(ForcedCheck):
    name = "yields max_new_tokens tokens, with one call each"
    points = 1
    mistake = "one token or one call too many or too few; above all where 0 or 1 tokens are asked for"
    advice = "max_new_tokens calls give max_new_tokens tokens, none for 0: one call and one choice in each round."

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        runs = [self.generate(lab, inputs, n, []) for n in (0, 1, len(inputs["choices"]))]
        return {"tokens": [run["tokens"] for run in runs], "calls": [len(run["sent"]) for run in runs]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        for n, tokens, calls in zip((0, 1, len(inputs["choices"])), outputs["tokens"], outputs["calls"], strict=True):
            expect_equal(f"tokens for max_new_tokens = {n}", tokens, inputs["choices"][:n])
            expect_equal(f"calls of the model for max_new_tokens = {n}", calls, n)


class ScoresOneRow(ForcedCheck):
    name = "scores one row per token, and shows it to `choose` once"
    points = 1
    mistake = "scores the vocabulary for all tokens of the prompt, or takes the arg max itself"
    advice = "token_id = int(choose(model.logits(hidden[-1:]))): one row of logits, one choice, which may be random."

    def judge(self, inputs: Values, outputs: Values) -> None:
        n, vocab_size = len(inputs["choices"]), inputs["config"]["vocab_size"]
        expect_equal("rows given to model.logits, call by call", outputs["rows"], [1] * n)
        shapes = [list(logits.shape) for logits in outputs["logits"]]
        expect_equal("shapes that choose saw", shapes, [[1, vocab_size]] * n)
        expect_equal("tokens", outputs["tokens"], inputs["choices"])


class YieldsAtOnce(ForcedCheck):
    name = "yields each token before it calls the model again"
    points = 1
    mistake = "collects all tokens first, or sends a token on before it hands it over"
    advice = "`yield token_id` inside the loop, before the next call, hands over each token at once."

    def judge(self, inputs: Values, outputs: Values) -> None:
        want = list(range(1, len(inputs["choices"]) + 1))
        expect_equal("calls of the model before each token is handed over", outputs["calls_before"], want)


class ReservesWhatItNeeds(ForcedCheck):
    name = "makes one cache, with room for exactly the tokens that can be sent"
    points = 1
    cpu = cuda = (torch.bfloat16,)
    mistake = "reserves too much, one place too few, or another dtype than the model's"
    advice = ("KVCache(model.config, len(prompt_ids) + max_new_tokens - 1, dtype, device), with dtype and device of "
              "next(model.parameters()): the token chosen last is never sent.")

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

    def judge(self, inputs: Values, outputs: Values) -> None:
        places = len(inputs["prompt_ids"]) + len(inputs["choices"]) - 1
        expect_equal("KVCaches made, as [capacity, dtype]", outputs["made"], [[places, "bfloat16"]])
        expect_equal("tokens", outputs["tokens"], inputs["choices"])


class StartsAfresh(ForcedCheck):
    name = "knows nothing of another generation, before it or beside it"
    points = 2
    mistake = "shares a cache between requests"
    advice = "Make the cache inside generate, anew for each call of it: what one request wrote is none of another's."

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return or_error(partial(self.generate_three, lab, inputs))

    def generate_three(self, lab: ModuleType, inputs: Values) -> Values:
        model, prompt_ids = small_model(inputs, DEVICE), inputs["prompt_ids"]
        choosers = [Chooser(inputs["choices"]) for _ in range(3)]
        first, second, third = (lab.generate(model, ids, len(inputs["choices"]), frozenset(), choose) for ids, choose
                                in zip((prompt_ids, prompt_ids[::-1], prompt_ids), choosers, strict=True))
        for _ in zip(first, second, strict=True):  # in turn, token by token
            pass
        for _ in third:
            pass
        return {"logits": [choose.logits for choose in choosers]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        if outputs["error"]:
            raise Mismatch(f"two generations in turn, and a third: {outputs['error']}")
        forwards, backwards = inputs["prompt_ids"], inputs["prompt_ids"][::-1]
        cases = (forwards, ", beside another"), (backwards, ", beside another"), (forwards, ", after two others")
        for (prompt_ids, what), logits in zip(cases, outputs["logits"], strict=True):
            self.judge_logits(prompt_ids, inputs, logits, what)


# 03.4 and 03.5 --------------------------------------------------------------------------------------------------------

SQUARE = {"vocab_size": 32, "dim": 32, "n_layers": 1, "n_heads": 4, "n_kv_heads": 4, "head_dim": 8, "ffn_dim": 32}


class OnHeld:
    """Attention of new tokens on `held` others. It adds up the keys and values that it has in its hands."""

    def __init__(self, held: int):
        self.held, self.elements = held, 0

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (torch.cat((x.new_zeros(self.held, *x.shape[1:]), x)) for x in (k, v))
        self.elements += k.numel() + v.numel()
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)[0].transpose(0, 1)


def counted_elements(config: dict[str, int], new: int, held: int) -> int:
    """Keys and values of all held + new tokens, as a model of this shape makes them. Nothing is computed."""
    attention = OnHeld(held)
    counted_flops(config, new, attention)
    return attention.elements


def matrix_elements(config: dict[str, int]) -> int:
    """All matrices that a call reads: an embedding table only where it scores the vocabulary too."""
    with torch.device("meta"):
        model = Llama(Config(**config))
    matrices = {name: weight for name, weight in model.named_parameters() if weight.dim() == 2}
    if model.lm_head is not None:
        del matrices["embed_tokens.weight"]
    return sum(weight.numel() for weight in matrices.values())


class BytesCheck(Check):
    draws = 4

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"bytes": lab.cache_bytes(Config(**inputs["config"]), inputs["tokens"], inputs["bytes_per_element"])}

    def judge(self, inputs: Values, outputs: Values) -> None:
        config, tokens, width = inputs["config"], inputs["tokens"], inputs["bytes_per_element"]
        want = width * counted_elements(config, 1, tokens - 1) if tokens else 0
        expect_equal(f"bytes of {tokens} tokens at {width} an element in {config}", outputs["bytes"], want)


class CountsKeysAndValues(BytesCheck):
    name = "counts keys and values of one token in one layer"
    points = 1
    draws = 1
    mistake = "counts the keys alone, or elements in place of bytes"
    advice = "Keys *and* values: 2 * KH * D elements for one token in one layer, each of bytes_per_element bytes."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"config": SQUARE, "tokens": 1, "bytes_per_element": 2}


class CountsEveryLayer(BytesCheck):
    name = "counts the key/value heads of every layer and token"
    points = 2
    mistake = "takes the query heads or dim for the width of a key, or forgets layers"
    advice = "A key is n_kv_heads * head_dim wide, whatever n_heads and dim are, and each layer has its own."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"config": draw_config(rng), "tokens": int(rng.integers(0, 3000)),
                "bytes_per_element": int(rng.choice([1, 2, 4]))}


class CountsBytesExactly(BytesCheck):
    name = "is an exact int where a float is not"
    points = 1
    mistake = "divides with / or multiplies by floats"
    advice = "Multiply whole numbers: a float has 53 bits, and the caches of a data centre are larger than that."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        odd = 2 * int(rng.integers(1 << 52, 1 << 53)) + 1
        return {"config": SQUARE | {"n_layers": 3}, "tokens": odd, "bytes_per_element": 1}

    def judge(self, inputs: Values, outputs: Values) -> None:
        one = counted_elements(inputs["config"], 1, 0)
        expect_equal(f"bytes of {inputs['tokens']} tokens", outputs["bytes"], one * inputs["tokens"])


class CostCheck(Check):
    draws = 4

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        flops, moved = lab.call_cost(Config(**inputs["config"]), inputs["new"], inputs["held"],
                                     inputs["bytes_per_element"])
        return {"flops": flops, "bytes": moved}

    def judge(self, inputs: Values, outputs: Values) -> None:
        config, new, held = inputs["config"], inputs["new"], inputs["held"]
        what = f"{new} tokens after {held} in {config}"
        expect_equal(f"operations of {what}", outputs["flops"], counted_flops(config, new, OnHeld(held)))
        elements = matrix_elements(config) + counted_elements(config, new, held)
        expect_equal(f"bytes of {what}", outputs["bytes"], inputs["bytes_per_element"] * elements)


class CostsAColdCall(CostCheck):
    name = "costs a call on an empty cache"
    points = 1
    draws = 1
    mistake = "leaves out weights, or the keys and values that the call itself writes"
    advice = "With nothing held: forward_flops(config, new), and weight_bytes plus the cache_bytes of `new` tokens."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"config": SQUARE, "new": 1, "held": 0, "bytes_per_element": 4}


class CostsADecodeStep(CostCheck):
    name = "costs one token on a long cache"
    points = 2
    mistake = "leaves the held tokens out of attention or of the bytes, or lets them through the weights again"
    advice = ("Held tokens meet the new ones in attention alone, 4 * new * held * D * H operations a layer, and their "
              "keys and values are read: cache_bytes of held + new.")

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"config": draw_config(rng), "new": 1, "held": int(rng.integers(1, 4000)),
                "bytes_per_element": int(rng.choice([2, 4]))}


class CostsAnyChunk(CostsADecodeStep):
    name = "costs a chunk on a warm cache"
    points = 2
    mistake = "moves the weights once per token, or counts attention for one new token only"
    advice = "All new tokens share one reading of the weights; each of them meets every held token."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return super().draw(rng, dtype) | {"new": int(rng.integers(2, 100))}


# 03.6 -----------------------------------------------------------------------------------------------------------------


def calls_of(inputs: Values) -> list[tuple[int, int]]:
    """(new, held) of each call of a generation."""
    first, n = inputs["prompt_length"], inputs["new_tokens"]
    return [(first, 0), *((1, first + step) for step in range(n - 1))] if n else []


def parts_of(inputs: Values) -> list[tuple[float, float]]:
    """Seconds to compute, and to move memory, of each call."""
    config, width = Config(**inputs["config"]), inputs["bytes_per_element"]
    return [(limits.call_flops(config, *call) / inputs["flops_per_second"],
             limits.call_bytes(config, *call, width) / inputs["bytes_per_second"]) for call in calls_of(inputs)]


class PredictionCheck(Check):
    draws = 5

    def draw_generation(self, rng: np.random.Generator) -> Values:
        return {"config": draw_config(rng), "prompt_length": int(rng.integers(20, 200)),
                "new_tokens": int(rng.integers(10, 60)), "bytes_per_element": int(rng.choice([2, 4])),
                "flops_per_second": 1e30, "bytes_per_second": 1e30, "seconds_per_call": 0.0}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        prefill, decode = lab.predict_seconds(**inputs | {"config": Config(**inputs["config"])})
        return {"prefill": prefill, "decode": decode}

    def judge(self, inputs: Values, outputs: Values) -> None:
        calls = [max(*parts, inputs["seconds_per_call"]) for parts in parts_of(inputs)] or [0.0]
        for name, want in (("prefill", calls[0]), ("decode", sum(calls[1:], 0.0))):
            if not isinstance(outputs[name], float):
                expect_equal(f"seconds of {name}", outputs[name], float(want))
            # Sums of at most 60 doubles in another order differ by 60 * 2^-53 = 7e-15 of the value at most.
            expect_close(f"seconds of {name}", torch.tensor(outputs[name], dtype=torch.float64),
                         torch.tensor(float(want), dtype=torch.float64), atol=0, rtol=1e-12)


class PredictsThePrefill(PredictionCheck):
    name = "is the time of one call on the prompt, for one new token"
    points = 1
    draws = 2
    mistake = "counts a step of decoding where there is none, or puts the prefill into both figures"
    advice = "The prompt's call gives the first token: for new_tokens = 1 that is all, and decode is 0.0."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return self.draw_generation(rng) | {"new_tokens": 1, "flops_per_second": float(rng.uniform(1e6, 1e12))}


class PredictsTheDecode(PredictionCheck):
    name = "adds a call on one token for each further one"
    points = 2
    mistake = "counts a call too many or too few, or a cache that does not grow"
    advice = "n tokens need n - 1 calls after the prefill; number i of them (from 0) finds prompt_length + i held."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return self.draw_generation(rng) | {"flops_per_second": float(rng.uniform(1e6, 1e12))}


class PredictsMoving(PredictionCheck):
    name = "waits for memory where that takes longer"
    points = 1
    mistake = "leaves bytes out, or adds them to the computing that they hide"
    advice = "A call takes the longer of flops / flops_per_second and bytes / bytes_per_second: max, not the sum."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = self.draw_generation(rng) | {"flops_per_second": 1e9, "bytes_per_second": 1.0}
        computing, moving = zip(*parts_of(inputs), strict=True)
        rate = min(at / longest for at, longest in zip(moving, computing, strict=True)) / float(rng.uniform(1, 3))
        return inputs | {"bytes_per_second": rate}


class PredictsWaiting(PredictionCheck):
    name = "lets no call take less than seconds_per_call"
    points = 1
    mistake = "forgets what every call costs, or adds it"
    advice = "No call is faster than seconds_per_call, and one that takes longer hides it: it belongs into the max."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = self.draw_generation(rng) | {"flops_per_second": 1e9, "bytes_per_second": 1e9}
        return inputs | {"seconds_per_call": max(map(max, parts_of(inputs))) * float(rng.uniform(1, 3))}


class PredictsEachCall(PredictionCheck):
    name = "decides call by call which of the three is longest"
    points = 2
    mistake = "takes the longest of three totals, or one call for all"
    advice = "Prefill may compute while decode waits for memory: take the max of the three for each call, then add up."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        """Prefill computes; the first half of the decode steps waits for kernels, the second half for memory."""
        inputs = self.draw_generation(rng) | {"bytes_per_second": 1e9, "flops_per_second": 1e9}
        computing, moving = zip(*parts_of(inputs), strict=True)
        waiting = moving[len(moving) // 2]
        return inputs | {"seconds_per_call": waiting, "flops_per_second": 1e9 * computing[0] / (2 * moving[-1])}


class PredictsNothingForNothing(PredictionCheck):
    name = "predicts (0.0, 0.0) where no token is asked for"
    points = 1
    draws = 1
    mistake = "counts a prefill that nobody needs"
    advice = "Without a token to generate the model is not called: return 0.0, 0.0."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return self.draw_generation(rng) | {"new_tokens": 0, "seconds_per_call": 1.0}


LESSON = Lesson("03", "kv_cache", "The KV cache", minutes=75, exercises=(
    Exercise("03.1", "Keys and values in memory reserved once", "KVCache", minutes=15, difficulty=2,
             checks=(HoldsOneChunk(), AppendsChunks(), KeepsLayersApart(), HasLength(), ReturnsViews(), FillsUp(),
                     RefusesTooMuch(), SharesNothing())),
    Exercise("03.2", "Attention on a cache", "CachedAttention", minutes=15, difficulty=3,
             checks=(AttendsCold(), DecodesOneToken(), MasksWarmChunks(), SharesKeyHeads(), AppendsOncePerLayer())),
    Exercise("03.3", "Generate, sending each token once", "generate", minutes=15, difficulty=2,
             checks=(GivesTheNextToken(), SendsEachTokenOnce(), ContinuesPositions(), TellsAStory(), GivesPlainLogits(),
                     EndsAtAStopToken(), KeepsToTheMaximum(), ScoresOneRow(), YieldsAtOnce(), ReservesWhatItNeeds(),
                     StartsAfresh(), RemembersALongStory()),
             refused=("common.model.generate.generate",)),
    Exercise("03.4", "The bytes of a cache", "cache_bytes", minutes=5, difficulty=1,
             checks=(CountsKeysAndValues(), CountsEveryLayer(), CountsBytesExactly()),
             refused=("common.measure.limits.cache_bytes", "common.measure.limits.call_bytes")),
    Exercise("03.5", "What one call costs", "call_cost", minutes=10, difficulty=3,
             checks=(CostsAColdCall(), CostsADecodeStep(), CostsAnyChunk()),
             refused=("common.measure.limits.cache_bytes", "common.measure.limits.call_bytes",
                      "common.measure.limits.call_flops", "torch.utils.flop_counter.FlopCounterMode.get_total_flops")),
    Exercise("03.6", "Predict prefill and decode", "predict_seconds", minutes=5, difficulty=2,
             checks=(PredictsThePrefill(), PredictsTheDecode(), PredictsMoving(), PredictsWaiting(), PredictsEachCall(),
                     PredictsNothingForNothing()),
             refused=("common.measure.limits.call_bytes", "common.measure.limits.call_flops")),
))
