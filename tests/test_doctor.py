"""The doctor tells what is missing, with its fix, on machines that this one is not: simulated, one at a time."""
import platform

import pytest
import torch

from common import doctor
from common.doctor import Row

MISSING = Row("nbval", "", "make grade", "python -m pip install -c constraints.txt nbval " + "and so on " * 20)


@pytest.fixture
def path_with(tmp_path, monkeypatch):
    """Makes PATH one folder that holds nothing but commands of the given names, each of which fails."""
    def put(*names: str) -> None:
        for name in names:
            (tmp_path / name).write_text("#!/bin/sh\necho not permitted >&2; exit 1\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
    return put


def test_this_machine():
    rows = {row.name: row for row in doctor.summary()}
    assert rows["Python"].found == platform.python_version()
    assert rows["PyTorch"].found == torch.__version__
    assert bool(rows["CUDA"].found) == torch.cuda.is_available()
    if platform.system() == "Linux":
        assert rows["Triton on the CPU"].found, rows["Triton on the CPU"].fix
    for row in rows.values():
        assert row.purpose
        assert row.found or row.fix or row.name in ("CUDA", "NCCL", "flash-attn", "flashinfer")


def test_macos_lacks_triton_and_is_told_of_a_container(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    row = doctor.triton_interpreter_row()
    assert not row.found and not row.required
    assert "docker run" in row.fix
    assert "docker run" in doctor.bubblewrap_row().fix
    assert "docker run" in doctor.landlock_row().fix


@pytest.mark.skipif(platform.system() != "Linux", reason="Triton is made for Linux alone")
def test_a_triton_that_is_installed_but_computes_nothing(monkeypatch):
    monkeypatch.setattr(doctor, "TRITON_TRIAL", "raise RuntimeError('no interpreter')")
    row = doctor.triton_interpreter_row()
    assert row.required and not row.found
    assert "no interpreter" in row.fix and "pip install" in row.fix


def test_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert doctor.cuda_row().found == "2 x NVIDIA H100, sm_90"


def test_a_gpu_that_torch_cannot_use(monkeypatch, path_with):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    path_with("nvidia-smi")
    row = doctor.cuda_row()
    assert not row.found and "built for CPUs only" in row.fix and "pip install" in row.fix
    assert "flashinfer" in doctor.flashinfer_row().found or "[gpu]" in doctor.flashinfer_row().fix


def test_no_gpu_needs_no_fix(monkeypatch, path_with):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path_with()
    assert doctor.cuda_row().fix == doctor.nccl_row().fix == doctor.flash_attn_row().fix == ""


@pytest.mark.skipif(platform.system() != "Linux", reason="bwrap is for Linux alone")
def test_bwrap_absent_and_forbidden(path_with):
    path_with()
    assert doctor.bubblewrap_row().fix == "sudo apt install bubblewrap"
    path_with("bwrap")
    row = doctor.bubblewrap_row()
    assert not row.found and "not permitted" in row.fix


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_wrong_model_folder(monkeypatch, tmp_path, content):
    if content:
        (tmp_path / "config.json").write_text(content)
    monkeypatch.setenv("MODEL", str(tmp_path))
    row = doctor.model_row()
    assert row.required and not row.found
    assert str(tmp_path) in row.fix and "unset MODEL" in row.fix


def test_packages_missing_and_of_other_versions(monkeypatch):
    real = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda name: "0.1" if name == "numpy" else real(name))
    other = doctor.packages_row()
    assert other.found and "numpy 0.1 (pinned 2." in other.fix
    monkeypatch.setattr(doctor, "installed", lambda name: "" if name in ("numpy", "nbval") else real(name))
    assert not doctor.packages_row().found
    assert doctor.packages_row().fix.startswith("missing: numpy; ")
    [nbval] = [row for row in doctor.sparable_rows() if row.name == "nbval"]
    assert not nbval.found and not nbval.required and nbval.fix.endswith("-m pip install -c constraints.txt nbval")


def test_every_pin_that_is_a_dependency_is_found():
    assert set(doctor.dependencies()) <= doctor.pinned_versions().keys()


def test_eighty_columns_cut_no_fix_short(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    doctor.show([MISSING, Row("Model", "/a/long/path" * 9 + "/end", "what speaks", required=True)])
    printed = capsys.readouterr().out
    assert f"nbval: {MISSING.fix}" in printed
    assert "…" not in printed
    assert "/end" in printed


@pytest.mark.parametrize("required, status", [(False, 0), (True, 1)])
def test_only_a_missing_need_fails(monkeypatch, capsys, required, status):
    monkeypatch.setattr(doctor, "summary", lambda: [Row("thing", "", "a purpose", "mend it", required)])
    assert doctor.main() == status
    assert ("MISSING" in capsys.readouterr().out) == required


def test_without_the_packages_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "imports", lambda module: module != "rich")
    assert doctor.main() == 1
    assert capsys.readouterr().out.startswith("The course's packages are not installed in this Python: ")
