"""01.1: RMSNorm."""
from functools import partial

import torch
from torch import Tensor

from common.checking.compare import expect_near
from common.checking.draw import integer, randn
from common.checking.exercise import BF16, F16, F32, Exercise, Rng, Values
from common.lessons.transformer.shared import FormulaCheck
from common.oracles.decoder import rms_norm

RTOL = {F32: 3e-6, F16: 1e-2, BF16: 8e-2}  # largest error, relative to the value: 3.0e-7, 9.5e-4 and 7.6e-3


def expect_rows(inputs: Values, outputs: Values, want: Tensor) -> None:
    dtype = inputs["x"].dtype
    expect_near("normed rows", outputs["out"], want, dtype, atol=0, rtol=RTOL[dtype])


NormCheck = partial(FormulaCheck, symbol="rms_norm", formula=rms_norm, judged=expect_rows)


def rows_of_many_sizes(rng: Rng) -> Values:
    n, dim = integer(rng, 3, 20), integer(rng, 17, 300)
    sizes = 2.0 ** torch.arange(n)[:, None]  # every row twice as large as the one above
    return {"x": sizes * randn(rng, n, dim), "weight": 2 + randn(rng, dim), "eps": 1e-6}


def small_rows(rng: Rng) -> Values:
    x = 1e-3 * randn(rng, 5, 64)
    x[3] = 0
    return {"x": x, "weight": torch.ones(64), "eps": 1e-5}


def large_rows(rng: Rng) -> Values:
    sign = torch.from_numpy(rng.choice([-1.0, 1.0], (3, 128)))
    return {"x": sign * torch.from_numpy(rng.uniform(300, 900, (3, 128))), "weight": 2 + randn(rng, 128), "eps": 1e-5}


EXERCISE = Exercise("01.1", "RMSNorm", "rms_norm", minutes=10, difficulty=1, refused=(
    "torch.nn.functional.rms_norm", "torch.rms_norm", "torch.nn.RMSNorm", "common.model.llama.RMSNorm"), checks=(
    NormCheck("brings a row to root mean square 1", 1,
        arguments=lambda rng: {"x": randn(rng, 1, 8), "weight": torch.ones(8), "eps": 0.0},
        advice="Square, take the mean over the row, then the root, and divide the row by that: RMS, read backwards."),
    NormCheck("norms every row by itself and scales column i by weight[i]", 1, draws=3, arguments=rows_of_many_sizes,
        advice="mean(dim=-1, keepdim=True) keeps one number a row; the weight has one number a column."),
    NormCheck("adds eps inside the root", 1, arguments=small_rows,
        advice="sqrt(mean + eps), not sqrt(mean) + eps: in a small row eps outweighs the mean of the squares."),
    NormCheck("stays right for |x| = 300 and more in float16", 2, draws=3, arguments=large_rows, cpu=(F16,),
        cuda=(F16, BF16),
        advice="Widen first: x.float() before squaring, and back to x.dtype at the very end."),
))
