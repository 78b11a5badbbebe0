"""Imports run one way (the contracts in pyproject.toml), and what a learner's file may import is named here."""
import ast
import subprocess
import sys

import pytest

from common import ROOT

# Beside the standard library. `jaxtyping` writes shapes into signatures; `einops` is there for whoever likes it.
FOR_LABS = {"torch", "triton", "jaxtyping", "einops", "common.model", "common.engine"}


def test_the_course_imports_one_way():
    pytest.importorskip("importlinter")
    script = "from importlinter.cli import lint_imports; import sys; sys.exit(lint_imports(no_cache=True))"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]


@pytest.mark.parametrize("file", sorted((ROOT / "solutions").glob("*.py")), ids=lambda file: file.stem)
def test_solutions_import_the_subject_only(file):
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    foreign = {name for name in found if name.split(".")[0] not in sys.stdlib_module_names
               and not any(name == allowed or name.startswith(f"{allowed}.") for allowed in FOR_LABS)}
    assert not foreign, f"{file.name} imports {sorted(foreign)}: move what it needs to common.model"


def test_lessons_are_listed_and_chosen_without_torch():
    script = ("import sys; from common.lessons import choose, lesson_names; "
              "assert choose('3') == ('03', lesson_names()['03']); sys.exit('torch' in sys.modules)")
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
