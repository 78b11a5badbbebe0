"""Refuse, during one exercise, the library functions that would be its answer.

Only calls that come straight from a lab are refused: the rest of the course may go on using them. This keeps an honest
learner on the path; it is no wall against a determined cheat.
"""
import functools
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch


class Refused(Exception):
    """A lab called what it is asked to write."""


@contextmanager
def refusing(names: Iterable[str], exercise_id: str) -> Iterator[None]:
    """Within the block, labs that call one of `names` ("torch.nn.functional.silu") get `Refused`."""
    with ExitStack() as stack:
        for name in names:
            owner, attribute = find_owner(name)
            guard = refuse_labs(getattr(owner, attribute), name, exercise_id)
            stack.enter_context(patch.object(owner, attribute, guard))
        yield


def find_owner(name: str) -> tuple[Any, str]:
    """The module or class that holds the last part of a dotted name."""
    *path, attribute = name.split(".")
    owner = importlib.import_module(path[0])
    for depth, part in enumerate(path[1:], start=2):
        if not hasattr(owner, part):
            importlib.import_module(".".join(path[:depth]))
        owner = getattr(owner, part)
    return owner, attribute


def refuse_labs(function: Callable, name: str, exercise_id: str) -> Callable:
    @functools.wraps(function)
    def guard(*args, **kwargs):
        if sys._getframe(1).f_globals.get("__name__", "").startswith("labs."):
            raise Refused(f"{name} is the answer to {exercise_id}: write it from simpler operations.")
        return function(*args, **kwargs)

    return guard
