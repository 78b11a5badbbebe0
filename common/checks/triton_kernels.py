"""Lesson 05: checks of the predicted time and of six row kernels.

Every kernel is driven in the same way (`KernelCheck`): each tensor lies between guard margins, with a gap after each of
its rows where a check asks for one; launches are counted, and in the interpreter every loaded address is noted.

The oracles are the formulas in float64. A tolerance is ten times the largest error of the reference, and of
tests/alternatives/triton_kernels.py, against its oracle over 300 seeds of all checks of the exercise, rounded up. The
largest errors in float32 and float16 stand beside it: relative for numbers above 6e-5, below which float16 is no longer
as fine, and absolute for those below. bfloat16 is eight times as coarse as float16; the interpreter cuts it off where a
GPU rounds, so its tolerance is eight times float16's and was not measured.
"""
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from common.checks.compare import expect_close, expect_equal, expect_like
from common.checks.counters import Launches
from common.checks.draw import integer, randn
from common.checks.exercise import Check, Exercise, Lesson, Mismatch, Values
from common.checks.guard import guarded_in_place, guarded_input, guarded_output, stray_writes
from common.checks.traffic import Traffic

MAX_BLOCK = 8192  # the contract's


# 05.1 -----------------------------------------------------------------------------------------------------------------


class PredictCheck(Check):
    """A list is sent as descriptions: [rows, columns, dtype, columns of the tensor that it is a slice of]."""

    twice: int = 0  # so many of the tensors read are the very ones that are written, too
    launch_seconds = 0.0

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        reads, writes = ([self.describe(rng) for _ in range(integer(rng, 1, 4))] for _ in range(2))
        return {"reads": reads, "writes": writes, "bytes_per_second": float(rng.uniform(1e9, 4e12)),
                "launch_seconds": self.launch_seconds}

    def describe(self, rng: np.random.Generator) -> list:
        columns = integer(rng, 1, 9000)
        return [integer(rng, 1, 9000), columns, "float16", columns]

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        reads, writes = ([self.make(*one) for one in inputs[name]] for name in ("reads", "writes"))
        reads[:self.twice] = writes[:self.twice]
        return {"seconds": lab.predict_seconds(reads, writes, inputs["bytes_per_second"], inputs["launch_seconds"])}

    @staticmethod
    def make(rows: int, columns: int, dtype: str, columns_of_whole: int) -> Tensor:
        whole = torch.empty(rows, columns_of_whole, dtype=getattr(torch, dtype), device="meta")
        return whole[:, :columns]

    def judge(self, inputs: Values, outputs: Values) -> None:
        reads, writes = inputs["reads"], inputs["writes"]
        tensors = [*writes[:self.twice], *reads[self.twice:], *writes]
        moved = sum(rows * columns * getattr(torch, dtype).itemsize for rows, columns, dtype, _ in tensors)
        want = max(moved / inputs["bytes_per_second"], inputs["launch_seconds"])
        got = outputs["seconds"]
        if not isinstance(got, float):
            expect_equal("seconds", got, want)
        if abs(got - want) > 1e-9 * want:
            raise Mismatch(f"{len(reads)} tensors read and {len(writes)} written, together {moved:,} bytes at "
                           f"{inputs['bytes_per_second']:.3g} bytes/s, {inputs['launch_seconds']:g} s for a launch: "
                           f"got {got:.6g} s, want {want:.6g} s")


class PredictsACopy(PredictCheck):
    name = "predicts a copy of 64 x 64 numbers"
    points = 1
    mistake = "another formula than bytes over bytes per second"
    advice = "A copy reads each byte once and writes it once: add both lists up, then divide by bytes_per_second."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        one = [64, 64, "float32", 64]
        return {"reads": [one], "writes": [one], "bytes_per_second": 1e9, "launch_seconds": 0.0}


class CountsBytes(PredictCheck):
    name = "counts the bytes of every tensor in its own dtype"
    points = 1
    draws = 5
    mistake = "one size of element for all tensors, or not all of a list"
    advice = "tensor.numel() * tensor.element_size(), for each tensor of both lists: float32 has 4 bytes, bfloat16 2."

    def describe(self, rng: np.random.Generator) -> list:
        rows, columns, _, whole = super().describe(rng)
        return [rows, columns, str(rng.choice(["float32", "float16", "bfloat16", "int64", "int8"])), whole]


class CountsInPlaceTwice(PredictCheck):
    name = "counts what is updated in place as read and as written"
    points = 1
    draws = 3
    twice = 1
    mistake = "throws out tensors that stand in both lists"
    advice = "An update in place loads the old value and stores the new one: its bytes move twice, so leave it in both."


class CountsTheSliceAlone(PredictCheck):
    name = "counts a slice's own elements"
    points = 1
    draws = 3
    mistake = "the bytes of the storage that a slice belongs to"
    advice = "Of a slice only its own elements move: numel(), and not the storage behind it."

    def describe(self, rng: np.random.Generator) -> list:
        rows, columns, dtype, whole = super().describe(rng)
        return [rows, columns, dtype, whole + integer(rng, 1, 500)]


class NeverBelowALaunch(PredictCheck):
    name = "takes the longer of moving and launching"
    points = 1
    draws = 6
    mistake = "the sum of both times, or no launch at all"
    advice = "Launching and moving overlap, so the longer of the two hides the other: max(), and not their sum."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        seconds = 10.0 ** rng.uniform(-7, -3)
        one = [integer(rng, 1, 9000), integer(rng, 1, 9000), "float16", 9000]
        longer = float(rng.choice([0.2, 0.8, 1.5, 5]))  # launching takes so many times as long as moving
        return {"reads": [one], "writes": [one], "bytes_per_second": 4 * one[0] * one[1] / seconds,
                "launch_seconds": seconds * longer}


# What all kernels have in common --------------------------------------------------------------------------------------


def tolerances(float32: float, float16: float) -> dict[torch.dtype, float]:
    return {torch.float32: float32, torch.float16: float16, torch.bfloat16: 8 * float16}


class KernelCheck(Check):
    """Drive a kernel's launcher between margins. An exercise says what is called; a check what is drawn and judged."""

    cpu, cuda = (torch.float32, torch.float16), (torch.float32, torch.float16, torch.bfloat16)
    kernel: str
    once: tuple[str, ...] = ("x",)  # the inputs that are to be loaded once
    in_place: tuple[str, ...] = ()  # the inputs that are updated
    loads = 1  # how often each element of `once` may be loaded
    atol: dict[torch.dtype, float]
    rtol: dict[torch.dtype, float]

    def outputs(self, inputs: Values) -> dict[str, Tensor]:
        """Tensors like those that the launcher is to fill."""
        return {"out": inputs["x"]}

    def launch(self, lab: ModuleType, tensors: dict[str, Tensor], inputs: Values) -> None:
        raise NotImplementedError

    def want(self, inputs: Values) -> dict[str, Tensor]:
        """What is to be in every tensor that is written, in float64."""
        raise NotImplementedError

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        gaps = inputs.get("gaps", {})
        given = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
        read = {name: guarded_input(value, gaps.get(name, 0)) for name, value in given.items()
                if name not in self.in_place}
        written = {name: guarded_in_place(given[name], gaps.get(name, 0)) for name in self.in_place}
        written |= {name: guarded_output(like, gaps.get(name, 0)) for name, like in self.outputs(inputs).items()}
        # The interpreter computes with numpy, which would warn where a GPU just goes on with inf.
        with Launches(lab, self.kernel) as launches, Traffic() as traffic, np.errstate(all="ignore"):
            self.launch(lab, read | written, inputs)
        return {"written": written, "read": read, "launches": launches.count,
                "stray writes": sum(map(stray_writes, written.values())),
                "stray loads": sum(map(traffic.stray_loads, (read | written).values())),
                "most loads": {name: traffic.most_loads((read | written)[name]) for name in self.once},
                "largest block": traffic.largest_block}

    def judge(self, inputs: Values, outputs: Values) -> None:
        likes = self.outputs(inputs)
        for name, want in self.want(inputs).items():
            got, dtype = outputs["written"][name], likes.get(name, inputs.get(name)).dtype
            expect_like(name, got, want.to(dtype))
            if got.isnan().all():
                raise Mismatch(f"{name} is NaN throughout: never written, or made from NaN (loaded beside a row?).")
            expect_close(name, got, want, self.atol[dtype], self.rtol[dtype])


class StaysInside(KernelCheck):
    """Mixed into an exercise: no store and no load outside of the tensors, and nothing changed that is only read."""

    name = "stores and loads nothing outside its tensors, and changes no other"
    points = 2
    draws = 2
    mistake = "a load or a store without a mask, or a result that is also written over an input"
    advice = ("Foreign memory was touched, or an input was changed: every tl.load and tl.store of a block needs "
              "mask=offsets < columns, for a block is a power of two and a row is not. If all have it: an offset.")

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return super().draw(rng, dtype) | {"gaps": {}}  # so that a wrong stride is left to another check

    def judge(self, inputs: Values, outputs: Values) -> None:
        if outputs["stray writes"]:
            raise Mismatch(f"{outputs['stray writes']} elements around the tensors were overwritten")
        for name, tensor in outputs["read"].items():
            expect_equal(f"{name} after the call", tensor, inputs[name])
        if outputs["stray loads"]:
            raise Mismatch(f"{outputs['stray loads']} elements were loaded from around the tensors")


class LaunchesOnce(KernelCheck):
    name = "does it with one launch of its kernel"
    points = 1
    mistake = "a launch for each row, or a part of the work done by torch"
    advice = "Launch the kernel once, over a grid with a program for each row, and leave all arithmetic to it."

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_equal(f"launches of {self.kernel}", outputs["launches"], 1)


class LoadsOnce(KernelCheck):
    name = "loads each element once"
    points = 2
    cuda = ()  # only the interpreter notes every load
    mistake = "a second pass over the row, whose bytes cross the bus a second time"
    advice = "Load once and keep the block in a variable: it stays in registers, and registers cost no bandwidth."

    def judge(self, inputs: Values, outputs: Values) -> None:
        for name, most in outputs["most loads"].items():
            if most == 0:
                raise Mismatch(f"the kernel loads nothing of {name}: was it computed outside?")
            if most > self.loads:
                raise Mismatch(f"an element of {name} was loaded {most} times, allowed: {self.loads}")
        if outputs["largest block"] > self.largest_block(inputs):
            raise Mismatch(f"a block of {outputs['largest block']} elements, allowed: {self.largest_block(inputs)}")

    def largest_block(self, inputs: Values) -> int:
        return MAX_BLOCK


def draw_shape(rng: np.random.Generator) -> tuple[int, int]:
    """A few rows, whose width is no power of two. Few different blocks, for a GPU compiles a kernel for each."""
    return integer(rng, 2, 5), int(rng.choice([33, 63, 1023, 1025, 2047, 3 * integer(rng, 11, 20),
                                               3 * integer(rng, 171, 340), 3 * integer(rng, 342, 680)]))


def draw_any_shape(rng: np.random.Generator) -> tuple[int, int]:
    """As `draw_shape`, but now and then a single row, or rows of one element."""
    rows, columns = draw_shape(rng)
    return int(rng.choice([1, rows])), int(rng.choice([1, columns, columns]))


def draw_gaps(rng: np.random.Generator, *names: str) -> dict[str, int]:
    """Unused elements after each row, another number for each tensor."""
    return {name: int(gap) for name, gap in zip(names, rng.permutation(np.arange(1, 40))[:len(names)], strict=True)}


def draw_large(rng: np.random.Generator, *shape: int) -> Tensor:
    """Numbers whose squares float16 does not have."""
    sign = torch.from_numpy(rng.choice([-1.0, 1.0], shape))
    return sign * torch.from_numpy(rng.uniform(300, 900, shape))


# 05.2 -----------------------------------------------------------------------------------------------------------------


class ReduceCheck(KernelCheck):
    kernel = "row_mean_square_kernel"
    # 2.2e-7
    rtol, atol = {torch.float32: 3e-6}, {torch.float32: 1e-11}

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"x": randn(rng, *draw_shape(rng)).to(dtype), "gaps": draw_gaps(rng, "x")}

    def outputs(self, inputs: Values) -> dict[str, Tensor]:
        return {"out": inputs["x"][:, 0].float()}

    def launch(self, lab: ModuleType, tensors: dict[str, Tensor], inputs: Values) -> None:
        lab.row_mean_square(tensors["x"], tensors["out"])

    def want(self, inputs: Values) -> dict[str, Tensor]:
        return {"out": inputs["x"].double().square().mean(dim=-1)}


class ReducesFourRows(ReduceCheck):
    name = "reduces four rows of 64"
    points = 1
    cpu = cuda = (torch.float32,)
    mistake = "another formula, or every program on the same row"
    advice = "Program n loads row n at x_ptr + n * x_stride + offsets, and stores one number at out_ptr + n."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"x": randn(rng, 4, 64).to(dtype)}


class ReducesAnyWidth(ReduceCheck):
    name = "divides by the number of columns, whatever the width"
    points = 2
    draws = 4
    mistake = "divides by the block, or lets what lies behind the row into the sum"
    advice = "The block is wider than the row: load with mask=offsets < columns and other=0.0, and divide by columns."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"x": randn(rng, *draw_any_shape(rng)).to(dtype)}


class ReducesStridedRows(ReduceCheck):
    name = "finds its rows by their stride"
    points = 1
    draws = 2
    mistake = "takes the number of columns for the distance between two rows"
    advice = "Row n begins x.stride(0) * n elements after the first, and in a slice that is more than columns * n."


class ReducesInFloat32(ReduceCheck):
    name = "squares in float32: |x| = 300 and more in float16"
    points = 1
    cpu, cuda = (torch.float16,), (torch.float16, torch.bfloat16)
    mistake = "squares in float16, whose largest number is 65504"
    advice = "Widen right after the load, tl.load(...).to(tl.float32): 300 * 300 does not exist in float16."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"x": draw_large(rng, 3, 100).to(dtype)}


class ReduceStaysInside(StaysInside, ReduceCheck):
    pass


class ReduceLaunchesOnce(LaunchesOnce, ReduceCheck):
    pass


class ReduceLoadsOnce(LoadsOnce, ReduceCheck):
    pass


# 05.3 -----------------------------------------------------------------------------------------------------------------


def normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x = x.double()
    return x / (x.square().mean(dim=-1, keepdim=True) + eps).sqrt() * weight.double()


class NormCheck(KernelCheck):
    kernel = "rms_norm_kernel"
    # 2.5e-7 and 1.6e-3; 9.4e-12 and 9.4e-8
    rtol, atol = tolerances(3e-6, 2e-2), tolerances(1e-10, 1e-6)

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        rows, columns = draw_shape(rng)
        return {"x": randn(rng, rows, columns).to(dtype), "weight": (2 + randn(rng, columns)).to(dtype), "eps": 1e-5,
                "gaps": draw_gaps(rng, "x", "out")}

    def launch(self, lab: ModuleType, tensors: dict[str, Tensor], inputs: Values) -> None:
        lab.rms_norm(tensors["x"], tensors["weight"], inputs["eps"], tensors["out"])

    def want(self, inputs: Values) -> dict[str, Tensor]:
        return {"out": normed(inputs["x"], inputs["weight"], inputs["eps"])}


class NormsFourRows(NormCheck):
    name = "brings four rows of 64 to root mean square 1"
    points = 1
    mistake = "another formula"
    advice = "The row, times tl.rsqrt(the mean of its squares + eps): the sum is over this program's row alone."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"x": randn(rng, 4, 64).to(dtype), "weight": torch.ones(64, dtype=dtype), "eps": 0.0}


class ScalesByTheWeight(NormCheck):
    name = "scales column i by weight[i]"
    points = 1
    draws = 2
    mistake = "forgets the weight, or takes it by rows"
    advice = "The weight has one number a column, the same for all rows: load it at weight_ptr + offsets."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"x": randn(rng, 4, 64).to(dtype), "weight": (2 + randn(rng, 64)).to(dtype), "eps": 1e-5}


class AddsEpsInsideTheRoot(NormCheck):
    name = "adds eps inside the root"
    points = 1
    mistake = "adds eps to the root, or leaves it out, which shows in small rows and divides zeros by zero"
    advice = "tl.rsqrt(mean + eps): in a small row eps outweighs the mean of the squares, and a row of zeros needs it."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        x = 1e-3 * randn(rng, 4, 64)
        x[2] = 0
        return {"x": x.to(dtype), "weight": torch.ones(64, dtype=dtype), "eps": 1e-5}


class NormsAnyWidth(NormCheck):
    name = "divides by the number of columns, whatever the width"
    points = 2
    draws = 4
    mistake = "divides by the block, or lets what lies behind the row into the sum"
    advice = "The block is wider than the row: load with mask=offsets < columns and other=0.0, and divide by columns."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        rows, columns = draw_any_shape(rng)
        return {"x": randn(rng, rows, columns).to(dtype), "weight": (2 + randn(rng, columns)).to(dtype), "eps": 1e-5}


class NormsStridedRows(NormCheck):
    name = "finds the rows of x and of out by their own strides"
    points = 1
    draws = 2
    mistake = "one stride for both, or the number of columns in its place"
    advice = "x.stride(0) and out.stride(0) are two numbers: pass both, and use each with its own pointer."


class NormsInFloat32(NormCheck):
    name = "computes in float32: |x| = 300 and more in float16"
    points = 1
    cpu, cuda = (torch.float16,), (torch.float16, torch.bfloat16)
    mistake = "squares in float16, whose largest number is 65504"
    advice = "Widen right after the load, tl.load(...).to(tl.float32); tl.store rounds to the dtype of out by itself."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"x": draw_large(rng, 3, 100).to(dtype), "weight": (2 + randn(rng, 100)).to(dtype), "eps": 1e-5}


class NormStaysInside(StaysInside, NormCheck):
    pass


class NormLaunchesOnce(LaunchesOnce, NormCheck):
    pass


class NormLoadsOnce(LoadsOnce, NormCheck):
    pass


# 05.4 -----------------------------------------------------------------------------------------------------------------


class AddNormCheck(KernelCheck):
    kernel = "add_rms_norm_kernel"
    once = ("x", "residual")
    in_place = ("residual",)
    # 3.0e-7 and 1.1e-3; 8.9e-12 and 3.8e-8
    rtol, atol = tolerances(3e-6, 2e-2), tolerances(1e-10, 1e-6)

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return draw_stream(rng, *draw_shape(rng), dtype) | {"gaps": draw_gaps(rng, "x", "residual", "out")}

    def launch(self, lab: ModuleType, tensors: dict[str, Tensor], inputs: Values) -> None:
        lab.add_rms_norm(*(tensors[name] for name in ("x", "residual", "weight")), inputs["eps"], tensors["out"])

    def want(self, inputs: Values) -> dict[str, Tensor]:
        total = inputs["x"].double() + inputs["residual"].double()
        return {"residual": total, "out": normed(total, inputs["weight"], inputs["eps"])}


class AddsToAnEmptyStream(AddNormCheck):
    name = "adds four rows of 64 to a residual of zeros, and norms them"
    points = 1
    mistake = "writes only one of the two results"
    advice = "Two stores: the sum at the residual's place, and its norm at out's."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"x": randn(rng, 4, 64).to(dtype), "residual": torch.zeros(4, 64, dtype=dtype),
                "weight": torch.ones(64, dtype=dtype), "eps": 1e-5}


def draw_stream(rng: np.random.Generator, rows: int, columns: int, dtype: torch.dtype) -> Values:
    return {"x": randn(rng, rows, columns).to(dtype), "residual": (3 * randn(rng, rows, columns)).to(dtype),
            "weight": (2 + randn(rng, columns)).to(dtype), "eps": 1e-5}


class AddsToTheResidual(AddNormCheck):
    name = "leaves residual + x in the residual"
    points = 2
    draws = 2
    mistake = "overwrites the residual with x or with the norm, or leaves it as it was"
    advice = "The stream must not forget: store x + residual (not the norm of it) where the residual was loaded from."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return draw_stream(rng, 4, 64, dtype)

    def want(self, inputs: Values) -> dict[str, Tensor]:
        return {"residual": super().want(inputs)["residual"]}


class NormsTheSum(AddNormCheck):
    name = "norms the sum"
    points = 2
    draws = 2
    mistake = "norms x alone or the old residual, or mixes them up between square and product"
    advice = "Both the mean of the squares and the product are of the sum x + residual."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return draw_stream(rng, 4, 64, dtype)

    def want(self, inputs: Values) -> dict[str, Tensor]:
        return {"out": super().want(inputs)["out"]}


class AddNormsAnyWidth(AddNormCheck):
    name = "divides by the number of columns, whatever the width"
    points = 1
    draws = 2
    mistake = "divides by the block, or lets what lies behind the row into the sum"
    advice = "The block is wider than the row: load with mask=offsets < columns and other=0.0, and divide by columns."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return draw_stream(rng, *draw_any_shape(rng), dtype)


class AddNormsStridedRows(AddNormCheck):
    name = "finds the rows of three tensors by their own strides"
    points = 1
    draws = 2
    mistake = "one stride for all three"
    advice = "x, residual and out each have a stride(0) of their own: pass all three."


class AddNormsInFloat32(AddNormCheck):
    name = "computes in float32: |x| = 300 and more in float16"
    points = 1
    cpu, cuda = (torch.float16,), (torch.float16, torch.bfloat16)
    mistake = "squares in float16, whose largest number is 65504"
    advice = "Widen both right after the load, tl.load(...).to(tl.float32), and add the wide ones."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"x": draw_large(rng, 3, 100).to(dtype), "residual": draw_large(rng, 3, 100).to(dtype),
                "weight": (2 + randn(rng, 100)).to(dtype), "eps": 1e-5}


class AddNormStaysInside(StaysInside, AddNormCheck):
    pass


class AddNormLaunchesOnce(LaunchesOnce, AddNormCheck):
    pass


class AddNormLoadsOnce(LoadsOnce, AddNormCheck):
    pass


# 05.5 -----------------------------------------------------------------------------------------------------------------


class GateCheck(KernelCheck):
    kernel = "silu_and_mul_kernel"
    once = ("gate_up",)
    # 3.2e-7 and 1.8e-3; 1.2e-11 and 1.8e-7
    rtol, atol = tolerances(4e-6, 2e-2), tolerances(2e-10, 2e-6)

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        rows, width = draw_shape(rng)
        return {"gate_up": (2 * randn(rng, rows, 2 * width)).to(dtype), "gaps": draw_gaps(rng, "gate_up", "out")}

    def outputs(self, inputs: Values) -> dict[str, Tensor]:
        return {"out": inputs["gate_up"].chunk(2, dim=-1)[0]}

    def launch(self, lab: ModuleType, tensors: dict[str, Tensor], inputs: Values) -> None:
        lab.silu_and_mul(tensors["gate_up"], tensors["out"])

    def want(self, inputs: Values) -> dict[str, Tensor]:
        gate, up = inputs["gate_up"].double().chunk(2, dim=-1)
        return {"out": gate / (1 + torch.exp(-gate)) * up}


class GatesTheSameTwice(GateCheck):
    name = "gives silu(x) * x where gate and up are both x"
    points = 1
    mistake = "another activation, or a sum where a product belongs"
    advice = ("silu(gate) * up with silu(gate) = gate * tl.sigmoid(gate); `up` lies F elements behind its gate. Is row "
              "0 alone right? Then out.stride(0), which is out's own.")

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"gate_up": randn(rng, 4, 64).repeat(1, 2).to(dtype)}


class GatesTheFirstHalf(GateCheck):
    name = "takes the first half of a row as gate and the second as up"
    points = 1
    draws = 2
    mistake = "silu on the second half"
    advice = "The two halves are not alike: silu belongs on the first F columns."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"gate_up": randn(rng, 4, 128).to(dtype)}


class GatesAnyWidth(GateCheck):
    name = "handles rows of several blocks, the last of them ragged"
    points = 2
    draws = 3
    mistake = "one block a row, or a row that ends with its last full block"
    advice = "A row of F elements takes triton.cdiv(F, BLOCK) programs; program_id(1) can say which block it is about."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        rows, width = int(rng.choice([1, 2])), int(rng.choice([8191, 8193, 3 * integer(rng, 1400, 3300)]))
        return {"gate_up": (2 * randn(rng, rows, 2 * width)).to(dtype)}


class GatesStridedRows(GateCheck):
    name = "finds the rows of gate_up and of out by their own strides"
    points = 1
    draws = 2
    mistake = "takes 2 F and F for the distances between rows"
    advice = "Pass gate_up.stride(0) and out.stride(0): either may be more than the row is wide."


class SurvivesLargeGates(GateCheck):
    name = "stays finite for gates of several hundred"
    points = 1
    draws = 2
    mistake = "a form of silu in which exp overflows on both sides of a fraction"
    advice = "exp(300) is infinite: gate / (1 + exp(-gate)) survives that, gate * exp(gate) / (1 + exp(gate)) does not."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        gate = draw_large(rng, 3, 64) * torch.tensor([0.1, 0.5, 1.0])[:, None]
        return {"gate_up": torch.cat((gate, randn(rng, 3, 64)), dim=-1).to(dtype)}


class GateStaysInside(StaysInside, GateCheck):
    pass


class GateLaunchesOnce(LaunchesOnce, GateCheck):
    pass


class GateLoadsOnce(LoadsOnce, GateCheck):
    name = "loads each element once, in blocks of at most MAX_BLOCK"
    mistake = "a second load of the gates, or a block that grows with the row until registers run out"
    advice = "Load gate and up once each, and cut wide rows into blocks of at most MAX_BLOCK elements."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"gate_up": randn(rng, 2, 2 * integer(rng, 8193, 10_000)).to(dtype)}


# 05.6 -----------------------------------------------------------------------------------------------------------------


class RotateCheck(KernelCheck):
    kernel = "rotate_in_place_kernel"
    once = ("qk",)
    in_place = ("qk",)
    # Absolute, for numbers up to 6: 4.4e-7 and 2.0e-3
    rtol, atol = tolerances(0.0, 0.0), tolerances(5e-6, 2e-2)

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        half, values = int(rng.choice(HALVES)), integer(rng, 1, 4)  # so many heads lie between two tokens
        return (draw_turn(rng, integer(rng, 2, 5), int(rng.choice([3, 9, 11])), half, dtype)
                | {"gaps": {"qk": values * 2 * half}})

    def outputs(self, inputs: Values) -> dict[str, Tensor]:
        return {}

    def launch(self, lab: ModuleType, tensors: dict[str, Tensor], inputs: Values) -> None:
        lab.rotate_in_place(tensors["qk"], tensors["cos"], tensors["sin"])

    def want(self, inputs: Values) -> dict[str, Tensor]:
        turn = torch.complex(inputs["cos"].double(), inputs["sin"].double())[:, None]
        turned = torch.complex(*inputs["qk"].double().chunk(2, dim=-1)) * turn
        return {"qk": torch.cat((turned.real, turned.imag), dim=-1)}


HALVES = [3, 20, 31]  # of a head: few, for a GPU compiles a kernel for each


def draw_turn(rng: np.random.Generator, tokens: int, heads: int, half: int, dtype: torch.dtype) -> Values:
    angle = torch.from_numpy(rng.uniform(-3, 3, (tokens, half))).float()
    return {"qk": randn(rng, tokens, heads, 2 * half).to(dtype), "cos": angle.cos(), "sin": angle.sin()}


class TurnsAQuarter(RotateCheck):
    name = "turns single pairs by a quarter: (a, b) becomes (-b, a)"
    points = 1
    mistake = "turns the other way, or computes the second half from what the first has become"
    advice = "Load both halves before storing either: (a cos - b sin, b cos + a sin), here with cos = 0 and sin = 1."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"qk": randn(rng, 4, 1, 2).to(dtype), "cos": torch.zeros(4, 1), "sin": torch.ones(4, 1)}


class PairsTheHalves(RotateCheck):
    name = "pairs element i with i + D/2"
    points = 2
    draws = 2
    mistake = "pairs neighbours, as Meta's own checkpoints do"
    advice = "The partner of element i lies half a head further on: load at `first` and at `first + HALF`."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return draw_turn(rng, 3, 1, int(rng.choice(HALVES)), dtype)


class TurnsEachTokenByItsAngles(RotateCheck):
    name = "gives each token its own angles, and all its heads the same"
    points = 1
    draws = 2
    mistake = "takes the angles of another token, or moves on in them with each head"
    advice = "cos and sin are read at token * HALF + pair, whichever head is turned."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return draw_turn(rng, integer(rng, 3, 6), integer(rng, 2, 8), 8, dtype)


class TurnsAnyHead(RotateCheck):
    name = "handles any number of heads and any even D"
    points = 2
    draws = 4
    mistake = "leaves heads out, or turns pairs that belong to the next head"
    advice = "Heads and pairs both need a mask: (head < heads) & (pair < HALF), for tiles are powers of two."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        heads, half = int(rng.choice([1, 3, 9, 11])), int(rng.choice([1, *HALVES]))
        return draw_turn(rng, int(rng.choice([1, 3])), heads, half, dtype)


class LeavesTheValuesAlone(RotateCheck):
    name = "finds tokens by their stride and leaves the values between them alone"
    points = 1
    draws = 2
    mistake = "takes heads * D for the distance between tokens, and so turns values"
    advice = "qk is the front of rows that end in values: token n begins n * qk.stride(0) elements after the first."

    def judge(self, inputs: Values, outputs: Values) -> None:
        super().judge(inputs, outputs)
        if outputs["stray writes"]:
            raise Mismatch(f"{outputs['stray writes']} elements around the queries and keys were overwritten")


class RotateStaysInside(StaysInside, RotateCheck):
    advice = ("Foreign memory was touched, or cos or sin was changed: every tl.load and tl.store needs a mask, for "
              "tiles are powers of two, and neither the heads nor their pairs are.")


class RotateLaunchesOnce(LaunchesOnce, RotateCheck):
    advice = "Queries and keys are heads like others: turn them in one launch, whose grid has a program for each token."


class RotateLoadsOnce(LoadsOnce, RotateCheck):
    name = "loads each element once, in blocks of at most MAX_BLOCK"
    mistake = "a second load of a half, or a tile of all heads, however many there are"
    advice = "Load each half once, and turn many heads in several programs, with at most MAX_BLOCK elements in each."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return draw_turn(rng, 2, integer(rng, 33, 50), 256, dtype)


# 05.7 -----------------------------------------------------------------------------------------------------------------


class SoftmaxCheck(KernelCheck):
    kernel = "online_softmax_kernel"
    loads = 2
    # 5.7e-7 and 4.9e-4; 3.2e-11 and 3.0e-8
    rtol, atol = tolerances(6e-6, 5e-3), tolerances(4e-10, 3e-7)

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        columns = int(rng.choice([8191, 8193, 16_385, 3 * integer(rng, 1400, 6000)]))
        return {"x": randn(rng, integer(rng, 2, 3), columns).to(dtype), "gaps": draw_gaps(rng, "x", "out")}

    def launch(self, lab: ModuleType, tensors: dict[str, Tensor], inputs: Values) -> None:
        lab.online_softmax(tensors["x"], tensors["out"])

    def want(self, inputs: Values) -> dict[str, Tensor]:
        return {"out": inputs["x"].double().softmax(dim=-1)}


class SoftmaxOfOneTile(SoftmaxCheck):
    name = "gives the softmax of four rows of 64"
    points = 1
    mistake = "another formula than exp(x) over the sum of exp(x)"
    advice = "exp(x - maximum) over its sum: each row is positive and sums to 1."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"x": randn(rng, 4, 64).to(dtype)}


class SoftmaxOfManyTiles(SoftmaxCheck):
    name = "takes in all tiles of a long row, the last of them ragged"
    points = 2
    draws = 3
    mistake = "only the first tile, or zeros for what is masked off: exp(0) counts as much as a real score of 0"
    advice = ("Walk in steps of TILE while start < columns, and give the load other=-float('inf'), for exp(-inf) is 0. "
              "Is the old sum scaled down when the maximum grows?")

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"x": randn(rng, integer(rng, 1, 2), integer(rng, 8193, 20_000)).to(dtype)}


class RescalesTheSum(SoftmaxCheck):
    name = "scales the old sum down when a larger element comes"
    points = 2
    draws = 2
    mistake = "adds up terms that were taken from different maxima"
    advice = "The old sum was taken from the old maximum: scale it by exp(old - new) before the new tile's is added."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        columns = integer(rng, 17_000, 20_000)
        rising = torch.linspace(0, float(rng.uniform(2, 9)), columns)
        return {"x": (rising + randn(rng, 1, columns)).to(dtype)}


class SurvivesLargeScores(SoftmaxCheck):
    name = "stays finite with scores forty times as large"
    points = 1
    draws = 2
    mistake = "exp of the raw scores, which overflows above 88"
    advice = "Subtract the running maximum, tl.maximum(old, tl.max(x)), before exp: exp(89) is infinite in float32."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        x = 40 * randn(rng, 2, integer(rng, 5000, 10_000))
        x[:, integer(rng, 0, 4999)] = 300
        return {"x": x.to(dtype)}


class SurvivesEmptyTiles(SoftmaxCheck):
    name = "gives 0 for -inf, even where a whole tile holds nothing else"
    points = 2
    draws = 2
    mistake = "a running maximum that starts at -inf: exp(-inf - -inf) is NaN"
    advice = "After a tile of nothing but -inf the maximum must still be a number: start at the lowest finite one."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        columns = integer(rng, 17_000, 20_000)
        x = randn(rng, 3, columns)
        x[0, :integer(rng, 8192, 16_900)] = -float("inf")
        x[1, integer(rng, 1, 8000):] = -float("inf")
        x[2, torch.from_numpy(rng.random(columns)) < 0.5] = -float("inf")
        x[2, 5] = 0
        return {"x": x.to(dtype)}


class SoftmaxOfStridedRows(SoftmaxCheck):
    name = "finds the rows of x and of out by their own strides"
    points = 1
    draws = 2
    mistake = "one stride for both, or the number of columns in its place"
    advice = "x.stride(0) and out.stride(0) are two numbers: pass both, and use each with its own pointer."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return super().draw(rng, dtype) | {"x": randn(rng, 4, int(rng.choice([1, integer(rng, 513, 1023)]))).to(dtype)}


class SoftmaxStaysInside(StaysInside, SoftmaxCheck):
    pass


class SoftmaxLaunchesOnce(LaunchesOnce, SoftmaxCheck):
    pass


class SoftmaxLoadsTwice(LoadsOnce, SoftmaxCheck):
    name = "loads each element twice at most, in blocks of at most MAX_BLOCK"
    points = 3
    mistake = "three passes: one for the maximum, one for the sum, one to write; or a block as wide as the row"
    advice = "Maximum and sum come from one pass, tile after tile of at most MAX_BLOCK elements; a second pass writes."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"x": randn(rng, 1, integer(rng, 8193, 20_000)).to(dtype)}


LESSON = Lesson("05", "triton_kernels", "Triton kernels", minutes=90, exercises=(
    Exercise("05.1", "Predict a kernel's time", "predict_seconds", minutes=5, difficulty=1,
             checks=(PredictsACopy(), CountsBytes(), CountsInPlaceTwice(), CountsTheSliceAlone(), NeverBelowALaunch())),
    Exercise("05.2", "Reduce each row to a number", "row_mean_square", minutes=10, difficulty=2,
             checks=(ReducesFourRows(), ReducesAnyWidth(), ReduceStaysInside(), ReducesStridedRows(),
                     ReducesInFloat32(), ReduceLaunchesOnce(), ReduceLoadsOnce())),
    Exercise("05.3", "RMSNorm in one kernel", "rms_norm", minutes=10, difficulty=2,
             checks=(NormsFourRows(), ScalesByTheWeight(), AddsEpsInsideTheRoot(), NormsAnyWidth(), NormStaysInside(),
                     NormsStridedRows(), NormsInFloat32(), NormLaunchesOnce(), NormLoadsOnce())),
    Exercise("05.4", "Add to the stream, and norm it", "add_rms_norm", minutes=10, difficulty=2,
             checks=(AddsToAnEmptyStream(), AddsToTheResidual(), NormsTheSum(), AddNormStaysInside(),
                     AddNormsAnyWidth(), AddNormsStridedRows(), AddNormsInFloat32(), AddNormLaunchesOnce(),
                     AddNormLoadsOnce())),
    Exercise("05.5", "SiLU and multiply", "silu_and_mul", minutes=10, difficulty=2,
             checks=(GatesTheSameTwice(), GatesTheFirstHalf(), GateStaysInside(), GatesAnyWidth(), GatesStridedRows(),
                     SurvivesLargeGates(), GateLaunchesOnce(), GateLoadsOnce())),
    Exercise("05.6", "Rotate queries and keys in place", "rotate_in_place", minutes=15, difficulty=3,
             checks=(TurnsAQuarter(), PairsTheHalves(), TurnsEachTokenByItsAngles(), TurnsAnyHead(),
                     RotateStaysInside(), LeavesTheValuesAlone(), RotateLaunchesOnce(), RotateLoadsOnce())),
    Exercise("05.7", "Softmax of rows that fit nowhere", "online_softmax", minutes=20, difficulty=4,
             checks=(SoftmaxOfOneTile(), SoftmaxOfManyTiles(), RescalesTheSum(), SurvivesLargeScores(),
                     SurvivesEmptyTiles(), SoftmaxStaysInside(), SoftmaxOfStridedRows(), SoftmaxLaunchesOnce(),
                     SoftmaxLoadsTwice())),
))
