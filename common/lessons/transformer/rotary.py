"""01.2: the rotary embedding."""
from functools import partial
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from common.checking.compare import expect_close, expect_near
from common.checking.draw import integer, randn
from common.checking.exercise import BF16, F16, F32, Check, Exercise, Mismatch, Rng, Values
from common.lessons.transformer.shared import FormulaCheck
from common.oracles.decoder import rotate

# Largest error: 5.7e-6, and for positions above 2048 in 16 bits 2.0e-3 and 1.6e-2.
ATOL = {F32: 6e-5, F16: 2e-2, BF16: 0.16}


def expect_rotated(inputs: Values, outputs: Values, want: Tensor) -> None:
    dtype = inputs["x"].dtype
    expect_near("rotated", outputs["out"], want, dtype, ATOL[dtype])


RotateCheck = partial(FormulaCheck, symbol="rotate", formula=rotate, judged=expect_rotated)


def heads_at(positions: Tensor, rng: Rng) -> Values:
    heads, head_dim = integer(rng, 1, 5), 2 * integer(rng, 4, 40)
    return {"x": randn(rng, len(positions), heads, head_dim), "positions": positions,
            "theta": float(rng.choice([100.0, 3e3, 5e5]))}


def single_pairs(rng: Rng) -> Values:
    """Position 0 never comes first, so that neither distances from the first token nor sorted positions will do.

    With one pair a head, wrong pairs are left to another check.
    """
    n = integer(rng, 6, 30)
    positions = torch.from_numpy(np.insert(rng.integers(40, 500, n - 1), integer(rng, 1, n - 1), 0))
    return {"x": randn(rng, n, integer(rng, 1, 5), 2), "positions": positions, "theta": 10_000.0}


def far_heads(rng: Rng) -> Values:
    n = integer(rng, 6, 30)
    return heads_at(torch.from_numpy(2 * rng.integers(1024, 4096, n) + 1), rng)  # odd: none of them exists in float16


class DistanceCheck(Check):
    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        n, head_dim = integer(rng, 4, 20), 2 * integer(rng, 4, 40)
        near = torch.from_numpy(rng.integers(0, 100, n))
        return {"q": randn(rng, n, 2, head_dim).to(dtype), "k": randn(rng, n, 2, head_dim).to(dtype),
                "near": near, "shift": integer(rng, 50, 300), "theta": 10_000.0}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        near, theta = inputs["near"], inputs["theta"]
        return {f"{name} {place}": lab.rotate(inputs[name], positions, theta)
                for place, positions in (("near", near), ("far", near + inputs["shift"])) for name in ("q", "k")}

    def judge(self, inputs: Values, outputs: Values) -> None:
        near, far = (torch.einsum("ihd,jhd->ijh", *(outputs[f"{name} {place}"].double() for name in ("q", "k")))
                     for place in ("near", "far"))
        # Largest difference 2.2e-4, of dot products that are about 6 in size.
        expect_close(f"dot products {inputs['shift']} tokens further on", far, near, atol=2.2e-3)


class OddHeadCheck(Check):
    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        return {"x": randn(rng, 3, 2, 2 * integer(rng, 1, 9) + 1).to(dtype)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        try:
            out = lab.rotate(inputs["x"], torch.arange(3, device=inputs["x"].device), 10_000.0)
        except NotImplementedError:
            raise
        except Exception as error:
            return {"did": f"raised {type(error).__name__}"}
        return {"did": f"returned a tensor of shape {tuple(out.shape)}"}

    def judge(self, inputs: Values, outputs: Values) -> None:
        if outputs["did"] != "raised ValueError":
            raise Mismatch(f"D = {inputs['x'].shape[-1]}: {outputs['did']}, want a ValueError")


EXERCISE = Exercise("01.2", "Rotary embedding", "rotate", minutes=20, difficulty=3,
                    refused=("common.model.llama.Rotary",), checks=(
    RotateCheck("turns a single pair by its position", 1,
        arguments=lambda rng: {"x": randn(rng, 4, 1, 2), "positions": torch.arange(4), "theta": 10_000.0},
        advice="With D = 2 there is one pair, and its angle is the position itself: (a cos - b sin, b cos + a sin)."),
    RotateCheck("pairs x[i] with x[i + D/2] and turns pair i by theta ** (-2i / D)", 2, draws=4,
        arguments=lambda rng: heads_at(torch.arange(integer(rng, 5, 30)), rng),
        advice="Pair i is x[..., i] and x[..., i + D/2]: x.chunk(2, dim=-1) gives both halves. i runs from 0 to D/2 "
               "- 1, and its speed is theta ** (-2 * i / D): mind the 2."),
    RotateCheck("turns each token by the position it is given, and position 0 not at all", 1, draws=3,
        arguments=single_pairs,
        advice="The angle of row n comes from positions[n], which need not be n. At position 0 nothing turns."),
    DistanceCheck("leaves dot products that depend on relative position only", 2, draws=3,
        advice="Moving a query and a key by equally many tokens must leave their dot product as it was: the halves "
               "of a pair need the same angle, and its sine two opposite signs."),
    RotateCheck("stays right above position 2048 in float16", 2, draws=2, arguments=far_heads, cpu=(F16,),
        cuda=(F16, BF16),
        advice="Above 2048 float16 has only even numbers: keep positions, angles, sine and cosine in float32."),
    OddHeadCheck("raises ValueError for an odd head dimension", 1,
        advice="An odd D leaves one element without a partner: raise ValueError, as the docstring says."),
))
