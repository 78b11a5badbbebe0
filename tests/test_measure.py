"""Timings are kept whole, resumed and never believed unread; figures come from the CSVs alone. No speed is judged."""
import os
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from matplotlib.image import imread

from common import ROOT
from common.measure import __main__ as command
from common.measure import decoder_forward, flash, limits, no_kv, no_kv_plot, plots, run, stamp, tables, timing
from common.measure.run import Interrupted, Point
from common.measure.tables import Table, TableError
from common.model.llama import Config
from common.model.shapes import random_model

CPU = torch.device("cpu")
TABLE = Table("toy", key=("model", "length"), numbers=("time",), optional=("predicted",), words=("peer",))
TINY = Config(vocab_size=50, dim=16, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=4, ffn_dim=24)


def toy_row(length: int) -> dict:
    return {"model": "toy, with a comma", "length": length, "time": length / 3, "predicted": None, "peer": "none"}


def filled(folder: Path, lengths=(1, 2, 3)) -> Path:
    for length in lengths:
        tables.append(TABLE, folder, toy_row(length) | stamp.stamp(CPU))
    return TABLE.file(folder)


# --- The stamp ---

def test_a_stamp_has_every_column():
    assert tuple(stamp.stamp(CPU)) == stamp.COLUMNS
    assert stamp.stamp(CPU)["machine"].endswith(("-core", "-cores"))
    assert all(str(value) for name, value in stamp.stamp(CPU).items() if name != "gpu")


@pytest.mark.parametrize("name, folder", [
    ("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA A100-SXM4-80GB", "a100"), ("NVIDIA GeForce RTX 4090", "rtx-4090"),
    ("NVIDIA H100 PCIe", "h100"), ("AMD EPYC", "epyc"), ("Intel(R) Core(TM) i7-8565U CPU @ 1.80GHz", "i7-8565u"),
    ("AMD EPYC 9654 96-Core Processor", "epyc-9654"), ("", "unknown"),
])
def test_a_machine_has_a_short_name(name, folder):
    assert stamp.slug(name) == folder


# --- The clock ---

def test_functions_are_timed_in_turn():
    calls = []
    first, second = timing.time_each([lambda: calls.append("a"), lambda: calls.append("b")], CPU, budget=0, at_least=4)
    assert calls == ["a", "b"] * 5  # one round warms up
    assert len(first.seconds) == len(second.seconds) == 4
    assert first.p05 <= first.median <= first.p95


def test_a_clock_measures_seconds():
    assert timing.time_one(lambda: time.sleep(0.02), CPU, budget=0, at_least=2).median >= 0.02


def test_repeats_end_with_the_budget_or_the_maximum():
    assert len(timing.time_one(lambda: time.sleep(0.01), CPU, budget=10, at_most=3).seconds) == 3
    assert len(timing.time_one(lambda: time.sleep(0.05), CPU, budget=0.01).seconds) == 1


# --- The tables ---

def test_what_is_appended_is_read(tmp_path):
    file = filled(tmp_path)
    rows = tables.read(TABLE, tmp_path)
    assert rows.length.tolist() == ["1", "2", "3"]
    assert rows.time.tolist() == pytest.approx([1 / 3, 2 / 3, 1], rel=1e-5)
    assert rows.predicted.isna().all()
    assert list(rows.columns) == file.read_text().splitlines()[0].split(",") == TABLE.columns
    assert set(stamp.COLUMNS) <= set(rows.columns)


def test_a_failing_write_leaves_the_table_as_it_was(tmp_path, monkeypatch):
    file = filled(tmp_path)
    before = file.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError):
        filled(tmp_path, [4])
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == [file.name]


@pytest.mark.parametrize("damage", [
    pytest.param(lambda text: text[: len(text) // 2], id="cut short"),
    pytest.param(lambda text: text[:-1], id="last line unfinished"),
    pytest.param(lambda text: text.replace("time", "speed", 1), id="another heading"),
    pytest.param(lambda text: "a,b\n1,2\n", id="another table"),
    pytest.param(lambda text: text.replace("0.333333", "fast"), id="no number"),
    pytest.param(lambda text: text.replace("0.333333", "-0.3"), id="a negative time"),
    pytest.param(lambda text: text.replace("0.333333", ""), id="a hole"),
    pytest.param(lambda text: text + text.splitlines()[1] + "\n", id="a point twice"),
    pytest.param(lambda text: "", id="empty"),
    pytest.param(lambda text: "\x00\x01", id="binary"),
])
def test_a_damaged_table_is_named_in_a_sentence(tmp_path, damage):
    file = filled(tmp_path)
    file.write_text(damage(file.read_text()))
    with pytest.raises(TableError) as error:
        tables.read(TABLE, tmp_path)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


# --- Measuring point after point ---

def toy_points(measured: list, stop_at: int | None = None) -> list[Point]:
    def measure(length: int) -> dict:
        if length == stop_at:
            raise KeyboardInterrupt
        measured.append(length)
        return toy_row(length)

    return [Point(TABLE, {"model": "toy, with a comma", "length": length}, lambda length=length: measure(length))
            for length in (1, 2, 3)]


def test_an_interrupted_run_keeps_its_points_and_is_taken_up(tmp_path):
    measured = []
    with pytest.raises(Interrupted, match="2 of 3 points are measured and kept"):
        run.run(toy_points(measured, stop_at=3), tmp_path, stamp.stamp(CPU))
    assert tables.read(TABLE, tmp_path).length.tolist() == ["1", "2"]
    assert run.run(toy_points(measured), tmp_path, stamp.stamp(CPU)) == (1, 0)
    assert measured == [1, 2, 3]
    assert run.run(toy_points(measured), tmp_path, stamp.stamp(CPU)) == (0, 0)


def test_a_point_whose_lab_is_unfinished_is_left_out_and_stops_no_other(tmp_path, capsys):
    def unfinished() -> dict:
        raise NotImplementedError("03.1 is not written yet.")

    stub = Point(TABLE, {"model": "toy, with a comma", "length": 9}, unfinished)
    assert run.run([stub, *toy_points([])], tmp_path, stamp.stamp(CPU)) == (3, 1)
    assert "toy, with a comma 9 is left out. 03.1 is not written yet." in capsys.readouterr().out
    assert tables.read(TABLE, tmp_path).length.tolist() == ["1", "2", "3"]


def test_nothing_is_measured_into_a_damaged_table(tmp_path):
    file, measured = filled(tmp_path), []
    file.write_text("damaged")
    with pytest.raises(TableError):
        run.run(toy_points(measured), tmp_path, stamp.stamp(CPU))
    assert measured == [] and file.read_text() == "damaged"


# --- What is measured ---

@pytest.fixture(scope="module")
def subject():
    model = random_model(TINY, torch.bfloat16, CPU)
    return no_kv.Subject(model, list(range(8)), limit_of_call=(1e12, 1e12), rate_of_call=(1e9, 1e-4))


def test_a_generation_makes_a_full_row(subject, monkeypatch):
    monkeypatch.setenv("LABS", "solutions")
    row = no_kv.measure(lambda: subject, 5, budget=0.0)
    assert set(row) == {*no_kv.TABLE.numbers, *no_kv.TABLE.optional}
    assert 0 < row["limit_seconds"] < row["p05"] <= row["time"] <= row["p95"]
    assert row["predicted"] == pytest.approx(5 * 1e-4, rel=0.5)


def test_a_stub_predicts_nothing_and_costs_no_measurement(subject, monkeypatch, tmp_path):
    monkeypatch.setenv("LABS", str(tmp_path))
    assert no_kv.measure(lambda: subject, 2, budget=0.0)["predicted"] is None


def test_random_weights_have_the_dtype_and_spare_the_default():
    model = random_model(TINY, torch.bfloat16, CPU)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.rotary.frequency.dtype == torch.float32 == torch.get_default_dtype()


def test_weights_are_counted_as_the_model_holds_them():
    model = random_model(TINY, torch.float32, CPU)
    matrices = {name: weight for name, weight in model.named_parameters() if weight.dim() == 2}
    del matrices["embed_tokens.weight"]  # looked up, not read
    assert limits.weight_bytes(TINY, 4) == sum(weight.nbytes for weight in matrices.values())


def test_points_of_a_machine_have_the_keys_of_their_table():
    for device in (CPU, torch.device("cuda")):
        for point in [*no_kv.points(device), *decoder_forward.points(device), *flash.points(device)]:
            assert tuple(point.key) == point.table.key
    assert {point.key["model"] for point in no_kv.points(torch.device("cuda"))} == {"story-llama", "llama-3-8b-shape"}


def test_an_absent_peer_is_listed_with_the_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    decoder_forward.theirs.cache_clear()
    monkeypatch.setattr(decoder_forward, "time_each", lambda functions, *_, **__: [timing.Times((1,))] * len(functions))
    row = decoder_forward.measure("forward", 1, 4, 0)
    decoder_forward.theirs.cache_clear()
    assert row["peer"].startswith("transformers absent: ") and row["peer_time"] is None and row["ratio"] is None


# --- The figures ---

@pytest.fixture
def timings(tmp_path):
    """Invented timings of an invented machine, in a folder of their own."""
    mark = stamp.stamp(CPU) | {"machine": "toy"}
    folder = tmp_path / "timings" / "toy"
    for n in (16, 32, 64, 128):
        numbers = dict.fromkeys(no_kv.TABLE.numbers, 1.0) | {"time": n**1.5, "p05": n**1.4, "p95": n**1.6}
        tables.append(no_kv.TABLE, folder, {"model": "m", "dtype": "float32", "prompt_length": 64, "output_length": n}
                      | numbers | {"predicted": None} | mark)
    for task in ("forward", "generate"):
        numbers = {"time": 2.0, "p05": 1.0, "p95": 3.0, "repeats": 5}
        peer = dict.fromkeys(decoder_forward.TABLE.optional) | {"peer": "transformers absent: no such module"}
        tables.append(decoder_forward.TABLE, folder,
                      {"task": task, "batch": 1, "tokens": 8, "new_tokens": 0} | numbers | peer | mark)
    limits = {"matmul_flops_per_second": 7e14, "copy_bytes_per_second": 3e12, **dict.fromkeys(flash.TABLE.optional)}
    for task in [task for task in flash.tasks() if task.sequence in (1024, 16_384)]:
        seconds = {"time": task.flops / 4e14, "p05": task.flops / 5e14, "p95": task.flops / 3e14, "tflops": 400.0}
        tables.append(flash.TABLE, folder, flash.key_of(task, "lesson 06") | limits | seconds | {"reason": ""} | mark)
        tables.append(flash.TABLE, folder, flash.key_of(task, "FlashInfer") | limits | {"reason": "not here"} | mark)
    return tmp_path / "timings"


def test_every_table_is_drawn(timings, tmp_path):
    written, problems = plots.draw_all(timings, tmp_path / "plots")
    assert problems == []
    assert {file.name for file in written} == {f"{name}.png" for name in plots.FIGURES}
    for file in written:
        height, width, _ = imread(file).shape
        assert 600 <= width <= 2000 and 300 <= height <= 1000
        assert imread(file)[..., :3].std() > 0.05  # something is drawn
    first = {file: file.read_bytes() for file in written}
    plots.draw_all(timings, tmp_path / "plots")
    assert first == {file: file.read_bytes() for file in written}, "the same CSVs give the same pictures"


def test_a_damaged_table_is_named_and_the_others_are_drawn(timings, tmp_path):
    no_kv.TABLE.file(timings / "toy").write_text("damaged")
    (timings / "toy" / "foreign.csv").write_text("a,b\n1,2\n")
    written, problems = plots.draw_all(timings, tmp_path / "plots")
    assert {file.stem for file in written} == plots.FIGURES.keys() - {"no_kv_times"}
    assert len(problems) == 2 and "foreign.csv" in problems[0] and "no_kv_times.csv" in problems[1]


def test_attention_is_summed_up_with_its_absent_peers(timings):
    rows = tables.read(flash.TABLE, timings / "toy")
    twice = rows[rows.implementation.eq("lesson 06")].assign(implementation="torch FA2", tflops=200.0)
    said = flash.summary(pd.concat([rows, twice])).splitlines()
    assert said[0] == "forward, lesson 06 over torch FA2: 2.00 (from 2.00 to 2.00, 8 points)"
    assert said[-1].startswith("absent, backward, FlashInfer: not here")


def test_the_fit_finds_the_curve(timings):
    rows = tables.read(no_kv.TABLE, timings / "toy")
    n = rows.output_length.astype(float)
    coefficients = no_kv_plot.fit_times(rows.assign(time=0.5 + 0.002 * n + 3e-6 * n**2))
    assert coefficients == pytest.approx([0.5, 0.002, 3e-6])
    assert no_kv_plot.describe_fit(coefficients) == "0.5 s + 2 ms·n + 3 µs·n²"


def test_the_command_ends_in_an_error_if_a_table_is_damaged(timings, tmp_path, monkeypatch, capsys):
    no_kv.TABLE.file(timings / "toy").write_text("damaged")
    pictures, draw_all = tmp_path / "data" / "plots", plots.draw_all
    monkeypatch.setattr(plots, "draw_all", lambda: draw_all(timings, pictures))
    monkeypatch.setattr(command, "PLOTS", pictures)
    assert command.main(["plots"]) == 1
    said = capsys.readouterr()
    assert "decoder_forward.png drawn" in said.out and "no_kv_times.csv" in said.err


@pytest.mark.parametrize("file", sorted((ROOT / "data" / "timings").glob("*/*.csv")), ids=str)
def test_committed_tables_can_be_read_and_lie_with_their_machine(file):
    assert set(tables.read(plots.TABLES[file.stem], file.parent).machine) == {file.parent.name}
