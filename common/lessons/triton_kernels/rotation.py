"""05.6: the rotation of queries and keys in place."""
import torch
from torch import Tensor

from common.checking.draw import integer, randn
from common.checking.exercise import Exercise, Mismatch, Rng, Values
from common.lessons.triton_kernels import shared

HEADS, HALVES = (3, 9, 11), (3, 20, 31)  # no powers of two, and few, for a GPU compiles a kernel for each


class RotateCheck(shared.KernelCheck):
    launcher, arguments, loads = "rotate_in_place", ("qk", "cos", "sin"), {"qk": 1}
    in_place, float32 = ("qk",), ("cos", "sin")
    # Absolute, for numbers up to 6: 4.4e-7 and 2.0e-3
    rtol, atol = shared.tolerances(0.0, 0.0), shared.tolerances(5e-6, 2e-2)

    def want(self, inputs: Values) -> dict[str, Tensor]:
        turn = torch.complex(inputs["cos"].double(), inputs["sin"].double())[:, None]
        turned = torch.complex(*inputs["qk"].double().chunk(2, dim=-1)) * turn
        return {"qk": torch.cat((turned.real, turned.imag), dim=-1)}


def expect_untouched_values(check: shared.KernelCheck, inputs: Values, outputs: Values) -> None:
    shared.expect_values(check, inputs, outputs)
    if outputs["stray writes"]:
        raise Mismatch(f"{outputs['stray writes']} elements around the queries and keys were overwritten")


def turns(rng: Rng, tokens: int, heads: int, half: int) -> Values:
    angle = torch.from_numpy(rng.uniform(-3, 3, (tokens, half))).float()
    return {"qk": randn(rng, tokens, heads, 2 * half), "cos": angle.cos(), "sin": angle.sin()}


def ragged_tiles(rng: Rng) -> Values:
    """Neither heads nor pairs fill their tile, and what lies beyond the pairs of one head belongs to the next."""
    heads, half = shared.choose(rng, *HEADS), shared.choose(rng, *HALVES)
    return turns(rng, shared.choose(rng, 1, 3), heads, half)


def with_values_between(rng: Rng) -> Values:
    half, values = shared.choose(rng, *HALVES), integer(rng, 1, 4)  # so many heads lie between two tokens
    return turns(rng, integer(rng, 2, 5), shared.choose(rng, *HEADS), half) | {"gaps": {"qk": values * 2 * half}}


EXERCISE = Exercise("05.6", "Rotate queries and keys in place", "rotate_in_place", minutes=15, difficulty=3, checks=(
    RotateCheck("turns single pairs by a quarter: (a, b) becomes (-b, a)", 1,
        drawn=lambda rng: {"qk": randn(rng, 4, 1, 2), "cos": torch.zeros(4, 1), "sin": torch.ones(4, 1)},
        advice="Load both halves before storing either: (a cos - b sin, b cos + a sin), here with cos = 0 and sin = "
               "1."),
    RotateCheck("pairs element i with i + D/2", 2, draws=2,
        drawn=lambda rng: turns(rng, 3, 1, shared.choose(rng, *HALVES)),
        advice="The partner of element i lies half a head further on: load at `first` and at `first + HALF`."),
    RotateCheck("gives each token its own angles, and all its heads the same", 1, draws=2,
        drawn=lambda rng: turns(rng, integer(rng, 3, 6), integer(rng, 2, 8), shared.choose(rng, 1, 8)),
        advice="cos and sin are read at token * HALF + pair, whichever head is turned."),
    RotateCheck("handles any number of heads and any even D", 2, draws=4, drawn=ragged_tiles,
        advice="Heads and pairs both need a mask: (head < heads) & (pair < HALF), for tiles are powers of two."),
    shared.stays_inside(RotateCheck, with_values_between,
        advice="Foreign memory was touched, or cos or sin was changed: every tl.load and tl.store needs a mask, for "
               "tiles are powers of two, and neither the heads nor their pairs are."),
    RotateCheck("finds tokens by their stride and leaves the values between them alone", 1, draws=2,
        drawn=with_values_between, judged=expect_untouched_values,
        advice="qk is the front of rows that end in values: token n begins n * qk.stride(0) elements after the first."),
    shared.launches_once(RotateCheck, with_values_between,
        advice="Queries and keys are heads like others: turn them in one launch, whose grid has a program for each "
               "token."),
    shared.loads_once(RotateCheck, lambda rng: turns(rng, 2, integer(rng, 33, 50), 256),
        name="loads each element once, in blocks of at most MAX_BLOCK",
        advice="Load each half once, and turn many heads in several programs, with at most MAX_BLOCK elements in "
               "each."),
))
