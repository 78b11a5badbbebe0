"""05.4: add to the residual stream in place, and norm the sum."""
from dataclasses import dataclass

import torch
from torch import Tensor

from common.checking.draw import randn
from common.checking.exercise import BF16, F16, Exercise, Rng, Values
from common.lessons.triton_kernels import shared
from common.oracles.decoder import rms_norm


@dataclass(frozen=True, kw_only=True)
class AddNormCheck(shared.KernelCheck):
    launcher, arguments = "add_rms_norm", ("x", "residual", "weight", "eps", "out")
    in_place, loads = ("residual",), {"x": 1, "residual": 1}
    # 3.0e-7 and 1.1e-3; 8.9e-12 and 3.8e-8
    rtol, atol = shared.tolerances(3e-6, 2e-2), shared.tolerances(1e-10, 1e-6)

    compared: tuple[str, ...] = ("residual", "out")

    def want(self, inputs: Values) -> dict[str, Tensor]:
        total = inputs["x"].double() + inputs["residual"].double()
        both = {"residual": total, "out": rms_norm(total, inputs["weight"].double(), inputs["eps"])}
        return {name: both[name] for name in self.compared}


def stream(rng: Rng, rows: int, columns: int) -> Values:
    return {"x": randn(rng, rows, columns), "residual": 3 * randn(rng, rows, columns),
            "weight": 2 + randn(rng, columns), "eps": 1e-5}


def large_stream(rng: Rng) -> Values:
    x, residual = shared.draw_large(rng, 3, 100), shared.draw_large(rng, 3, 100)
    return {"x": x, "residual": residual, "weight": 2 + randn(rng, 100), "eps": 1e-5}


def stream_apart(rng: Rng, shape: shared.Shape = shared.ragged) -> Values:
    return stream(rng, *shape(rng)) | {"gaps": shared.draw_gaps(rng, "x", "residual", "out")}


EXERCISE = Exercise("05.4", "Add to the stream, and norm it", "add_rms_norm", minutes=10, difficulty=2, checks=(
    AddNormCheck("adds four rows of 64 to a residual of zeros, and norms them", 1,
                 drawn=lambda rng: {"x": randn(rng, 4, 64), "residual": torch.zeros(4, 64), "weight": torch.ones(64),
                                    "eps": 1e-5},
                 advice="Two stores: the sum at the residual's place, and its norm at out's."),
    AddNormCheck("leaves residual + x in the residual", 2, draws=2, compared=("residual",),
        drawn=lambda rng: stream(rng, 4, 64),
        advice="The stream must not forget: store x + residual (not the norm of it) where the residual was loaded "
               "from."),
    AddNormCheck("norms the sum", 2, draws=2, compared=("out",), drawn=lambda rng: stream(rng, 4, 64),
        advice="Both the mean of the squares and the product are of the sum x + residual."),
    shared.stays_inside(AddNormCheck, stream_apart),
    shared.divides_by_columns(AddNormCheck, points=1, draws=2,
                              drawn=lambda rng: stream(rng, *shared.ragged(rng, fewest=1))),
    AddNormCheck("finds the rows of three tensors by their own strides", 1, draws=2,
        drawn=lambda rng: stream_apart(rng, shared.ragged_or_a_column),
        advice="x, residual and out each have a stride(0) of their own: pass all three."),
    AddNormCheck("computes in float32: |x| = 300 and more in float16", 1, cpu=(F16,), cuda=(F16, BF16),
        drawn=large_stream,
        advice="Widen both right after the load, tl.load(...).to(tl.float32), and add the wide ones."),
    shared.launches_once(AddNormCheck, stream_apart),
    shared.loads_once(AddNormCheck, stream_apart),
))
