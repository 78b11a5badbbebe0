"""Lessons, exercises and checks: the words in which every package of `common/lessons` is written.

A check is one named property. Its three parts never share memory in the grader:

    draw(rng, dtype) -> inputs        trusted process: fresh random inputs
    drive(lab, inputs) -> outputs     beside the learner's code: call it, report what it did
    judge(inputs, outputs)            trusted process: compare with an oracle, raise Mismatch

Inputs and outputs are dictionaries of plain tensors, numbers, strings, lists and None (wire.py). Whatever else the
learner's code needs (strides, guard margins, a model, counters) is made by `drive`.

Checks are values. What the checks of an exercise have in common is written once, as a subclass of `Check` that defines
the three parts; what sets one apart is a field of that subclass, often a function that draws.
"""
from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch

Values = dict[str, Any]
Rng = np.random.Generator
DTypes = tuple[torch.dtype, ...]

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
# Of a Triton kernel: its interpreter works on the bit patterns of bfloat16, so the CPU goes without.
KERNEL_ON_CPU, KERNEL_ON_GPU = (F32, F16), (F32, F16, BF16)


class Mismatch(Exception):
    """The outputs are not what the property asks for; the message says where they differ."""


@dataclass(frozen=True)
class Check(ABC):
    """One property of one exercise. The worked example, with small, square, aligned inputs, comes first in its list."""

    name: str  # the property, as the end of the sentence "this function ..."
    points: int
    _: KW_ONLY
    advice: str  # the sentence that a learner reads when it fails
    draws: int = 1  # how many fresh inputs one run tries
    seconds: float = 20  # the time limit of one `drive`
    # Where the property has meaning. There, not having run is never a pass.
    cpu: DTypes = (F32,)
    cuda: DTypes = (F32,)

    @abstractmethod
    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        """Fresh inputs, which show the mistake that this check is there for, whatever the seed."""

    @abstractmethod
    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        """What the lab makes of these inputs, and whatever else is to be judged."""

    @abstractmethod
    def judge(self, inputs: Values, outputs: Values) -> None:
        """Raise Mismatch unless the outputs have the property."""


@dataclass(frozen=True)
class Exercise:
    """One thing to write. `refused` are the dotted library names that would be its answer (refuse.py)."""

    id: str
    title: str
    symbol: str
    minutes: int
    difficulty: int  # 1 (read and type) to 5 (an evening)
    checks: tuple[Check, ...]
    refused: tuple[str, ...] = ()

    @property
    def points(self) -> int:
        return sum(check.points for check in self.checks)


@dataclass(frozen=True)
class Lesson:
    """One notebook: `notebooks/<number>_<name>.ipynb`, whose lab is `labs/<name>.py`."""

    number: str
    name: str
    title: str
    minutes: int
    exercises: tuple[Exercise, ...]

    @property
    def lab_file(self) -> str:
        return f"labs/{self.name}.py"

    @property
    def points(self) -> int:
        return sum(exercise.points for exercise in self.exercises)
