"""03.1: keys and values in memory that is reserved once."""
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from common.checking.compare import expect_equal
from common.checking.draw import as_slices, draw_config, integer, randn
from common.checking.exercise import BF16, F32, Check, DTypes, Exercise, Mismatch, Rng, Values
from common.checking.lab import raised_by
from common.device import DEVICE
from common.lessons.kv_cache.shared import or_error
from common.model.llama import Config

Plan = list[list[int]]  # [layer, how many tokens] of one append after another


def in_turns(rng: Rng, n_layers: int) -> Plan:
    """Every layer gets some chunks, and the layers take turns in no particular order."""
    plan = [[layer, n] for layer in range(n_layers) for n in rng.integers(1, 7, 3).tolist()]
    return [plan[index] for index in rng.permutation(len(plan))]


def each_ahead(rng: Rng, n_layers: int) -> Plan:
    """At some time every layer holds more than another, so that none of them always has the least."""
    while True:
        plan, held, ahead = in_turns(rng, n_layers), [0] * n_layers, set()
        for layer, n in plan:
            held[layer] += n
            ahead |= {other for other in range(n_layers) if held[other] > min(held)}
        if len(ahead) == n_layers:
            return plan


def into_one_layer(rng: Rng, n_layers: int) -> Plan:
    layer = integer(rng, 0, n_layers - 1)  # one only, so that the other check finds who mixes layers
    return [[layer, n] for n in rng.integers(1, 7, 6).tolist()]


def new_cache(lab: ModuleType, inputs: Values) -> object:
    return lab.KVCache(Config(**inputs["config"]), inputs["capacity"], inputs["k"].dtype, DEVICE)


def steps_of(inputs: Values) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Each step of the plan: the layer, how many tokens it holds so far, and the new keys and values."""
    held = [0] * len(inputs["k"])
    for layer, n in inputs["plan"]:
        start, end = held[layer], held[layer] + n
        held[layer] = end
        yield layer, start, inputs["k"][layer, start:end], inputs["v"][layer, start:end]


@dataclass(frozen=True, kw_only=True)
class CacheCheck(Check):
    """Tokens are written into the layers of a plan.

    `k` and `v` are (n_layers, T, KH, D): what each layer is given, from its first token on.
    """

    plan: Callable[[Rng, int], Plan] = in_turns
    beside: bool = False  # whether another cache is filled at the same time
    draws: int = 3
    cpu: DTypes = (F32, BF16)
    cuda: DTypes = (F32, BF16)

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        config = draw_config(rng)
        plan = self.plan(rng, config["n_layers"])
        longest = max(sum(n for at, n in plan if at == layer) for layer in range(config["n_layers"]))
        shape = (config["n_layers"], longest, config["n_kv_heads"], config["head_dim"])
        return {"config": config, "plan": plan, "capacity": longest + integer(rng, 1, 29),
                "k": randn(rng, *shape).to(dtype), "v": randn(rng, *shape).to(dtype)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        cache, keys, values = new_cache(lab, inputs), [], []
        another = new_cache(lab, inputs) if self.beside else None
        for layer, _, k, v in steps_of(inputs):
            returned = cache.append(layer, *as_slices(k, v))
            if another:
                another.append(layer, -k, -v)
            keys.append(returned[0].clone())
            values.append(returned[1].clone())
        return {"keys": keys, "values": values}

    def judge(self, inputs: Values, outputs: Values) -> None:
        for step, (layer, start, k, _) in enumerate(steps_of(inputs)):
            for name in ("keys", "values"):
                want = inputs[name[0]][layer, :start + len(k)]
                expect_equal(f"{name} of layer {layer}, {len(k)} added to {start}", outputs[name][step], want)


class OneChunkCheck(CacheCheck):
    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        config = {"vocab_size": 8, "dim": 4, "n_layers": 1, "n_heads": 1, "n_kv_heads": 1, "head_dim": 4, "ffn_dim": 4}
        return {"config": config, "plan": [[0, 4]], "capacity": 8,
                "k": randn(rng, 1, 4, 1, 4).to(dtype), "v": randn(rng, 1, 4, 1, 4).to(dtype)}


class LengthCheck(CacheCheck):
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


class ViewsCheck(CacheCheck):
    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return or_error(lambda: self.look_at_memory(lab, inputs))

    def look_at_memory(self, lab: ModuleType, inputs: Values) -> Values:
        cache = new_cache(lab, inputs)
        first = (cache.keys, cache.values)
        places = [(memory.data_ptr(), memory.untyped_storage().data_ptr()) for memory in first]
        moved = copied = 0
        for layer, _, k, v in steps_of(inputs):
            returned = cache.append(layer, k, v)
            for memory, place, view in zip((cache.keys, cache.values), places, returned, strict=True):
                moved += (memory.data_ptr(), memory.untyped_storage().data_ptr()) != place
                copied += (view.data_ptr(), view.stride()) != (memory[layer].data_ptr(), memory[layer].stride())
        return {"shapes": [list(memory.shape) for memory in first], "dtypes": [str(memory.dtype) for memory in first],
                "moved": moved, "copied": copied}

    def judge(self, inputs: Values, outputs: Values) -> None:
        config = inputs["config"]
        if outputs["error"]:
            raise Mismatch(f"keys and values are no tensors of (n_layers, capacity, KH, D): {outputs['error']}")
        shape = [config["n_layers"], inputs["capacity"], config["n_kv_heads"], config["head_dim"]]
        expect_equal("shapes of keys and values", outputs["shapes"], [shape, shape])
        expect_equal("dtypes of keys and values", outputs["dtypes"], 2 * [str(inputs["k"].dtype)])
        expect_equal("times that keys or values lay elsewhere after an append", outputs["moved"], 0)
        expect_equal("returned tensors that are no views of keys or values", outputs["copied"], 0)


class FullCheck(CacheCheck):
    """Some layer gets as many tokens as there is room for."""

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        return inputs | {"capacity": inputs["k"].shape[1]}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        append = super().drive
        return or_error(lambda: append(lab, inputs))

    def judge(self, inputs: Values, outputs: Values) -> None:
        if outputs["error"]:
            raise Mismatch(f"chunks {inputs['plan']} in a cache of {inputs['capacity']}: {outputs['error']}")
        super().judge(inputs, outputs)


class OverflowCheck(Check):
    """One layer is asked to take more tokens than it has room for; the others hold one token more than it does."""

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        config, capacity = draw_config(rng), integer(rng, 4, 39)
        layer, held = integer(rng, 1, config["n_layers"] - 1), integer(rng, 1, capacity - 1)
        asked = capacity - held + integer(rng, 1, 3)
        shape = (held + asked, config["n_kv_heads"], config["head_dim"])
        return {"config": config, "capacity": capacity, "layer": layer, "held": held, "asked": asked,
                "k": randn(rng, *shape).to(dtype), "v": randn(rng, *shape).to(dtype)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        cache, k, v, held, layer = new_cache(lab, inputs), inputs["k"], inputs["v"], inputs["held"], inputs["layer"]
        for other in range(inputs["config"]["n_layers"]):
            cache.append(other, k[:held + (other != layer)], v[:held + (other != layer)])
        before, length = [bits(memory) for memory in (cache.keys, cache.values)], cache.length
        raised, message = raised_by(lambda: cache.append(layer, k[held:], v[held:]))
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


EXERCISE = Exercise("03.1", "Keys and values in memory reserved once", "KVCache", minutes=15, difficulty=2, checks=(
    OneChunkCheck("gives back four tokens of a single layer", 1, draws=1,
        advice="Write k to self.keys[layer, start:end] and v to self.values[layer, start:end]; return both up to end."),
    CacheCheck("appends chunk after chunk, and returns all tokens so far", 2, plan=into_one_layer,
        advice="A layer that holds `start` tokens gets the next N at start : start + N, and returns the first start "
               "+ N."),
    CacheCheck("keeps the layers apart, in whatever order they come", 2,
        advice="Each layer has its own place, self.keys[layer], and needs its own count of the tokens that it holds."),
    LengthCheck("has the length that every layer has reached", 1, plan=each_ahead, cpu=(F32,), cuda=(F32,),
        advice="length is what *every* layer holds: the smallest of the layers' counts, and 0 at first."),
    ViewsCheck("returns views of memory that was reserved once", 2,
        advice="Make self.keys and self.values in __init__, (n_layers, capacity, KH, D), write into them in place, "
               "and return slices of them: no torch.cat, no clone, no indexing by a list."),
    FullCheck("takes as many tokens as it has room for", 1, cpu=(F32,), cuda=(F32,),
        advice="A chunk that ends exactly at capacity fits: only end > capacity is too much."),
    OverflowCheck("says no to too many tokens before it writes any", 2, draws=4,
        advice="Compare end with the capacity first, and raise a ValueError that says how many tokens the layer "
               "holds, how many were to be added, and the capacity. Nothing may have changed by then."),
    CacheCheck("shares nothing with another cache", 1, beside=True, cpu=(F32,), cuda=(F32,),
        advice="Whatever __init__ makes belongs to self: nothing mutable in the class, and none in a default "
               "argument."),
))
