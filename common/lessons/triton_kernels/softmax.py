"""05.7: the softmax of rows that need not fit into one block."""
import torch
from torch import Tensor

from common.checking.draw import integer, randn
from common.checking.exercise import Exercise, Rng, Values
from common.lessons.triton_kernels import shared


class SoftmaxCheck(shared.KernelCheck):
    launcher, arguments, loads = "online_softmax", ("x", "out"), {"x": 2}
    # 5.7e-7 and 4.9e-4; 3.2e-11 and 3.0e-8
    rtol, atol = shared.tolerances(6e-6, 5e-3), shared.tolerances(4e-10, 3e-7)

    def want(self, inputs: Values) -> dict[str, Tensor]:
        return {"out": inputs["x"].double().softmax(dim=-1)}


def long_shape(rng: Rng) -> tuple[int, int]:
    columns = shared.choose(rng, 8191, 8193, 16_385, 3 * integer(rng, 1400, 6000))
    return integer(rng, 2, 3), columns


def rows(rng: Rng, n: int, columns: int) -> Values:
    return {"x": randn(rng, n, columns)}


def rows_apart(rng: Rng, shape: shared.Shape = long_shape) -> Values:
    return rows(rng, *shape(rng)) | {"gaps": shared.draw_gaps(rng, "x", "out")}


def many_tiles(rng: Rng) -> Values:
    """Odd, so the last tile is ragged. One row's largest element stands in the first tile, the other's in the last."""
    x = randn(rng, 2, 2 * integer(rng, 4096, 9999) + 1)
    x[0, 0] = x[1, -1] = x.max() + 1
    return {"x": x}


def rising_row(rng: Rng) -> Values:
    columns = integer(rng, 17_000, 20_000)
    x = torch.linspace(0, float(rng.uniform(2, 9)), columns) + randn(rng, 1, columns)
    x[0, -1] = x.max() + 1  # however the noise falls, the last tile brings a larger element
    return {"x": x}


def large_scores(rng: Rng) -> Values:
    x = 40 * randn(rng, 2, integer(rng, 5000, 10_000))
    x[:, integer(rng, 0, 4999)] = 300
    return {"x": x}


def empty_tiles(rng: Rng) -> Values:
    columns = integer(rng, 17_000, 20_000)
    x = randn(rng, 3, columns)
    x[0, :integer(rng, 8192, 16_900)] = -float("inf")
    x[1, integer(rng, 1, 8000):] = -float("inf")
    x[2, torch.from_numpy(rng.random(columns)) < 0.5] = -float("inf")
    x[2, 5] = 0
    return {"x": x}


EXERCISE = Exercise("05.7", "Softmax of rows that fit nowhere", "online_softmax", minutes=20, difficulty=4, checks=(
    SoftmaxCheck("gives the softmax of four rows of 64", 1, drawn=lambda rng: rows(rng, 4, 64),
        advice="exp(x - maximum) over its sum: each row is positive and sums to 1."),
    SoftmaxCheck("takes in all tiles of a long row, the last of them ragged", 2, draws=3, drawn=many_tiles,
        advice="Walk in steps of TILE while start < columns, and give the load other=-float('inf'), for exp(-inf) is "
               "0. Is the old sum scaled down when the maximum grows?"),
    SoftmaxCheck("scales the old sum down when a larger element comes", 2, draws=2, drawn=rising_row,
        advice="The old sum was taken from the old maximum: scale it by exp(old - new) before the new tile's is "
               "added."),
    SoftmaxCheck("stays finite with scores forty times as large", 1, draws=2, drawn=large_scores,
        advice="Subtract the running maximum, tl.maximum(old, tl.max(x)), before exp: exp(89) is infinite in float32."),
    SoftmaxCheck("gives 0 for -inf, even where a whole tile holds nothing else", 2, draws=2, drawn=empty_tiles,
        advice="After a tile of nothing but -inf the maximum must still be a number: start at the lowest finite one."),
    shared.stays_inside(SoftmaxCheck, rows_apart),
    SoftmaxCheck("finds the rows of x and of out by their own strides", 1, draws=2,
        drawn=lambda rng: rows_apart(rng, shared.ragged_or_a_column),
        advice="x.stride(0) and out.stride(0) are two numbers: pass both, and use each with its own pointer."),
    shared.launches_once(SoftmaxCheck, rows_apart),
    shared.loads_once(SoftmaxCheck, lambda rng: rows(rng, 1, integer(rng, 8193, 20_000)),
        name="loads each element twice at most, in blocks of at most MAX_BLOCK", points=3,
        advice="Maximum and sum come from one pass, tile after tile of at most MAX_BLOCK elements; a second pass "
               "writes."),
))
