"""The grader: stubs get nothing, the reference everything, and no lab can hurt more than its own exercise."""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from common import ROOT
from common.authoring.stubs import make_stub
from common.checking.run import run_exercise
from common.grader.__main__ import grade
from common.grader.gate import GateResult, run_gate
from common.grader.report import next_step, to_results, write_page
from common.lessons import find_lesson
from tests.kill_matrix import graded_labs

LESSON = find_lesson("00")
REFERENCE = (ROOT / "solutions" / "start_here.py").read_text(encoding="utf-8")
STUB = make_stub(REFERENCE, "start_here")
SCHEMA = json.loads((ROOT / "tests" / "gradescope.schema.json").read_text())


def results_of(source: str) -> dict:
    with graded_labs(LESSON, source):
        return to_results(list(grade(LESSON, "cpu", 0)), [], 1.0)


def test_reference_gets_everything_and_stubs_nothing():
    full, none = results_of(REFERENCE), results_of(STUB)
    assert full["score"] == full["extra_data"]["max_score"] == LESSON.points
    assert none["score"] == 0 and none["extra_data"]["max_score"] == LESSON.points
    assert {row["status"] for row in none["extra_data"]["exercises"]} == {"stub"}
    assert "write `greedy_token` in labs/start_here.py" in next_step(none)
    for results in (full, none):
        jsonschema.validate(results, SCHEMA)


VICTIM = "    return int(torch.argmax(logits[-1]))\n"  # 00.1's body: each of these takes its place
HOSTILE = {
    "crash": ("import ctypes; ctypes.string_at(0)", "died of SIGSEGV"),
    "endless loop": ("while True: pass", "is there an endless loop?"),
    "os._exit": ("import os; os._exit(0)", "ended itself (exit code 0)"),
    "sys.exit": ("raise SystemExit(3)", "ended itself (exit code 3)"),
    "memory bomb": ("return [torch.empty(2**28) for _ in range(100)]", "can't allocate memory"),
    "huge answer": ("return torch.ones(2**26)", "more than 256 MiB"),
    "endless printing": ("while True: print('x' * 10**6)", "File too large"),
    "recursion": ("return greedy_token(logits)", "RecursionError"),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_exercise_loses_only_itself(attack: str, monkeypatch: pytest.MonkeyPatch):
    body, sentence = HOSTILE[attack]
    for check in LESSON.exercises[0].checks:  # their type is frozen, so past its own guard
        monkeypatch.setitem(vars(check), "seconds", 3 if attack == "endless loop" else 60)
    assert REFERENCE.count(VICTIM) == 1
    results = results_of(REFERENCE.replace(VICTIM, f"    {body}\n"))
    rows = {row["id"]: row for row in results["extra_data"]["exercises"]}
    assert rows["00.1"]["points"]["cpu"] == 0
    assert sentence in rows["00.1"]["problem"]
    assert rows["00.2"]["status"] == rows["00.3"]["status"] == "passed"
    jsonschema.validate(results, SCHEMA)


def test_children_of_a_lab_end_with_it(tmp_path: Path):
    start = "str(subprocess.Popen(['sleep', '600']).pid)"
    body = f"import subprocess; open('{tmp_path}/pid', 'w').write({start}); return 0"
    with graded_labs(LESSON, REFERENCE.replace(VICTIM, f"    {body}\n")):
        list(grade(LESSON, "cpu", 0))
    pid = (tmp_path / "pid").read_text()
    for _ in range(50):
        if not Path(f"/proc/{pid}").exists() or "zombie" in Path(f"/proc/{pid}/status").read_text():
            return
        time.sleep(0.1)
    pytest.fail(f"process {pid} is still running")


def test_results_are_saved_after_each_exercise():
    """Interrupted in the middle, grading has already written what it knew."""
    with graded_labs(LESSON, REFERENCE):
        running = grade(LESSON, "cpu", 0)
        first = to_results([next(running)], [], 0.5)
        running.close()
    assert [row["id"] for row in first["extra_data"]["exercises"]] == ["00.1"]
    jsonschema.validate(first, SCHEMA)


def test_a_seed_repeats_the_inputs():
    def inputs(seed: int) -> list[bytes]:
        seen = []

        def keep(exercise, check, request):
            seen.append(request)
            raise KeyError

        with pytest.raises(KeyError):
            list(run_exercise(LESSON.exercises[1], "cpu", seed, keep))
        return seen

    assert inputs(5) == inputs(5) != inputs(6)


def test_bad_variables_get_one_sentence():
    for variable, value, sentence in (("LAB", "77", "There is no lesson '77'"), ("SEED", "x", "SEED a whole number"),
                                      ("LABS", "nowhere", "which is no folder")):
        run = subprocess.run([sys.executable, "-m", "common.grader"], cwd=ROOT, capture_output=True, text=True,
                             env={**os.environ, variable: value})
        assert run.returncode != 0 and sentence in run.stderr and "Traceback" not in run.stderr


def test_the_page_shows_what_the_results_say(tmp_path: Path):
    results = results_of(REFERENCE.replace(VICTIM, "    print('<b>'); return 1 / 0\n"))
    results["extra_data"]["gates"] = [vars(GateResult("00_start_here.ipynb", 9, 8, "first in cell [4]"))]
    write_page(results, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "ZeroDivisionError" in page and "&lt;b&gt;" in page and "8 of 9 cells agree" in page


# The notebooks' gate --------------------


def gate(source: str, staging: Path) -> GateResult:
    with graded_labs(LESSON, source):
        return run_gate(LESSON, staging)


def test_gate_agrees_with_the_reference_and_not_with_stubs(tmp_path: Path):
    full = gate(REFERENCE, tmp_path / "reference")
    assert full.cells > 5 and full.agreeing == full.cells and not full.problem
    none = gate(STUB, tmp_path / "stub")
    assert none.cells == full.cells and 0 < none.agreeing < none.cells
    assert 'first in cell [4] check("00.1")' in none.problem


def test_gate_notices_a_dead_kernel_at_once(tmp_path: Path):
    start = time.monotonic()
    dead = gate(REFERENCE.replace(VICTIM, "    import os; os._exit(1)\n"), tmp_path)
    assert dead.agreeing < dead.cells and dead.problem
    assert time.monotonic() - start < 60


def test_gate_names_a_damaged_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "00_start_here.ipynb").write_text('{"cells": [')
    monkeypatch.setattr("common.grader.gate.ROOT", tmp_path)
    assert "`git checkout notebooks/00_start_here.ipynb`" in run_gate(LESSON, tmp_path / "staging").problem
