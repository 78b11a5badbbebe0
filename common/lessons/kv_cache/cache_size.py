"""03.4: the bytes of a cache."""
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch

from common.checking.compare import expect_equal
from common.checking.draw import draw_config, integer
from common.checking.exercise import Check, Exercise, Rng, Values
from common.lessons.kv_cache.shared import SQUARE, counted
from common.model.llama import Config


@dataclass(frozen=True, kw_only=True)
class BytesCheck(Check):
    cache: Callable[[Rng], Values]

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        return self.cache(rng)

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"bytes": lab.cache_bytes(Config(**inputs["config"]), inputs["tokens"], inputs["bytes_per_element"])}

    def judge(self, inputs: Values, outputs: Values) -> None:
        config, tokens, width = inputs["config"], inputs["tokens"], inputs["bytes_per_element"]
        _, elements = counted(config, 1, tokens - 1) if tokens else (0, 0)
        expect_equal(f"bytes of {tokens} tokens at {width} an element in {config}", outputs["bytes"], width * elements)


class ExactCheck(BytesCheck):
    def judge(self, inputs: Values, outputs: Values) -> None:
        _, elements = counted(inputs["config"], 1, 0)
        expect_equal(f"bytes of {inputs['tokens']} tokens", outputs["bytes"], elements * inputs["tokens"])


def any_cache(rng: Rng) -> Values:
    return {"config": draw_config(rng), "tokens": integer(rng, 0, 2999),
            "bytes_per_element": int(rng.choice([1, 2, 4]))}


def huge_odd_cache(rng: Rng) -> Values:
    odd = 2 * integer(rng, 1 << 52, (1 << 53) - 1) + 1
    return {"config": SQUARE | {"n_layers": 3}, "tokens": odd, "bytes_per_element": 1}


EXERCISE = Exercise("03.4", "The bytes of a cache", "cache_bytes", minutes=5, difficulty=1,
                    refused=("common.model.costs.cache_bytes", "common.model.costs.call_bytes"), checks=(
    BytesCheck("counts keys and values of one token in one layer", 1,
        cache=lambda rng: {"config": SQUARE, "tokens": 1, "bytes_per_element": 2},
        advice="Keys *and* values: 2 * KH * D elements for one token in one layer, each of bytes_per_element bytes."),
    BytesCheck("counts the key/value heads of every layer and token", 2, draws=4, cache=any_cache,
        advice="A key is n_kv_heads * head_dim wide, whatever n_heads and dim are, and each layer has its own."),
    ExactCheck("is an exact int where a float is not", 1, draws=4, cache=huge_odd_cache,
        advice="Multiply whole numbers: a float has 53 bits, and the caches of a data centre are larger than that."),
))
