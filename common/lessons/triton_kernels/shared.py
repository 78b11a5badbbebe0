"""What the checks of the six row kernels have in common: how they drive, judge and draw.

The oracles are the formulas in float64. A tolerance is ten times the largest error of the reference, and of
tests/alternatives/triton_kernels.py, against its oracle over 300 seeds of all checks of the exercise, rounded up. The
largest errors in float32 and float16 stand beside it: relative for numbers above 6e-5, below which float16 is no longer
as fine, and absolute for those below. bfloat16 is eight times as coarse as float16; the interpreter cuts it off where a
GPU rounds, so its tolerance is eight times float16's and was not measured.
"""
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from common.checking.compare import expect_equal, expect_near
from common.checking.draw import integer
from common.checking.exercise import BF16, F16, F32, KERNEL_ON_CPU, KERNEL_ON_GPU, Check, DTypes, Mismatch, Rng, Values
from common.checking.guard import guarded_in_place, guarded_input, guarded_output, stray_writes
from common.checking.watch import Launches, Loads

MAX_BLOCK = 8192  # the contract's

Drawn = Callable[[Rng], Values]
Shape = Callable[[Rng], tuple[int, int]]


def tolerances(float32: float, float16: float) -> dict[torch.dtype, float]:
    return {F32: float32, F16: float16, BF16: 8 * float16}


def expect_values(check: "KernelCheck", inputs: Values, outputs: Values) -> None:
    for name, want in check.want(inputs).items():
        got, dtype = outputs["written"][name], (check.out(inputs) if name == "out" else inputs[name]).dtype
        if got.isnan().all():
            raise Mismatch(f"{name} is NaN throughout: never written, or made from NaN (loaded beside a row?).")
        expect_near(name, got, want, dtype, check.atol[dtype], check.rtol[dtype])


@dataclass(frozen=True, kw_only=True)
class KernelCheck(Check):
    """A launcher between guard margins. A subclass says what an exercise launches, a value what it draws and judges.

    `drawn` gives the tensors, in whatever dtype, and the numbers of a call, and as "gaps" how many unused elements
    follow each row of a tensor.
    """

    launcher: ClassVar[str]
    arguments: ClassVar[tuple[str, ...]]  # in order; "out" is to be filled
    in_place: ClassVar[tuple[str, ...]] = ()  # those that are updated
    float32: ClassVar[tuple[str, ...]] = ()  # those that are float32 whatever the dtype of the others
    loads: ClassVar[dict[str, int]] = {"x": 1}  # how often each element of these may be loaded
    rtol: ClassVar[dict[torch.dtype, float]]
    atol: ClassVar[dict[torch.dtype, float]]

    drawn: Drawn
    judged: Callable[["KernelCheck", Values, Values], None] = expect_values
    cpu: DTypes = KERNEL_ON_CPU
    cuda: DTypes = KERNEL_ON_GPU

    def out(self, inputs: Values) -> Tensor:
        """A tensor like `out`."""
        return inputs["x"]

    @abstractmethod
    def want(self, inputs: Values) -> dict[str, Tensor]:
        """The right contents of every tensor that is written, in float64."""

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        return {name: value.to(dtype) if isinstance(value, Tensor) and name not in self.float32 else value
                for name, value in self.drawn(rng).items()}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        gaps, read, written = inputs.get("gaps", {}), {}, {}
        for name in self.arguments:
            if name == "out":
                written[name] = guarded_output(self.out(inputs), gaps.get(name, 0))
            elif name in self.in_place:
                written[name] = guarded_in_place(inputs[name], gaps.get(name, 0))
            elif isinstance(inputs[name], Tensor):
                read[name] = guarded_input(inputs[name], gaps.get(name, 0))
        tensors = read | written
        given = inputs | tensors
        # The interpreter computes with numpy, which would warn where a GPU just goes on with inf.
        with Launches(lab, f"{self.launcher}_kernel") as launches, Loads() as loads, np.errstate(all="ignore"):
            getattr(lab, self.launcher)(*(given[name] for name in self.arguments))
        return {"written": written, "read": read, "launches": launches.count,
                "stray writes": sum(map(stray_writes, written.values())),
                "stray loads": sum(map(loads.stray_of, tensors.values())),
                "most loads": {name: loads.most_of(tensors[name]) for name in self.loads},
                "largest block": loads.largest_block}

    def judge(self, inputs: Values, outputs: Values) -> None:
        self.judged(self, inputs, outputs)


# Checks of every kernel -----------------------------------------------------------------------------------------------


def expect_nothing_outside(check: KernelCheck, inputs: Values, outputs: Values) -> None:
    if outputs["stray writes"]:
        raise Mismatch(f"{outputs['stray writes']} elements around the tensors were overwritten")
    for name, tensor in outputs["read"].items():
        expect_equal(f"{name} after the call", tensor, inputs[name])
    if outputs["stray loads"]:
        raise Mismatch(f"{outputs['stray loads']} elements were loaded from around the tensors")


def expect_one_launch(check: KernelCheck, inputs: Values, outputs: Values) -> None:
    expect_equal(f"launches of {check.launcher}_kernel", outputs["launches"], 1)


def expect_few_loads(check: KernelCheck, inputs: Values, outputs: Values) -> None:
    for name, most in outputs["most loads"].items():
        if most == 0:
            raise Mismatch(f"the kernel loads nothing of {name}: was it computed outside?")
        if most > check.loads[name]:
            raise Mismatch(f"an element of {name} was loaded {most} times, allowed: {check.loads[name]}")
    if outputs["largest block"] > MAX_BLOCK:
        raise Mismatch(f"a block of {outputs['largest block']} elements, allowed: {MAX_BLOCK}")


def stays_inside(check: type[KernelCheck], drawn: Drawn, advice: str = (
        "Foreign memory was touched, or an input was changed: every tl.load and tl.store of a block needs "
        "mask=offsets < columns, for a block is a power of two and a row is not. If all have it: an offset."
)) -> KernelCheck:
    return check("stores and loads nothing outside its tensors, and changes no other", 2, draws=2, advice=advice,
                 judged=expect_nothing_outside,
                 drawn=lambda rng: drawn(rng) | {"gaps": {}})  # so that a wrong stride is left to another check


def launches_once(check: type[KernelCheck], drawn: Drawn, advice: str = (
        "Launch the kernel once, over a grid with a program for each row, and leave all arithmetic to it."
)) -> KernelCheck:
    return check("does it with one launch of its kernel", 1, advice=advice, drawn=drawn, judged=expect_one_launch)


def loads_once(check: type[KernelCheck], drawn: Drawn, name: str = "loads each element once", points: int = 2,
               advice: str = "Load once and keep the block in a variable: it stays in registers, and registers cost no "
                             "bandwidth.") -> KernelCheck:
    """None on a GPU, since only the interpreter notes every load."""
    return check(name, points, cuda=(), advice=advice, drawn=drawn, judged=expect_few_loads)


def divides_by_columns(check: type[KernelCheck], points: int, draws: int, drawn: Drawn) -> KernelCheck:
    """`drawn` gives no single column: a block as wide as its row hides a wrong divisor."""
    return check("divides by the number of columns, whatever the width", points, draws=draws, drawn=drawn,
                 advice="The block is wider than the row: load with mask=offsets < columns and other=0.0, and divide "
                        "by columns.")


# Draws ----------------------------------------------------------------------------------------------------------------


def choose(rng: Rng, *numbers: int) -> int:
    return int(rng.choice(numbers))


def ragged(rng: Rng, fewest: int = 2) -> tuple[int, int]:
    """A few rows, whose width is no power of two. Few different blocks, for a GPU compiles a kernel for each."""
    return integer(rng, fewest, 5), choose(rng, 33, 63, 1023, 1025, 2047, 3 * integer(rng, 11, 20),
                                           3 * integer(rng, 171, 340), 3 * integer(rng, 342, 680))


def ragged_or_a_column(rng: Rng) -> tuple[int, int]:
    """A wrong stride shows in either."""
    rows, columns = ragged(rng)
    return rows, choose(rng, 1, columns)


def draw_gaps(rng: Rng, *names: str) -> dict[str, int]:
    """Unused elements after each row, another number for each tensor."""
    return {name: int(gap) for name, gap in zip(names, rng.permutation(np.arange(1, 40))[:len(names)], strict=True)}


def draw_large(rng: Rng, *shape: int) -> Tensor:
    """Numbers whose squares float16 does not have."""
    sign = torch.from_numpy(rng.choice([-1.0, 1.0], shape))
    return sign * torch.from_numpy(rng.uniform(300, 900, shape))
