"""The lessons in teaching order, each a package that holds all that it checks, measures and draws.

This is the registry. `notebooks/source/NN_name.py` makes `name` lesson NN, and `common/lessons/name/` holds

    __init__.py       LESSON, whose exercises come from one module each, named by its subject
    shared.py         what several exercises of this lesson need, if anything
    timings.py        points(device): what `make timings` measures, if anything (common/measure/run.py)
    figures.py        FIGURES: what `make plots` draws from that (common/measure/plots.py)

Listing and choosing lessons needs no torch; `lessons()` imports their packages, and so torch.
"""
import importlib
import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from common import ROOT

if TYPE_CHECKING:
    from common.checking.exercise import Exercise, Lesson

SOURCES = ROOT / "notebooks" / "source"


class UnknownLesson(ValueError):
    """No lesson has this number; one sentence that lists those there are, or names the file to rename."""


def lesson_names(sources: Path = SOURCES) -> dict[str, str]:
    """Every lesson's name by its number, in teaching order: {"00": "start_here", ...}."""
    found = {}
    for path in sorted(sources.glob("*.py")):
        match = re.fullmatch(r"(\d\d)_([a-z]\w*)", path.stem)
        if match is None or match[1] in found:
            raise UnknownLesson(f"{path}: name it NN_topic.py, with a number NN that no other lesson has.")
        found[match[1]] = match[2]
    return found


def choose(lab: str, sources: Path = SOURCES) -> tuple[str, str]:
    """Number and name of the lesson that LAB means; "3" and "03" both do."""
    known, number = lesson_names(sources), lab.strip().zfill(2)
    if not lab.strip() or number not in known:  # nothing at all would be filled up to 00
        wrong = f"There is no lesson {lab!r}" if lab.strip() else "Say which lesson, as in LAB=00"
        raise UnknownLesson(f"{wrong}: {', '.join(f'{number} {name}' for number, name in known.items())}.")
    return number, known[number]


@cache
def lessons() -> tuple["Lesson", ...]:
    return tuple(find_lesson(number) for number in lesson_names())


def find_lesson(lab: str) -> "Lesson":
    """The lesson that LAB means; of all packages only its own is imported."""
    _, name = choose(lab)
    return importlib.import_module(f"common.lessons.{name}").LESSON


def find_exercise(id: str) -> tuple["Lesson", "Exercise"]:
    known = [(lesson, exercise) for lesson in lessons() for exercise in lesson.exercises]
    for lesson, exercise in known:
        if exercise.id == id:
            return lesson, exercise
    raise ValueError(f"There is no exercise {id!r}; there are {', '.join(exercise.id for _, exercise in known)}.")


def modules(name: str) -> list[ModuleType]:
    """The module `name` ("timings" or "figures") of every lesson that has one, in teaching order."""
    packages = [f"common.lessons.{lesson}" for lesson in lesson_names().values()]
    return [importlib.import_module(f"{package}.{name}") for package in packages
            if importlib.util.find_spec(f"{package}.{name}")]
