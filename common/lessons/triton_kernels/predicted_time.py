"""05.1: the time that a kernel needs at least."""
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from types import ModuleType

import torch
from torch import Tensor

from common.checking.compare import expect_equal
from common.checking.draw import integer
from common.checking.exercise import Check, Exercise, Mismatch, Rng, Values

Description = list  # of a tensor: [rows, columns, dtype, columns of the tensor that it is a slice of]


@dataclass(frozen=True, kw_only=True)
class PredictCheck(Check):
    """A prediction for each of `launch_seconds`. The first `twice` tensors written are also the first that are read."""

    drawn: Callable[[Rng], Values]
    twice: int = 0

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        return self.drawn(rng)

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        reads, writes = ([make(*description) for description in inputs[name]] for name in ("reads", "writes"))
        reads[:self.twice] = writes[:self.twice]
        return {"seconds": [lab.predict_seconds(reads, writes, inputs["bytes_per_second"], launch)
                            for launch in inputs["launch_seconds"]]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        reads, writes, bytes_per_second = inputs["reads"], inputs["writes"], inputs["bytes_per_second"]
        tensors = [*writes[:self.twice], *reads[self.twice:], *writes]
        moved = sum(rows * columns * getattr(torch, dtype).itemsize for rows, columns, dtype, _ in tensors)
        for launch, got in zip(inputs["launch_seconds"], outputs["seconds"], strict=True):
            want = max(moved / bytes_per_second, launch)
            if not isinstance(got, float):
                expect_equal("seconds", got, want)
            if abs(got - want) > 1e-9 * want:
                raise Mismatch(f"{len(reads)} tensors read and {len(writes)} written, together {moved:,} bytes at "
                               f"{bytes_per_second:.3g} bytes/s, {launch:g} s for a launch: "
                               f"got {got:.6g} s, want {want:.6g} s")


def make(rows: int, columns: int, dtype: str, columns_of_whole: int) -> Tensor:
    return torch.empty(rows, columns_of_whole, dtype=getattr(torch, dtype), device="meta")[:, :columns]


def whole_tensor(rng: Rng, dtype: str = "float16") -> Description:
    columns = integer(rng, 1, 9000)
    return [integer(rng, 1, 9000), columns, dtype, columns]


def slice_of_a_wider(rng: Rng) -> Description:
    rows, columns, dtype, _ = whole_tensor(rng)
    return [rows, columns, dtype, columns + integer(rng, 1, 500)]


def some_tensors(rng: Rng, describe: Callable[[Rng], Description] = whole_tensor,
                 fewest: int = 1) -> Values:
    reads, writes = ([describe(rng) for _ in range(integer(rng, fewest, 4))] for _ in range(2))
    return {"reads": reads, "writes": writes, "bytes_per_second": float(rng.uniform(1e9, 4e12)),
            "launch_seconds": [0.0]}


def a_copy(rng: Rng) -> Values:
    square = [64, 64, "float32", 64]
    return {"reads": [square], "writes": [square], "bytes_per_second": 1e9, "launch_seconds": [0.0]}


def several_dtypes(rng: Rng) -> Values:
    """Two tensors or more in each list, so among them elements of three sizes or more."""
    dtypes = cycle(rng.permutation(["float32", "float16", "bfloat16", "int64", "int8"]).tolist())
    return some_tensors(rng, lambda rng: whole_tensor(rng, next(dtypes)), fewest=2)


def shorter_and_longer_launch(rng: Rng) -> Values:
    seconds = 10.0 ** rng.uniform(-7, -3)  # to move the bytes
    rows, columns = integer(rng, 1, 9000), integer(rng, 1, 9000)
    part = [rows, columns, "float16", 9000]
    return {"reads": [part], "writes": [part], "bytes_per_second": 4 * rows * columns / seconds,
            "launch_seconds": [seconds * float(rng.choice(times)) for times in ([0.2, 0.8], [1.5, 5])]}


EXERCISE = Exercise("05.1", "Predict a kernel's time", "predict_seconds", minutes=5, difficulty=1, checks=(
    PredictCheck("predicts a copy of 64 x 64 numbers", 1, drawn=a_copy,
        advice="A copy reads each byte once and writes it once: add both lists up, then divide by bytes_per_second."),
    PredictCheck("counts the bytes of every tensor in its own dtype", 1, draws=5, drawn=several_dtypes,
        advice="tensor.numel() * tensor.element_size(), for each tensor of both lists: float32 has 4 bytes, bfloat16 "
               "2."),
    PredictCheck("counts what is updated in place as read and as written", 1, draws=3, drawn=some_tensors, twice=1,
        advice="An update in place loads the old value and stores the new one: its bytes move twice, so leave it in "
               "both."),
    PredictCheck("counts a slice's own elements", 1, draws=3, drawn=lambda rng: some_tensors(rng, slice_of_a_wider),
        advice="Of a slice only its own elements move: numel(), and not the storage behind it."),
    PredictCheck("takes the longer of moving and launching", 1, draws=6, drawn=shorter_and_longer_launch,
        advice="Launching and moving overlap, so the longer of the two hides the other: max(), and not their sum."),
))
