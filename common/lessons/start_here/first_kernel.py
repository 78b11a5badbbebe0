"""00.3: a first Triton kernel, which adds two vectors."""
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch

from common.checking.compare import expect_equal
from common.checking.draw import integer, randn
from common.checking.exercise import KERNEL_ON_CPU, KERNEL_ON_GPU, Check, DTypes, Exercise, Mismatch, Rng, Values
from common.checking.guard import guarded_input, guarded_output, stray_writes
from common.checking.watch import Launches


@dataclass(frozen=True, kw_only=True)
class AddCheck(Check):
    """`vector_add` between guard margins. `judged` looks at one side of what it did."""

    judged: Callable[[Values, Values], None]
    length: Callable[[Rng], int]
    cpu: DTypes = KERNEL_ON_CPU
    cuda: DTypes = KERNEL_ON_GPU

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        n = self.length(rng)
        return {name: randn(rng, n).to(dtype) for name in ("x", "y")}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        x, y, out = guarded_input(inputs["x"]), guarded_input(inputs["y"]), guarded_output(inputs["x"])
        with Launches(lab, "vector_add_kernel") as launches:
            lab.vector_add(x, y, out)
        return {"out": out, "x": x, "y": y, "launches": launches.count, "stray": stray_writes(out)}

    def judge(self, inputs: Values, outputs: Values) -> None:
        self.judged(inputs, outputs)


def ragged(rng: Rng) -> int:
    return int(rng.choice([1, 1025, 2047, 2049, integer(rng, 1026, 2046)]))


def expect_sum(inputs: Values, outputs: Values) -> None:
    # Adding two numbers is one correctly rounded operation, so the result is exact in every dtype.
    expect_equal("out", outputs["out"], (inputs["x"].double() + inputs["y"].double()).to(inputs["x"].dtype))


def expect_no_stray_write(inputs: Values, outputs: Values) -> None:
    if outputs["stray"]:
        raise Mismatch(f"{outputs['stray']} elements outside the {len(inputs['x'])} of `out` were overwritten")
    for name in ("x", "y"):
        expect_equal(f"{name} after the call", outputs[name], inputs[name])


def expect_one_launch(inputs: Values, outputs: Values) -> None:
    expect_equal("launches of vector_add_kernel", outputs["launches"], 1)


EXERCISE = Exercise("00.3", "A first Triton kernel", "vector_add", minutes=10, difficulty=2, checks=(
    AddCheck("adds two full blocks", 1, judged=expect_sum, length=lambda rng: 2048,
        advice="Program p loads x and y at p * BLOCK + tl.arange(0, BLOCK), adds, and stores at the same places of "
               "out."),
    AddCheck("adds a length that is no multiple of the block", 2, judged=expect_sum, length=ragged, draws=4,
        advice="Elements are missing at the end: the grid needs ceil(n / BLOCK) programs, which is triton.cdiv(n, "
               "BLOCK)."),
    AddCheck("writes nothing outside `out` and leaves x and y alone", 2, judged=expect_no_stray_write, length=ragged,
        draws=4,
        advice="Memory behind `out` was overwritten, or an input was changed: give tl.store mask=offsets < n."),
    AddCheck("adds inside the kernel, with one launch", 1, judged=expect_one_launch, length=ragged, draws=4,
        advice="vector_add launches vector_add_kernel once, over a grid of programs, and adds nothing itself."),
))
