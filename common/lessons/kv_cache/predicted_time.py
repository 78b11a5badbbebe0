"""03.6: the predicted seconds of prefill and decode."""
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch

from common.checking.compare import expect_close, expect_equal
from common.checking.draw import draw_config, integer
from common.checking.exercise import Check, Exercise, Rng, Values
from common.model.costs import call_bytes, call_flops
from common.model.llama import Config


def parts_of(inputs: Values) -> tuple[list[float], list[float]]:
    """Of each call of a generation, the seconds to compute and those to move memory."""
    config, width, first, n = (inputs[name] for name in ("config", "bytes_per_element", "prompt_length", "new_tokens"))
    calls = [(first, 0), *((1, first + step) for step in range(n - 1))] if n else []  # (new, held)
    return ([call_flops(Config(**config), *call) / inputs["flops_per_second"] for call in calls],
            [call_bytes(Config(**config), *call, width) / inputs["bytes_per_second"] for call in calls])


@dataclass(frozen=True, kw_only=True)
class PredictionCheck(Check):
    """`limits` draws what holds a generation up, where otherwise nothing takes any time worth mentioning."""

    limits: Callable[[Rng, Values], Values]
    draws: int = 5

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        inputs = {"config": draw_config(rng), "prompt_length": integer(rng, 20, 199),
                  "new_tokens": integer(rng, 10, 59), "bytes_per_element": int(rng.choice([2, 4])),
                  "flops_per_second": 1e30, "bytes_per_second": 1e30, "seconds_per_call": 0.0}
        return inputs | self.limits(rng, inputs)

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        prefill, decode = lab.predict_seconds(**inputs | {"config": Config(**inputs["config"])})
        return {"prefill": prefill, "decode": decode}

    def judge(self, inputs: Values, outputs: Values) -> None:
        calls = [max(*parts, inputs["seconds_per_call"]) for parts in zip(*parts_of(inputs), strict=True)] or [0.0]
        for name, want in (("prefill", calls[0]), ("decode", sum(calls[1:], 0.0))):
            if not isinstance(outputs[name], float):
                expect_equal(f"seconds of {name}", outputs[name], float(want))
            # Sums of at most 60 doubles in another order differ by 60 * 2^-53 = 7e-15 of the value at most.
            expect_close(f"seconds of {name}", torch.tensor(outputs[name], dtype=torch.float64),
                         torch.tensor(float(want), dtype=torch.float64), atol=0, rtol=1e-12)


def computing(rng: Rng, inputs: Values) -> Values:
    return {"flops_per_second": float(rng.uniform(1e6, 1e12))}


def moving(rng: Rng, inputs: Values) -> Values:
    computing, moving = parts_of(inputs | {"flops_per_second": 1e9, "bytes_per_second": 1.0})
    rate = min(bytes / seconds for bytes, seconds in zip(moving, computing, strict=True)) / float(rng.uniform(1, 3))
    return {"flops_per_second": 1e9, "bytes_per_second": rate}


def waiting(rng: Rng, inputs: Values) -> Values:
    rates = {"flops_per_second": 1e9, "bytes_per_second": 1e9}
    return rates | {"seconds_per_call": max(map(max, parts_of(inputs | rates))) * float(rng.uniform(1, 3))}


def each_in_its_turn(rng: Rng, inputs: Values) -> Values:
    """Prefill computes; the first half of the decode steps waits for kernels, the second half for memory."""
    computing, moving = parts_of(inputs | {"flops_per_second": 1e9, "bytes_per_second": 1e9})
    return {"bytes_per_second": 1e9, "seconds_per_call": moving[len(moving) // 2],
            "flops_per_second": 1e9 * computing[0] / (2 * moving[-1])}


EXERCISE = Exercise("03.6", "Predict prefill and decode", "predict_seconds", minutes=5, difficulty=2,
                    refused=("common.model.costs.call_bytes", "common.model.costs.call_flops"), checks=(
    PredictionCheck("is the time of one call on the prompt, for one new token", 1, draws=2,
        limits=lambda rng, inputs: {"new_tokens": 1} | computing(rng, inputs),
        advice="The prompt's call gives the first token: for new_tokens = 1 that is all, and decode is 0.0."),
    PredictionCheck("adds a call on one token for each further one", 2, limits=computing,
        advice="n tokens need n - 1 calls after the prefill; number i of them (from 0) finds prompt_length + i held."),
    PredictionCheck("waits for memory where that takes longer", 1, limits=moving,
        advice="A call takes the longer of flops / flops_per_second and bytes / bytes_per_second: max, not the sum."),
    PredictionCheck("lets no call take less than seconds_per_call", 1, limits=waiting,
        advice="No call is faster than seconds_per_call, and one that takes longer hides it: it belongs into the max."),
    PredictionCheck("decides call by call which of the three is longest", 2, limits=each_in_its_turn,
        advice="Prefill may compute while decode waits for memory: take the max of the three for each call, then add "
               "up."),
    PredictionCheck("predicts (0.0, 0.0) where no token is asked for", 1, draws=1,
        limits=lambda rng, inputs: {"new_tokens": 0, "seconds_per_call": 1.0},
        advice="Without a token to generate the model is not called: return 0.0, 0.0."),
))
