"""`make lesson NAME=paged_kv NUMBER=08`: the files of a new lesson, its first exercise graded at once."""
import keyword
import re
from importlib.util import find_spec
from pathlib import Path
from string import Template

from common import ROOT
from common.authoring import AuthoringError
from common.files import write_atomically
from common.lessons import SOURCES, lesson_names

TEMPLATES = Path(__file__).parent / "skeleton"
FILES = {  # where each template goes
    "solution.py.txt": "solutions/{name}.py",
    "package.py.txt": "common/lessons/{name}/__init__.py",
    "exercise.py.txt": "common/lessons/{name}/running_sum.py",
    "mutants.toml.txt": "tests/mutants/{name}.toml",
    "alternative.py.txt": "tests/alternatives/{name}.py",
    "notebook.py.txt": "notebooks/source/{number}_{name}.py",
}


def write_skeleton(number: str, name: str, root: Path = ROOT) -> list[str]:
    """Write all files of lesson `number` `name`. Returns their names. Raises AuthoringError, having written nothing."""
    taken = lesson_names(root / SOURCES.relative_to(ROOT))
    if not re.fullmatch(r"\d\d", number) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise AuthoringError("Say which lesson, as in make lesson NAME=paged_kv NUMBER=08: NAME is lower-case letters, "
                             "digits and underscores, NUMBER has two digits.")
    if keyword.iskeyword(name) or find_spec(name):
        raise AuthoringError(f"{name} is a word of Python's, or a module that is installed: give another NAME.")
    if number in taken or name in taken.values():
        raise AuthoringError(f"Number {number} or name {name} is taken: "
                             f"{', '.join(f'{number} {name}' for number, name in taken.items())}.")
    files = {template: place.format(number=number, name=name) for template, place in FILES.items()}
    present = [file for file in files.values() if (root / file).exists()]
    if present:
        raise AuthoringError(f"{', '.join(present)} exist already, and are not overwritten: move them away first.")
    title = name.replace("_", " ").capitalize()
    for template, file in files.items():
        text = Template((TEMPLATES / template).read_text()).substitute(number=number, name=name, title=title)
        write_atomically(root / file, text)
    return list(files.values())
