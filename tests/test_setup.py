"""The set-up: one list of pins for pip, make and conda, and a sentence for everything that can go wrong."""
import ast
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from common import ROOT
from common.setup_venv import explain

MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINNED = {canonicalize_name(pin.name) for pin in PINS}

needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


# --- One list of versions ---

def test_conda_passes_pip_the_arguments_of_the_makefile():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    [conda] = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    [make] = re.findall(r"^PIP_ARGS := (.*)$", MAKEFILE, re.MULTILINE)
    assert " ".join(conda).split() == make.split()


def test_conda_asks_for_a_python_that_the_project_takes():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    [python] = [entry for entry in environment["dependencies"] if str(entry).startswith("python=")]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python.removeprefix("python="))


def test_every_constraint_is_one_exact_public_version():
    for pin in PINS:
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), f"{pin} has to be one exact version, with no +local part"
        assert not pin.url, f"{pin} would be fetched from a fixed address"
    assert len(PINNED) == len(PINS), "a package is pinned twice"


def test_every_package_that_a_set_up_brings_is_pinned():
    """Follows the dependencies through what is installed here. CUDA's wheels are exempt: torch pins them itself."""
    waiting, seen, unpinned = list(PROJECT["dependencies"]), set(), set()
    while waiting:
        needed = Requirement(waiting.pop())
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        name = canonicalize_name(needed.name)
        if name in seen or name.startswith(("nvidia-", "cuda-")):
            continue
        seen.add(name)
        if name not in PINNED:
            unpinned.add(name)
        try:
            waiting += requires(name) or []
        except PackageNotFoundError:  # a machine used with VENV= may lack some
            pass
    assert not unpinned


# --- The Makefile ---

@pytest.fixture
def clone(tmp_path):
    """What the set-up needs of the repository, in a folder whose name has a space."""
    clone = tmp_path / "my clone"
    (clone / "common").mkdir(parents=True)
    for name in ("Makefile", "constraints.txt", "pyproject.toml", "common/setup_venv.py"):
        shutil.copy(ROOT / name, clone / name)
    return clone


def run_make(clone: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """`make` as a user types it, without what an outer `make test` hands down."""
    inherited = {name: value for name, value in os.environ.items()
                 if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "VENV", "PYTHON3", "LAB", "LABS", "PYTHONPATH")}
    return subprocess.run(["make", *arguments], cwd=clone, env=inherited | environment, text=True, timeout=60,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def closing_sentence(made: subprocess.CompletedProcess) -> str:
    """The last line of a make that failed, make's own closing line aside."""
    assert made.returncode != 0
    assert "Traceback" not in made.stdout
    return [line for line in made.stdout.splitlines() if not line.startswith("make")][-1]


def python_with(folder: Path, change: str) -> str:
    """A Python that runs scripts as this one does, after the statement `change`: a machine that lacks something."""
    (folder / "fake.py").write_text(f"""
import runpy, sys
{change}
sys.argv = sys.argv[2:]  # without -I
runpy.run_path(sys.argv[0], run_name="__main__")
""")
    fake = folder / "python3"
    fake.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder}/fake.py" "$@"\n')
    fake.chmod(0o755)
    return str(fake)


@needs_make
def test_help_is_the_default_and_lists_every_target(clone):
    [targets] = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    listed = run_make(clone).stdout
    assert listed == run_make(clone, "help").stdout
    for target in targets.split():
        assert re.search(rf"^  make {target} +\w", listed, re.MULTILINE), f"make help does not list {target}"


@needs_make
def test_clean_leaves_the_learners_work_alone(clone):
    kept = [clone / "work/mine.ipynb", clone / "work/__pycache__/mine", clone / "labs/start_here.py",
            clone / "labs/__pycache__/mine", clone / ".venv/lib/__pycache__/x.pyc", clone / "common/setup_venv.py"]
    removed = [clone / "grade/results.json", clone / "common/__pycache__/x.pyc", clone / ".pytest_cache/x"]
    for file in kept + removed:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert run_make(clone, "clean").returncode == 0
    assert [file for file in kept if not file.exists()] == []
    assert [file for file in removed if file.exists()] == []


@needs_make
def test_work_gets_missing_notebooks_and_overwrites_none(clone):
    (clone / "notebooks").mkdir()
    (clone / "work").mkdir()
    for name in ("00_a.ipynb", "01_b.ipynb"):
        (clone / "notebooks" / name).write_text("pristine")
    (clone / "work" / "00_a.ipynb").write_text("the learner's")
    assert run_make(clone, "work").returncode == 0
    assert (clone / "work" / "00_a.ipynb").read_text() == "the learner's"
    assert (clone / "work" / "01_b.ipynb").read_text() == "pristine"
    assert sorted(file.name for file in (clone / "work").iterdir()) == ["00_a.ipynb", "01_b.ipynb"]


@needs_make
def test_an_empty_venv_uses_this_shells_python_and_installs_nothing(clone):
    (clone / "common" / "__init__.py").touch()
    (clone / "common" / "doctor.py").write_text("import os, sys; print('ran', sys.path[0], os.environ['PYTHONPATH'])")
    made = run_make(clone, "doctor", "VENV=", f"PYTHON3={sys.executable}")
    assert made.stdout == f"ran {clone} {clone}\n"
    assert not (clone / ".venv").exists()


# --- What can go wrong ---

@needs_make
def test_no_python(clone):
    said = closing_sentence(run_make(clone, "doctor", "PYTHON3=python3.99"))
    assert said.startswith("There is no python3.99 here: install Python 3.11 or newer")


@needs_make
def test_python_too_old(clone, tmp_path):
    old = python_with(tmp_path, "sys.version_info = (3, 9, 18)")
    said = closing_sentence(run_make(clone, "doctor", f"PYTHON3={old}"))
    assert "is Python 3.9, and the course needs 3.11 or newer: install one" in said


def test_an_old_python_can_read_the_script_that_tells_so():
    ast.parse((ROOT / "common" / "setup_venv.py").read_text(), feature_version=(3, 6))


@needs_make
def test_no_python3_venv(clone, tmp_path):
    bare = python_with(tmp_path, "sys.modules['ensurepip'] = None")
    said = closing_sentence(run_make(clone, "doctor", f"PYTHON3={bare}"))
    assert "its venv package is missing: install it (on Debian and Ubuntu `sudo apt install python3." in said


@needs_make
def test_a_full_disk_is_seen_before_anything_is_fetched(clone, tmp_path):
    full = python_with(tmp_path, "import shutil; shutil.disk_usage = lambda _: shutil._ntuple_diskusage(9e9, 8e9, 1e9)")
    said = closing_sentence(run_make(clone, "doctor", f"PYTHON3={full}"))
    assert said.startswith(f"The disk is too full (1.0 GB free in {clone}")
    assert not (clone / ".venv").exists()


def test_a_disk_that_fills_up_half_way():
    assert explain("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n",
                   "/tmp/x").startswith("The disk is too full")


@needs_make
def test_no_network_after_a_set_up_that_was_cut_short(clone):
    """The half-made environment is made anew, and pip's failure ends in the likely cause."""
    (clone / ".venv").mkdir()
    (clone / ".venv" / "half").touch()
    (clone / ".venv.unfinished").touch()
    made = run_make(clone, "doctor", f"PYTHON3={sys.executable}", PIP_CONFIG_FILE=os.devnull, PIP_FIND_LINKS="",
                    PIP_EXTRA_INDEX_URL="", PIP_INDEX_URL="http://127.0.0.1:9", PIP_RETRIES="0")
    assert "cut short: starting it over" in made.stdout
    assert not (clone / ".venv" / "half").exists()
    assert closing_sentence(made).startswith("pip could not fetch the packages: check the network")
    assert (clone / ".venv.unfinished").exists(), "the next make has to know that this one did not finish"


@needs_make
def test_a_folder_that_make_did_not_make_is_never_removed(clone):
    (clone / "mine").mkdir()
    (clone / "mine" / "thesis.tex").touch()
    said = closing_sentence(run_make(clone, "doctor", "VENV=mine", f"PYTHON3={sys.executable}"))
    assert said.startswith("mine is there but holds no Python environment")
    assert (clone / "mine" / "thesis.tex").exists()


@needs_make
def test_a_space_in_venv(clone):
    made = run_make(clone, "doctor", "VENV=/tmp/my env")
    assert made.returncode != 0 and "VENV may not hold a space" in made.stdout


def test_a_second_make_waits_for_the_first(clone):
    (clone / ".venv").mkdir()
    (clone / ".venv" / ".ready").touch()
    with open(clone / "constraints.txt") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = subprocess.Popen([sys.executable, "-I", "common/setup_venv.py", ".venv"], cwd=clone, text=True,
                                  stdout=subprocess.PIPE)
        assert second.stdout.readline() == "Another make is setting up here: waiting for it.\n"
        time.sleep(0.2)
        assert second.poll() is None
        fcntl.flock(first, fcntl.LOCK_UN)
        assert second.wait(timeout=10) == 0
