"""Run the checks of one exercise: draw here, drive there, judge here. The grader and the notebooks both call this."""
import secrets
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from common.checking.exercise import Check, Exercise, Mismatch
from common.checking.lab import explain, load_lab
from common.checking.refuse import refusing
from common.checking.wire import NotPlain, pack, unpack
from common.device import DEVICE

# (exercise, check, packed inputs) -> packed outputs, wherever the learner's code lives
Driver = Callable[[Exercise, Check, bytes], bytes]


class LabError(Exception):
    """The learner's side gave no outputs. `stub` is true where the exercise has not been begun."""

    def __init__(self, message: str, stub: bool = False):
        super().__init__(message)
        self.stub = stub


@dataclass(frozen=True)
class Outcome:
    """How one check ended. `message` is empty for a pass, else the whole diagnosis without the property's name."""

    check: Check
    status: Literal["passed", "failed", "stub"]
    message: str = ""


def new_seed() -> int:
    return secrets.randbits(32)


def run_exercise(exercise: Exercise, device: str, seed: int, drive: Driver) -> Iterator[Outcome]:
    """The outcome of every check that has meaning on `device`, in order."""
    for check in exercise.checks:
        if getattr(check, device):
            yield run_check(exercise, check, device, seed, drive)


def run_check(exercise: Exercise, check: Check, device: str, seed: int, drive: Driver) -> Outcome:
    """Passed only if every draw in every dtype of this device passes; otherwise the first failure's diagnosis."""
    for dtype in getattr(check, device):
        # Each check has a stream of its own, so that one alone repeats what it did among the others.
        rng = np.random.default_rng([seed, zlib.crc32(f"{exercise.id} {check.name} {dtype}".encode())])
        for _ in range(check.draws):
            inputs = check.draw(rng, dtype)
            repeat = f"Inputs in {str(dtype).removeprefix('torch.')}; seed {seed}."
            try:
                reply = drive(exercise, check, pack(inputs))
            except LabError as error:
                return Outcome(check, "stub" if error.stub else "failed", str(error))
            try:
                check.judge(inputs, unpack(reply))
            except Mismatch as mismatch:
                return Outcome(check, "failed", f"{check.advice}\n{mismatch}\n{repeat}")
            except Exception as error:  # a reply of a form that no honest `drive` sends
                return Outcome(check, "failed", f"{check.advice}\nThe outputs could not be judged "
                                                f"({type(error).__name__}: {error}).\n{repeat}")
    return Outcome(check, "passed")


def perform(lesson_name: str, exercise: Exercise, check: Check, request: bytes) -> bytes:
    """The learner's side of one check, in whichever process it runs: load the lab, drive it, pack what came out."""
    inputs = unpack(request, DEVICE)
    try:
        with refusing(exercise.refused, exercise.id):
            lab = load_lab(lesson_name)
            if not hasattr(lab, exercise.symbol):
                raise LabError(f"labs/{lesson_name}.py has no `{exercise.symbol}`: it was renamed or removed. "
                               f"`make reset LAB=...` restores the stub and keeps your file beside it.")
            return pack(check.drive(lab, inputs))
    except LabError:
        raise
    except NotPlain as error:
        raise LabError(f"`{exercise.symbol}` did not return what its docstring promises: {error}.") from None
    except NotImplementedError as error:
        raise LabError(explain(error), stub=True) from None
    except torch.OutOfMemoryError as error:
        raise LabError(f"out of memory: {error}") from None
    except Exception as error:
        raise LabError(explain(error)) from None
