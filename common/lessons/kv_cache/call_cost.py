"""03.5: what one call of the model on a cache costs."""
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch

from common.checking.compare import expect_equal
from common.checking.draw import draw_config, integer
from common.checking.exercise import Check, Exercise, Rng, Values
from common.lessons.kv_cache.shared import SQUARE, counted
from common.model.llama import Config, Llama


def matrix_elements(config: dict[str, int]) -> int:
    """All matrices that a call reads: an embedding table only where it scores the vocabulary too."""
    with torch.device("meta"):
        model = Llama(Config(**config))
    matrices = {name: weight for name, weight in model.named_parameters() if weight.dim() == 2}
    if model.lm_head is not None:
        del matrices["embed_tokens.weight"]
    return sum(weight.numel() for weight in matrices.values())


@dataclass(frozen=True, kw_only=True)
class CostCheck(Check):
    call: Callable[[Rng], Values]
    draws: int = 4

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        return self.call(rng)

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        flops, moved = lab.call_cost(Config(**inputs["config"]), inputs["new"], inputs["held"],
                                     inputs["bytes_per_element"])
        return {"flops": flops, "bytes": moved}

    def judge(self, inputs: Values, outputs: Values) -> None:
        config, new, held = inputs["config"], inputs["new"], inputs["held"]
        what, (flops, elements) = f"{new} tokens after {held} in {config}", counted(config, new, held)
        expect_equal(f"operations of {what}", outputs["flops"], flops)
        expect_equal(f"bytes of {what}", outputs["bytes"],
                     inputs["bytes_per_element"] * (matrix_elements(config) + elements))


def decode_step(rng: Rng) -> Values:
    return {"config": draw_config(rng), "new": 1, "held": integer(rng, 1, 3999),
            "bytes_per_element": int(rng.choice([2, 4]))}


def warm_chunk(rng: Rng) -> Values:
    return decode_step(rng) | {"new": integer(rng, 2, 99)}


EXERCISE = Exercise("03.5", "What one call costs", "call_cost", minutes=10, difficulty=3,
                    refused=("common.model.costs.cache_bytes", "common.model.costs.call_bytes",
                             "common.model.costs.call_flops",
                             "torch.utils.flop_counter.FlopCounterMode.get_total_flops"), checks=(
    CostCheck("costs a call on an empty cache", 1, draws=1,
        call=lambda rng: {"config": SQUARE, "new": 1, "held": 0, "bytes_per_element": 4},
        advice="With nothing held: forward_flops(config, new), and weight_bytes plus the cache_bytes of `new` tokens."),
    CostCheck("costs one token on a long cache", 2, call=decode_step,
        advice="Held tokens meet the new ones in attention alone, 4 * new * held * D * H operations a layer, and "
               "their keys and values are read: cache_bytes of held + new."),
    CostCheck("costs a chunk on a warm cache", 2, call=warm_chunk,
        advice="All new tokens share one reading of the weights; each of them meets every held token."),
))
