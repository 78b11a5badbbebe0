"""01.4: SwiGLU, the feed-forward part."""
import math
from functools import partial

import torch

from common.checking.compare import expect_near
from common.checking.draw import integer, randn
from common.checking.exercise import F32, Exercise, Rng, Values
from common.lessons.transformer.shared import FormulaCheck
from common.oracles.decoder import swiglu

GateCheck = partial(
    FormulaCheck, symbol="swiglu", formula=swiglu,
    # Largest error 6.8e-7, relative to the largest value.
    judged=lambda inputs, outputs, want: expect_near("feed-forward", outputs["out"], want, F32,
                                                     atol=7e-6 * float(want.abs().max())))


def any_weights(rng: Rng, n: int, dim: int, width: int) -> Values:
    return {"x": randn(rng, n, dim), "w_gate": 2 * randn(rng, width, dim) / math.sqrt(dim),
            "w_up": randn(rng, width, dim) / math.sqrt(dim), "w_down": randn(rng, dim, width) / math.sqrt(width)}


def symmetric_weights(rng: Rng) -> Values:
    """A forgotten transpose does not show: it is left to another check."""
    inputs = any_weights(rng, integer(rng, 1, 9), 16, 16)
    return {name: value if name == "x" else value + value.T for name, value in inputs.items()}


def unsymmetric_weights(rng: Rng) -> Values:
    dim = integer(rng, 5, 60)
    return any_weights(rng, integer(rng, 1, 9), dim, dim + integer(rng, 0, 2) * 7)


def large_gates(rng: Rng) -> Values:
    inputs, gates = any_weights(rng, 3, 16, 16), torch.from_numpy(rng.choice([-300.0, 300.0], 16))
    x = inputs["x"].sign() * (1 + inputs["x"].abs())  # no gate is smaller than 300
    x[0] = gates.sign()  # and these are all positive
    return inputs | {"x": x, "w_gate": torch.diag(gates)}


EXERCISE = Exercise("01.4", "SwiGLU", "swiglu", minutes=10, difficulty=1,
                    refused=("torch.nn.functional.silu", "torch.nn.SiLU", "common.model.llama.SwiGLU"), checks=(
    GateCheck("gives silu(x) * x when all three weights are identities", 1,
              arguments=lambda rng: {"x": randn(rng, 1, 4), "w_gate": torch.eye(4), "w_up": torch.eye(4),
                                     "w_down": torch.eye(4)},
              advice="silu(gate) = gate * sigmoid(gate); its product with `up` goes through w_down."),
    GateCheck("puts silu on the gate and leaves `up` as it is", 2, draws=3, arguments=symmetric_weights,
        advice="The two branches are not alike: silu(x @ w_gate.T) * (x @ w_up.T)."),
    GateCheck("applies weights that are stored as (outputs, inputs)", 1, draws=3, arguments=unsymmetric_weights,
        advice="Weights lie as torch.nn.Linear keeps them, (outputs, inputs): x @ weight.T."),
    GateCheck("stays finite for gates of several hundred, either way", 1, arguments=large_gates,
        advice="exp(gate) overflows above 88: torch.sigmoid(gate), or 1 / (1 + exp(-gate)), stays finite."),
))
