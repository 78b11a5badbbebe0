"""Lessons add up: what a learner has written and passed becomes a part of the engine; the reference lends the rest.

`grade/passed.json` remembers, for every lab file that was ever checked or graded, by its content, which exercises it
passed. So grading one lesson forgets nothing of another, and an edit makes parts borrowed until they pass again. No
points depend on it.
"""
import hashlib
import json
from functools import cache
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.table import Table

from common import GRADE, ROOT, labs_folder
from common.checking.lab import load_file, load_lab
from common.files import write_atomically
from common.lessons import find_exercise, lessons

PASSED = GRADE / "passed.json"
REFERENCE = ROOT / "solutions"


def part(id: str) -> Any:
    """The symbol of exercise `id` ("03.1"): the learner's if this very file passes it, else the reference's.

    The second is printed, with the mark *borrowed*. Raises ValueError for an id that no exercise has.
    """
    lesson, exercise = find_exercise(id)
    if is_mine(lesson.name, id):
        return getattr(learners(lesson.name, fingerprint(lesson.name)), exercise.symbol)
    print(f"{id} {exercise.symbol}: borrowed from the reference, until yours passes: check('{id}').")
    return getattr(reference(lesson.name), exercise.symbol)


def is_mine(lesson_name: str, id: str) -> bool:
    """Whether the saved lab passes exercise `id`. The reference, as LABS=solutions, passes all."""
    return labs_folder() == REFERENCE or id in passed_by(fingerprint(lesson_name))


@cache
def learners(lesson_name: str, file: str) -> ModuleType:
    """One module for all parts that come from the same version of a lab, so that they know each other's classes."""
    return load_lab(lesson_name)


@cache
def reference(lesson_name: str) -> ModuleType:
    """The worked solution, as a module beside the learner's: `labs` stays what it is."""
    return load_file(REFERENCE / f"{lesson_name}.py", f"solutions.{lesson_name}")


def fingerprint(lesson_name: str) -> str:
    """What tells one version of a lab from every other; "" where there is no file."""
    file = labs_folder() / f"{lesson_name}.py"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""


def passed_by(file: str) -> set[str]:
    return set(remembered().get(file, ()))


def record(file: str, id: str, passed: bool) -> None:
    """Remember how the lab whose fingerprint is `file` did in exercise `id`."""
    known = remembered()
    ids = set(known.get(file, ())) | {id} if passed else set(known.get(file, ())) - {id}
    if ids != set(known.get(file, ())):
        write_atomically(PASSED, json.dumps(known | {file: sorted(ids)}, indent=1) + "\n")


def remembered() -> dict[str, list[str]]:
    """Nothing where the file is missing or damaged: grading again brings it back."""
    try:
        return dict(json.loads(PASSED.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def main() -> None:
    """`make progress`: which parts of the engine are the learner's."""
    table = Table(title="Whose parts the engine has", title_style="bold")
    for column in ("exercise", "part", "whose"):
        table.add_column(column, no_wrap=column != "part")
    mine = 0
    for lesson in lessons():
        for exercise in lesson.exercises:
            is_yours = is_mine(lesson.name, exercise.id)
            mine += is_yours
            table.add_row(exercise.id, exercise.title, "[green]yours[/]" if is_yours else "[dim]borrowed[/]")
    console = Console()
    console.print(table)
    parts = sum(len(lesson.exercises) for lesson in lessons())
    console.print(f"{mine} of {parts} parts are yours. What passes `check` or `make grade` is yours.", highlight=False)


if __name__ == "__main__":
    main()
