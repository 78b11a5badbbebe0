"""Lessons, exercises and checks: the words in which every lesson's `common/checks/<lesson>.py` is written.

A check is one named property. Its three parts never share memory in the grader:

    draw(rng, dtype) -> inputs        trusted process: fresh random inputs
    drive(lab, inputs) -> outputs     beside the learner's code: call it, report what it did
    judge(inputs, outputs)            trusted process: compare with an oracle, raise Mismatch

Inputs and outputs are dictionaries of plain tensors, numbers, strings, lists and None (wire.py). Whatever else the
learner's code needs (strides, guard margins, a model, counters) is made by `drive`.
"""
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch

Values = dict[str, Any]
DTypes = tuple[torch.dtype, ...]


class Mismatch(Exception):
    """The outputs are not what the property asks for; the message says where they differ."""


class Check(ABC):
    """One property of one exercise. The worked example, with small, square, aligned inputs, comes first in its list."""

    name: str  # the property, as the end of the sentence "this function ..."
    points: int
    mistake: str  # the exact mistake that this check is there to catch
    advice: str  # the sentence that a learner reads when it fails
    draws: int = 1  # how many fresh inputs one run tries
    seconds: float = 20  # the time limit of one `drive`
    # Where the property has meaning. There, not having run is never a pass.
    cpu: DTypes = (torch.float32,)
    cuda: DTypes = (torch.float32,)

    @abstractmethod
    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values: ...

    @abstractmethod
    def drive(self, lab: ModuleType, inputs: Values) -> Values: ...

    @abstractmethod
    def judge(self, inputs: Values, outputs: Values) -> None: ...


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
