"""Lessons add up: passed parts are the learner's, the rest is borrowed and says so."""
import subprocess
import sys
from pathlib import Path

import pytest

from common import ROOT, parts
from common.authoring.stubs import make_stub
from common.notebook import check
from common.parts import fingerprint, is_mine, part, record

REFERENCE = (ROOT / "solutions" / "start_here.py").read_text()
MINE = REFERENCE.replace('    return int(torch.argmax(logits[-1]))', '    return int(logits[-1].argmax())  # mine')


@pytest.fixture
def lab_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABS", str(tmp_path))
    file = tmp_path / "start_here.py"
    file.write_text(MINE)
    return file


def test_an_unchecked_part_is_borrowed_and_says_so(lab_file, capsys):
    assert part("00.1").__code__.co_filename == str(ROOT / "solutions" / "start_here.py")
    assert "00.1 greedy_token: borrowed from the reference" in capsys.readouterr().out


def test_what_passes_a_check_is_mine_until_the_file_changes(lab_file, capsys):
    check("00.1")
    capsys.readouterr()
    assert part("00.1").__code__.co_filename == str(lab_file) and capsys.readouterr().out == ""
    assert not is_mine("start_here", "00.2"), "not checked"
    lab_file.write_text(MINE + "\n")
    assert not is_mine("start_here", "00.1")
    lab_file.write_text(MINE)
    assert is_mine("start_here", "00.1"), "the same file again"
    record(fingerprint("start_here"), "00.1", passed=False)
    assert not is_mine("start_here", "00.1")


def test_a_failing_check_gives_nothing(lab_file):
    lab_file.write_text(make_stub(REFERENCE, "start_here"))
    check("00.1")
    lab_file.write_text(REFERENCE.replace("torch.argmax(logits[-1])", "torch.argmax(logits[0])"))
    check("00.1")
    assert not is_mine("start_here", "00.1")


def test_parts_of_one_file_know_each_other(lab_file):
    for id in ("00.1", "00.2"):
        record(fingerprint("start_here"), id, passed=True)
    assert part("00.1").__globals__ is part("00.2").__globals__


def test_a_damaged_or_missing_record_only_borrows(lab_file):
    record(fingerprint("start_here"), "00.1", passed=True)
    for damage in ("{", "[1]", "null"):
        parts.PASSED.write_text(damage)
        assert not is_mine("start_here", "00.1")
    record(fingerprint("start_here"), "00.1", passed=True)
    assert is_mine("start_here", "00.1")
    lab_file.unlink()
    assert not is_mine("start_here", "00.1")


def test_the_reference_owns_all_its_parts_silently(monkeypatch, capsys):
    monkeypatch.setenv("LABS", "solutions")
    part("00.1")
    assert capsys.readouterr().out == ""


def test_an_unknown_part_is_named():
    with pytest.raises(ValueError, match="There is no exercise '99.1'"):
        part("99.1")


def test_progress_counts_the_parts():
    run = subprocess.run([sys.executable, "-m", "common.parts"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "parts are yours" in run.stdout and "00.1" in run.stdout
