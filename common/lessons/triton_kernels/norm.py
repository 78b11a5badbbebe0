"""05.3: RMSNorm."""
import torch
from torch import Tensor

from common.checking.draw import randn
from common.checking.exercise import BF16, F16, Exercise, Rng, Values
from common.lessons.triton_kernels import shared
from common.oracles.decoder import rms_norm


class NormCheck(shared.KernelCheck):
    launcher, arguments = "rms_norm", ("x", "weight", "eps", "out")
    # 2.5e-7 and 1.6e-3; 9.4e-12 and 9.4e-8
    rtol, atol = shared.tolerances(3e-6, 2e-2), shared.tolerances(1e-10, 1e-6)

    def want(self, inputs: Values) -> dict[str, Tensor]:
        return {"out": rms_norm(inputs["x"].double(), inputs["weight"].double(), inputs["eps"])}


def rows(rng: Rng, n: int, columns: int, numbers=randn) -> Values:
    return {"x": numbers(rng, n, columns), "weight": 2 + randn(rng, columns), "eps": 1e-5}


def small_rows(rng: Rng) -> Values:
    x = 1e-3 * randn(rng, 4, 64)
    x[2] = 0
    return {"x": x, "weight": torch.ones(64), "eps": 1e-5}


def rows_apart(rng: Rng, shape: shared.Shape = shared.ragged) -> Values:
    return rows(rng, *shape(rng)) | {"gaps": shared.draw_gaps(rng, "x", "out")}


EXERCISE = Exercise("05.3", "RMSNorm in one kernel", "rms_norm", minutes=10, difficulty=2, checks=(
    NormCheck("brings four rows of 64 to root mean square 1", 1,
        drawn=lambda rng: {"x": randn(rng, 4, 64), "weight": torch.ones(64), "eps": 0.0},
        advice="The row, times tl.rsqrt(the mean of its squares + eps): the sum is over this program's row alone."),
    NormCheck("scales column i by weight[i]", 1, draws=2, drawn=lambda rng: rows(rng, 4, 64),
        advice="The weight has one number a column, the same for all rows: load it at weight_ptr + offsets."),
    NormCheck("adds eps inside the root", 1, drawn=small_rows,
        advice="tl.rsqrt(mean + eps): in a small row eps outweighs the mean of the squares, and a row of zeros needs "
               "it."),
    shared.divides_by_columns(NormCheck, points=2, draws=4,
                              drawn=lambda rng: rows(rng, *shared.ragged(rng, fewest=1))),
    shared.stays_inside(NormCheck, rows_apart),
    NormCheck("finds the rows of x and of out by their own strides", 1, draws=2,
        drawn=lambda rng: rows_apart(rng, shared.ragged_or_a_column),
        advice="x.stride(0) and out.stride(0) are two numbers: pass both, and use each with its own pointer."),
    NormCheck("computes in float32: |x| = 300 and more in float16", 1, cpu=(F16,), cuda=(F16, BF16),
        drawn=lambda rng: rows(rng, 3, 100, shared.draw_large),
        advice="Widen right after the load, tl.load(...).to(tl.float32); tl.store rounds to the dtype of out by "
               "itself."),
    shared.launches_once(NormCheck, rows_apart),
    shared.loads_once(NormCheck, rows_apart),
))
