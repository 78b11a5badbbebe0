"""One name for a lesson and one id for an exercise, everywhere. A failure says which file to add or name to mend."""
import ast
import re
import tomllib
from collections import Counter

import jupytext
import pytest

from common import ROOT
from common.authoring.stubs import LABS, SOLUTIONS, definitions, exercise_id, holds_work, make_stub, recorded_hashes
from common.lessons import SOURCES, lesson_names, lessons

PLACES = (  # where each lesson has a file
    "notebooks/{number}_{name}.ipynb",
    "labs/{name}.py",
    "solutions/{name}.py",
    "common/lessons/{name}/__init__.py",
    "tests/mutants/{name}.toml",
    "tests/alternatives/{name}.py",
)


def registered():
    try:
        return {lesson.number: lesson for lesson in lessons()}
    except ModuleNotFoundError as error:
        package = error.name.replace(".", "/")
        pytest.fail(f"{package}/ is missing: docs/add_a_lesson.md says how to make it", pytrace=False)


@pytest.fixture(params=[pytest.param(number, id=f"{number}_{name}") for number, name in lesson_names().items()])
def lesson(request):
    """Each lesson of the registry in turn."""
    return registered()[request.param]


def source_of(lesson):
    return SOURCES / f"{lesson.number}_{lesson.name}.py"


def cells_of(lesson, kind):
    notebook = jupytext.read(source_of(lesson), fmt="py:percent")
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def test_the_registry_holds_the_lessons_that_have_a_source():
    assert lesson_names(), "no lesson at all: notebooks/source/ is empty"
    names = {number: lesson.name for number, lesson in registered().items()}
    assert names == lesson_names(), "correct number and name of LESSON in common/lessons/: the source's file has others"


def test_every_lesson_has_its_file_in_every_place():
    missing = [
        file
        for number, name in lesson_names().items()
        for place in PLACES
        if not (ROOT / (file := place.format(number=number, name=name))).is_file()
    ]
    assert not missing, f"add {', '.join(missing)}: docs/add_a_lesson.md says how"


def is_helper(path, place):
    """A file beside the lessons' own that belongs to no lesson: a package's head, or a saved lab."""
    return ".saved-" in path.name or (path.name == "__init__.py" and not place.endswith(path.name))


@pytest.mark.parametrize("place", PLACES)
def test_no_file_is_left_of_a_lesson_without_a_source(place):
    expected = {ROOT / place.format(number=number, name=name) for number, name in lesson_names().items()}
    there = {path for path in ROOT.glob(place.format(number="*", name="*")) if not is_helper(path, place)}
    stray = sorted(str(path.relative_to(ROOT)) for path in there - expected)
    assert not stray, f"{stray} are of no lesson in notebooks/source/: rename or remove them"


def test_exercises_are_numbered_in_order(lesson):
    ids = [exercise.id for exercise in lesson.exercises]
    assert ids == [f"{lesson.number}.{n}" for n in range(1, len(ids) + 1)], f"renumber common/lessons/{lesson.name}/"


def test_the_notebook_heads_and_checks_every_exercise_once(lesson):
    ids = [exercise.id for exercise in lesson.exercises]
    text, code = "\n".join(cells_of(lesson, "markdown")), "\n".join(cells_of(lesson, "code"))
    headed = re.findall(r"^### (\d\d\.\d)\b", text, re.MULTILINE)
    checked = re.findall(r'^check\("(\d\d\.\d)"\)$', code, re.MULTILINE)
    assert headed == ids, f"{source_of(lesson)}: head each exercise once, as in `### {ids[0]} Title`"
    assert checked == ids, f'{source_of(lesson)}: check each exercise once, on a line of its own: check("{ids[0]}")'


def test_the_notebook_states_the_minutes_and_difficulties_of_the_registry(lesson):
    text = "\n".join(cells_of(lesson, "markdown"))
    difficulties = sorted({exercise.difficulty for exercise in lesson.exercises})
    span = "–".join(map(str, dict.fromkeys((difficulties[0], difficulties[-1]))))
    assert f"\n{lesson.minutes} minutes · difficulty {span} of 5 · you need: " in text, source_of(lesson)
    line = r"^\*(\d+) minutes · difficulty (\d) · (?:.|\n)*?`check\(\"(\d\d\.\d)\"\)`\*$"
    lines = re.findall(line, text, re.MULTILINE)
    assert lines == [(str(exercise.minutes), str(exercise.difficulty), exercise.id) for exercise in lesson.exercises]


def exercises_in(text):
    """(name, id) of all definitions whose docstring begins with an exercise id."""
    return {(node.name, exercise_id(node)) for node in definitions(ast.parse(text)) if exercise_id(node)}


def test_every_exercise_is_in_the_solution_and_in_the_lab(lesson):
    solution = (SOLUTIONS / f"{lesson.name}.py").read_text()
    lab = LABS / f"{lesson.name}.py"
    texts = {f"solutions/{lesson.name}.py": solution}
    if not holds_work(lab, make_stub(solution, lesson.name).encode(), recorded_hashes(LABS)):
        texts[lesson.lab_file] = lab.read_text()
    wanted = {(exercise.symbol, exercise.id) for exercise in lesson.exercises}
    for file, text in texts.items():
        found = exercises_in(text)
        lacking = wanted - found
        assert not lacking, f"{file}: begin the docstring of each symbol with its id: {sorted(lacking)}"
        unknown = {id for _, id in found} - {exercise.id for exercise in lesson.exercises}
        assert not unknown, f"{file} has exercises that common/lessons/{lesson.name}/ lacks: {sorted(unknown)}"


def test_check_names_are_unique(lesson):
    """The grader, the report and the mutants find a check of an exercise by its name."""
    for exercise in lesson.exercises:
        names = [check.name for check in exercise.checks]
        assert names and len(names) == len(set(names)), f"{exercise.id} in common/lessons/{lesson.name}/: {names}"


def test_mutants_fit_the_solution_and_name_real_checks(lesson):
    file = f"tests/mutants/{lesson.name}.toml"
    mutants = tomllib.loads((ROOT / file).read_text())["mutant"]
    solution = (SOLUTIONS / f"{lesson.name}.py").read_text()
    checks = {exercise.id: [check.name for check in exercise.checks] for exercise in lesson.exercises}
    repeated = [name for name, count in Counter(mutant["name"] for mutant in mutants).items() if count > 1]
    assert not repeated, f"{file}: two mutants are named {repeated}"
    for mutant in mutants:
        where = f"{file}, mutant {mutant['name']!r}"
        assert not mutant.keys() - {"name", "exercise", "check", "find", "replace", "plain_wrong"}, where
        assert mutant["exercise"] in checks, f"{where}: there is no exercise {mutant['exercise']}"
        known = checks[mutant["exercise"]]
        assert mutant["check"] in known, f"{where}: `check` is none of {known}"
        assert solution.count(mutant["find"]) == 1, f"{where}: `find` must occur once in solutions/{lesson.name}.py"
        for part in ("find", "replace"):
            assert len(mutant[part].strip("\n").split("\n")) <= 3, f"{where}: `{part}` is longer than three lines"
        assert mutant["find"] != mutant["replace"], f"{where}: it changes nothing"
        compile(solution.replace(mutant["find"], mutant["replace"]), where, "exec")  # a mutant is wrong, not broken
    unprotected = checks.keys() - {mutant["exercise"] for mutant in mutants}
    assert not unprotected, f"{file}: add a mutant for {sorted(unprotected)}"
