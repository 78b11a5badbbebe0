"""The notebooks' gate: run pristine copies against the labs and compare every output with the stored one (nbval).

The gate changes no points. It shows a learner whether the whole notebook tells the reference's story with their code.
"""
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from common import ROOT, labs_folder
from common.checking.exercise import Lesson

CELL_SECONDS = 120
NOTEBOOK_SECONDS = 600  # the outer limit, for a notebook whose kernel cannot even be interrupted


@dataclass(frozen=True)
class GateResult:
    """How many of a notebook's code cells ran and agreed. `problem` is empty if all did."""

    notebook: str
    cells: int
    agreeing: int
    problem: str = ""


def run_gate(lesson: Lesson, staging: Path) -> GateResult:
    """Stage `lesson`'s notebook in the folder `staging`, run it against the labs there, and say how it went."""
    name = f"{lesson.number}_{lesson.name}.ipynb"
    if importlib.util.find_spec("nbval") is None:
        return GateResult(name, 0, 0, "not run: nbval is not installed here (`make doctor` says how to get it).")
    pristine = ROOT / "notebooks" / name
    try:
        json.loads(pristine.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return GateResult(name, 0, 0, f"notebooks/{name} is missing or damaged: `git checkout notebooks/{name}` "
                                      "restores it (your own copy in work/ is not touched); of a new lesson, `make "
                                      f"notebooks LAB={lesson.number}` makes it.")
    staging.mkdir(parents=True, exist_ok=True)
    shutil.copy(pristine, staging / name)
    report = staging / f"{name}.json"
    environment = {
        **os.environ, "LABS": str(labs_folder()), "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT),
        "GATE_REPORT": str(report), "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",  # as when the outputs were stored, so that sums are made in the same order
    }
    environment.pop("MODEL", None)  # the stored outputs are the story model's
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-p", "common.grader.nbval_plugin",
               f"--nbval-cell-timeout={CELL_SECONDS}", "-p", "no:cacheprovider", "-q", "--rootdir", str(staging),
               "-c", os.devnull, str(staging / name)]
    log = staging / f"{name}.log"
    with log.open("w") as output:
        run = subprocess.Popen(command, cwd=staging, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                               stderr=subprocess.STDOUT, start_new_session=True)
        try:
            run.wait(NOTEBOOK_SECONDS)
        except subprocess.TimeoutExpired:
            return GateResult(name, 0, 0, f"ended after {NOTEBOOK_SECONDS} s: is there an endless loop?")
        finally:
            end_group(run)
    if not report.exists():
        return GateResult(name, 0, 0, f"nbval could not run: {log.read_text().strip()[-300:]}")
    cells = json.loads(report.read_text())
    failed = [cell for cell in cells if not cell["passed"]]
    problem = f"first in cell {failed[0]['cell']}: {failed[0]['message']}" if failed else ""
    return GateResult(name, len(cells), len(cells) - len(failed), problem)


def end_group(process: subprocess.Popen) -> None:
    """End pytest and the kernel it may have left behind."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
