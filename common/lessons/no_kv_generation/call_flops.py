"""02.3: the operations of one call of the model."""
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch

from common.checking.compare import expect_equal
from common.checking.draw import draw_config, integer
from common.checking.exercise import Check, Exercise, Mismatch, Rng, Values
from common.model.llama import Config
from common.oracles.flops import counted_flops


@dataclass(frozen=True, kw_only=True)
class FlopsCheck(Check):
    """A call on n tokens of a model that need not exist."""

    config: Callable[[Rng], dict[str, int]] = draw_config
    n: Callable[[Rng], int] = lambda rng: 1
    draws: int = 5

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        return {"config": self.config(rng), "n": self.n(rng)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"flops": lab.forward_flops(Config(**inputs["config"]), inputs["n"])}

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_equal(f"FLOPs of {inputs['n']} tokens through {inputs['config']}", outputs["flops"],
                     counted_flops(**inputs))


class ExactCheck(FlopsCheck):
    def judge(self, inputs: Values, outputs: Values) -> None:
        if not isinstance(outputs["flops"], int):
            raise Mismatch(f"FLOPs: got {outputs['flops']!r}, a {type(outputs['flops']).__name__}, want an int")
        super().judge(inputs, outputs)


def square(rng: Rng) -> dict[str, int]:
    size = 8 * integer(rng, 2, 5)
    return {"vocab_size": size, "dim": size, "n_layers": 1, "n_heads": size // 8, "n_kv_heads": size // 8,
            "head_dim": 8, "ffn_dim": size}


# Nearly Llama-3-8B's, but hardly a factor of 2, which would suit a float.
ODD = {"vocab_size": 128_257, "dim": 4099, "n_layers": 3, "n_heads": 33, "n_kv_heads": 11, "head_dim": 126,
       "ffn_dim": 14_337}

EXERCISE = Exercise("02.3", "The operations of one call", "forward_flops", minutes=15, difficulty=3,
                    refused=("common.model.costs.forward_flops",
                             "torch.utils.flop_counter.FlopCounterMode.get_total_flops"), checks=(
    FlopsCheck("counts one token in a square model", 1, draws=1, config=square,
        advice="Per layer q, k, v, o, gate, up and down, then the logits: 2 * rows * columns for each token and "
               "matrix."),
    FlopsCheck("counts grouped heads and widths of any size", 2,
        advice="q and o are dim x (n_heads * head_dim), k and v dim x (n_kv_heads * head_dim): neither need be dim x "
               "dim."),
    FlopsCheck("counts attention, and the logits of one row", 2, n=lambda rng: integer(rng, 5, 99),
        advice="For n tokens: 4 * n * n * head_dim * n_heads of attention per layer, every matrix n times, logits "
               "once."),
    ExactCheck("is an exact int where a float is not", 1, config=lambda rng: ODD,
        n=lambda rng: 2 * integer(rng, 2_500_000, 4_999_999) + 1,
        advice="Count in whole numbers: a float has 53 bits, and a long prompt takes more operations than that."),
))
