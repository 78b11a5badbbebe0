"""02.5: the predicted seconds of a generation."""
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch

from common.checking.compare import expect_close, expect_equal
from common.checking.draw import draw_config, integer
from common.checking.exercise import Check, Exercise, Rng, Values
from common.model.costs import forward_flops
from common.model.llama import Config


def flops_of_calls(config: dict[str, int], prompt_length: int, new_tokens: int) -> list[int]:
    return [forward_flops(Config(**config), n) for n in range(prompt_length, prompt_length + new_tokens)]


@dataclass(frozen=True, kw_only=True)
class PredictionCheck(Check):
    """`rates` draws flops_per_second and seconds_per_call, for calls of so many operations."""

    rates: Callable[[Rng, list[int]], tuple[float, float]]
    draws: int = 5

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        generation = {"config": draw_config(rng), "prompt_length": integer(rng, 1, 49),
                      "new_tokens": integer(rng, 10, 59)}
        flops_per_second, seconds_per_call = self.rates(rng, flops_of_calls(**generation))
        return generation | {"flops_per_second": flops_per_second, "seconds_per_call": seconds_per_call}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"seconds": lab.predict_seconds(**inputs | {"config": Config(**inputs["config"])})}

    def judge(self, inputs: Values, outputs: Values) -> None:
        calls = flops_of_calls(inputs["config"], inputs["prompt_length"], inputs["new_tokens"])
        want = float(sum(max(flops / inputs["flops_per_second"], inputs["seconds_per_call"]) for flops in calls))
        if not isinstance(outputs["seconds"], float):
            expect_equal("seconds", outputs["seconds"], want)
        # Sums of at most 60 doubles in another order differ by 60 * 2^-53 = 7e-15 of the value at most.
        expect_close("seconds", torch.tensor(outputs["seconds"], dtype=torch.float64),
                     torch.tensor(want, dtype=torch.float64), atol=0, rtol=1e-12)


EXERCISE = Exercise("02.5", "Predict the time", "predict_seconds", minutes=10, difficulty=2,
                    refused=("common.model.costs.forward_flops",), checks=(
    PredictionCheck("is operations over rate where calls cost nothing else", 1, draws=1,
        rates=lambda rng, calls: (float(rng.uniform(1e6, 1e12)), 0.0),
        advice="With seconds_per_call = 0 the prediction is generation_flops(...) / flops_per_second, as a plain "
               "float."),
    PredictionCheck("is seconds_per_call for each call that computes less", 1,
        rates=lambda rng, calls: (1e9, max(calls) / 1e9 * float(rng.uniform(1, 3))),
        advice="No call is faster than seconds_per_call, and one that computes longer hides it: max, not the sum."),
    PredictionCheck("decides call by call which of the two is longer", 2,
        rates=lambda rng, calls: (1e9, calls[len(calls) // 2] / 1e9),
        advice="Short prefixes wait, long ones compute: take the max for each call, then add up."),
))
