"""05.2: the mean square of each row."""
from torch import Tensor

from common.checking.draw import randn
from common.checking.exercise import BF16, F16, F32, Exercise, Rng, Values
from common.lessons.triton_kernels import shared


class ReduceCheck(shared.KernelCheck):
    launcher, arguments = "row_mean_square", ("x", "out")
    # 2.2e-7
    rtol, atol = {F32: 3e-6}, {F32: 1e-11}

    def out(self, inputs: Values) -> Tensor:
        return inputs["x"][:, 0].float()

    def want(self, inputs: Values) -> dict[str, Tensor]:
        return {"out": inputs["x"].double().square().mean(dim=-1)}


def rows(rng: Rng, n: int, columns: int) -> Values:
    return {"x": randn(rng, n, columns)}


def rows_apart(rng: Rng, shape: shared.Shape = shared.ragged) -> Values:
    return rows(rng, *shape(rng)) | {"gaps": shared.draw_gaps(rng, "x")}


EXERCISE = Exercise("05.2", "Reduce each row to a number", "row_mean_square", minutes=10, difficulty=2, checks=(
    ReduceCheck("reduces four rows of 64", 1, cpu=(F32,), cuda=(F32,), drawn=lambda rng: rows(rng, 4, 64),
        advice="Program n loads row n at x_ptr + n * x_stride + offsets, and stores one number at out_ptr + n."),
    shared.divides_by_columns(ReduceCheck, points=2, draws=4,
                              drawn=lambda rng: rows(rng, *shared.ragged(rng, fewest=1))),
    shared.stays_inside(ReduceCheck, rows_apart),
    ReduceCheck("finds its rows by their stride", 1, draws=2,
        drawn=lambda rng: rows_apart(rng, shared.ragged_or_a_column),
        advice="Row n begins x.stride(0) * n elements after the first, and in a slice that is more than columns * n."),
    ReduceCheck("squares in float32: |x| = 300 and more in float16", 1, cpu=(F16,), cuda=(F16, BF16),
        drawn=lambda rng: {"x": shared.draw_large(rng, 3, 100)},
        advice="Widen right after the load, tl.load(...).to(tl.float32): 300 * 300 does not exist in float16."),
    shared.launches_once(ReduceCheck, rows_apart),
    shared.loads_once(ReduceCheck, rows_apart),
))
