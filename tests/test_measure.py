"""Timings are kept whole, resumed and never believed unread; figures come from the CSVs alone. No speed is judged."""
import dataclasses
import os
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from matplotlib.image import imread

from common import ROOT
from common import timings as command
from common.authoring.stubs import make_stub
from common.lessons import modules
from common.lessons.flash_attention import attention_timings, implementations, step_timings
from common.lessons.kv_cache import timings as kv_cache
from common.lessons.no_kv_generation import figures as no_kv_figures
from common.lessons.no_kv_generation import timings as no_kv
from common.lessons.prefill import timings as prefill
from common.lessons.transformer import timings as transformer
from common.lessons.triton_kernels import copy_timings, row_cases, row_timings
from common.measure import models, plots, roofline, run, stamp, style, tables, timing
from common.measure.ceilings import Ceilings
from common.measure.generation import NO_KV_TIMES, Plan, Subject
from common.measure.run import Interrupted, Point
from common.measure.tables import Table, TableError
from common.model import costs
from common.model.attention import CausalAttention
from common.model.llama import Config
from common.model.shapes import random_model

CPU = torch.device("cpu")
FIGURES = tuple(figure for lesson in modules("figures") for figure in lesson.FIGURES)
TABLES = plots.tables_of(FIGURES)
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


def test_times_fill_the_columns_of_a_table():
    times = timing.Times((1.0, 2.0, 3.0))
    assert times.columns() == pytest.approx({"time": 2.0, "p05": 1.1, "p95": 2.9, "repeats": 3})
    assert times.columns("peer_") == pytest.approx({"peer_time": 2.0, "peer_p05": 1.1, "peer_p95": 2.9})


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
    return Subject(model, list(range(8)), Ceilings(bytes_per_second=1e12, flops_per_second=1e12),
                   call_flops_per_second=1e9, call_seconds=1e-4)


@pytest.fixture(scope="module")
def with_peer(subject):
    return dataclasses.replace(subject, peer=models.peer_of(subject.model), peer_name="transformers")


@pytest.fixture(scope="module")
def without_peer(subject):
    return dataclasses.replace(subject, peer_name="transformers absent: why")


def test_a_generation_makes_a_full_row(subject, monkeypatch):
    monkeypatch.setenv("LABS", "solutions")
    row = no_kv.measure(lambda: subject, 5, budget=0.0)
    assert set(row) == {*NO_KV_TIMES.numbers, *NO_KV_TIMES.optional}
    assert 0 < row["limit_seconds"] < row["p05"] <= row["time"] <= row["p95"]
    assert row["predicted"] == pytest.approx(5 * 1e-4, rel=0.5)


def test_a_stub_predicts_nothing_and_costs_no_measurement(subject, monkeypatch, tmp_path):
    monkeypatch.setenv("LABS", str(tmp_path))
    assert no_kv.measure(lambda: subject, 2, budget=0.0)["predicted"] is None


def test_a_cached_generation_makes_a_full_row_beside_its_peer(subject, with_peer, monkeypatch):
    monkeypatch.setenv("LABS", "solutions")
    plan = Plan(longest=9, longest_of_peer=5, at_least=1, budget=0.0)
    row = kv_cache.measure(lambda: with_peer, 5, plan)
    assert set(row) == {*kv_cache.TABLE.numbers, *kv_cache.TABLE.optional, *kv_cache.TABLE.words}
    assert None not in row.values() and row["code"] == "solutions"
    assert row["time"] == pytest.approx(row["prefill_s"] + row["decode_s"])
    assert 0 < row["limit_seconds"] < no_kv.limit_seconds(subject, 5), "with a cache there is less to do"
    assert row["predicted"] == pytest.approx(5 * 1e-4, rel=0.5)
    assert kv_cache.measure(lambda: with_peer, 6, plan)["peer_time"] is None, "longer than the peer is timed"


def test_a_batch_makes_a_full_row_beside_its_peer(with_peer, without_peer, monkeypatch):
    monkeypatch.setenv("LABS", "solutions")
    plan = Plan(longest=5, longest_of_peer=5, at_least=2, budget=0.0)
    row = prefill.measure(lambda: with_peer, [3, 9, 1], plan)
    assert set(row) == {*prefill.NUMBERS, *prefill.PEER, *prefill.DIFFERENT.words}
    assert None not in row.values() and row["code"] == "solutions" and row["repeats"] == 2
    assert (row["prompt_tokens"], row["padded_tokens"]) == (13, 27)
    assert row["tokens_per_s"] == pytest.approx(3 * 4 / row["decode_s"])
    absent = prefill.measure(lambda: without_peer, [3, 9], plan)
    assert absent["peer"].endswith("why") and absent["decode_ratio"] is None


def test_a_batch_of_one_has_the_limits_of_a_single_generation(subject):
    rates = subject.ceilings.flops_per_second, subject.ceilings.bytes_per_second, subject.bytes_per_weight
    alone = costs.generation_limits(subject.model.config, [len(subject.prompt)], 5, *rates)
    assert sum(alone) == pytest.approx(kv_cache.limit_seconds(subject, 5))
    three = costs.generation_limits(subject.model.config, 3 * [len(subject.prompt)], 5, *rates)
    assert all(one <= many <= 3 * one for one, many in zip(alone, three, strict=True)), "weights are read once for all"


def test_prompts_differ_and_larger_batches_begin_as_smaller_ones():
    assert prefill.prompt_lengths(4, different=False) == [512] * 4
    different = prefill.prompt_lengths(64, different=True)
    assert different[:8] == prefill.prompt_lengths(8, different=True)
    assert min(different) >= 32 and max(different) <= 512 and len(set(different)) > 48


def test_an_unfinished_batch_engine_is_not_timed(without_peer, monkeypatch, tmp_path):
    (tmp_path / "prefill.py").write_text(make_stub((ROOT / "solutions" / "prefill.py").read_text(), "prefill"))
    monkeypatch.setenv("LABS", str(tmp_path))
    with pytest.raises(NotImplementedError, match="04."):
        prefill.measure(lambda: without_peer, [3, 9], kv_cache.ON_CPU)


def test_an_unfinished_engine_is_not_timed(without_peer, monkeypatch, tmp_path):
    solution = (ROOT / "solutions" / "kv_cache.py").read_text()
    (tmp_path / "kv_cache.py").write_text(make_stub(solution, "kv_cache"))
    monkeypatch.setenv("LABS", str(tmp_path))
    with pytest.raises(NotImplementedError, match="03.3"):
        kv_cache.measure(lambda: without_peer, 5, kv_cache.ON_CPU)


@pytest.mark.parametrize("tied", [False, True])
def test_the_peer_has_our_weights_and_gives_our_logits(tied):
    model = random_model(dataclasses.replace(TINY, rope_theta=500.0, tie_embeddings=tied), torch.float32, CPU)
    peer, ids = models.peer_of(model), torch.tensor([7, 1, 42, 3, 3])
    with torch.inference_mode():
        ours = model.logits(model(ids, torch.arange(5), CausalAttention()))
        torch.testing.assert_close(peer(ids[None]).logits[0], ours, atol=1e-5, rtol=0)
    assert peer.model.embed_tokens.weight.data_ptr() == model.embed_tokens.weight.data_ptr()


def test_calls_of_a_generation_cost_what_the_whole_text_does():
    """Prefill and decode together meet as many pairs of tokens as one causal call on all of them."""
    calls = [(6, 0), (1, 6), (1, 7), (1, 8)]
    logits = 2 * TINY.dim * TINY.vocab_size
    flops = [costs.call_flops(TINY, new, held, causal=True) - logits for new, held in calls]
    assert sum(flops) == costs.forward_flops(TINY, 9, causal=True) - logits
    assert costs.call_bytes(TINY, 1, 8, 4) - costs.weight_bytes(TINY, 4) == 2 * TINY.n_layers * 9 * 2 * 4 * 4


def test_random_weights_have_the_dtype_and_spare_the_default():
    model = random_model(TINY, torch.bfloat16, CPU)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.rotary.frequency.dtype == torch.float32 == torch.get_default_dtype()


def test_weights_are_counted_as_the_model_holds_them():
    model = random_model(TINY, torch.float32, CPU)
    matrices = {name: weight for name, weight in model.named_parameters() if weight.dim() == 2}
    del matrices["embed_tokens.weight"]  # looked up, not read
    assert costs.weight_bytes(TINY, 4) == sum(weight.nbytes for weight in matrices.values())


def test_an_attention_that_fails_gives_its_reason_and_a_stub_gives_no_row():
    task = attention_timings.tasks()[0]
    assert attention_timings.in_row(implementations.Absent("forward only"), task)["reason"] == "forward only"
    row = attention_timings.in_row(RuntimeError("no way\nat all"), task)
    assert row["reason"] == "RuntimeError: no way" and row["time"] is None
    with pytest.raises(NotImplementedError):
        attention_timings.in_row(NotImplementedError("06.4 is still a stub"), task)


def test_steps_of_the_attention_kernels_stand_in_their_sources(monkeypatch):
    monkeypatch.setattr(step_timings, "labs_folder", lambda: ROOT / "solutions")
    for name, version in step_timings.VERSIONS.items():
        source = version.file().read_text(encoding="utf-8")
        for step, replacements in version.undo.items():
            for fragment in replacements:
                assert source.count(fragment) == 1, f"{name}, {step}: {fragment}"


def test_points_of_a_machine_have_the_keys_of_their_table():
    for device in (CPU, torch.device("cuda")):
        for point in (point for lesson in modules("timings") for point in lesson.points(device)):
            assert tuple(point.key) == point.table.key
        plain, cached = ({tuple(point.key.values()) for point in lesson.points(device)} for lesson in (no_kv, kv_cache))
        assert cached <= plain, "the same prompts and lengths"
    assert {point.key["model"] for point in no_kv.points(torch.device("cuda"))} == {"story-llama", "llama-3-8b-shape"}


def test_every_table_that_is_measured_is_drawn_too():
    measured = {point.table for device in (CPU, torch.device("cuda")) for point in command.points(device)}
    assert measured == set(TABLES.values())


def test_an_absent_peer_is_listed_with_the_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    models.peer_named.cache_clear()
    monkeypatch.setattr(transformer, "time_each", lambda functions, *_, **__: [timing.Times((1,))] * len(functions))
    row = transformer.measure("forward", 1, 4, 0)
    models.peer_named.cache_clear()
    assert row["peer"].startswith("transformers absent: ") and row["peer_time"] is None and row["ratio"] is None


@pytest.fixture
def small_rows(monkeypatch):
    """Row kernels of a size that the interpreter runs, on this CPU, with nothing compiled."""
    monkeypatch.setenv("LABS", "solutions")
    torch.manual_seed(0)
    monkeypatch.setattr(torch, "compile", lambda formula, dynamic: formula)
    monkeypatch.setattr(row_timings, "SIZES", {kernel: [(3, 1280)] for kernel in row_timings.SIZES})
    monkeypatch.setattr(row_timings, "limits", lambda *_: (1e9, 1e-6))
    monkeypatch.setattr(row_timings, "time_each", lambda runs, *_, **__: [timing.Times((1.0,))] * len(runs))
    yield partial(row_timings.measure, rows=3, columns=1280, dtype=torch.float32, device=CPU)
    for cached in (row_cases.case, row_timings.prepare, row_timings.timed):
        cached.cache_clear()


@pytest.mark.parametrize("kernel", row_timings.SIZES)
def test_row_kernels_make_full_rows(small_rows, kernel):
    for name in row_timings.names(kernel, (3, 1280)):
        row = small_rows(kernel, name=name)
        assert set(row) == {*row_timings.TABLE.numbers, *row_timings.TABLE.optional, *row_timings.TABLE.words}
        assert (row["time"] is None) == bool(row["absent"])
        if name in (row_cases.LESSON, row_cases.TORCH):
            assert row["time"] == 1.0 and row["share_of_copy"] == row["bytes"] / 1e9
        if name == row_cases.LESSON:
            assert row["predicted"] == pytest.approx(row["bytes"] / 1e9)


def test_a_wrong_row_kernel_is_not_timed(small_rows, monkeypatch):
    monkeypatch.setattr(row_cases, "normed", lambda x, weight: (x,))
    with pytest.raises(ValueError, match="differs from the formula"):
        small_rows("rms_norm", name=row_cases.LESSON)


@pytest.mark.parametrize("layout", ["whole", "column"])
def test_a_copy_copies_so_many_bytes(layout, monkeypatch):
    copied = []

    def note(copy, *_, **__):
        copy()
        copied.append(copy)
        return timing.Times((1.0,))

    monkeypatch.setattr(copy_timings, "time_one", note)
    assert copy_timings.measure(CPU, copy_timings.WITHIN, "none", layout, 4096)["time"] == 1.0
    [copy] = copied
    [source], target = copy.args, copy.func.__self__
    assert source.nbytes == target.nbytes == 4096 and torch.equal(source, target) and target.is_contiguous()
    assert source.is_contiguous() == (layout == "whole")


# --- The figures ---

@pytest.fixture
def timings(tmp_path):
    """Invented timings of an invented machine, in a folder of their own."""
    mark = stamp.stamp(CPU) | {"machine": "toy"}
    folder = tmp_path / "timings" / "toy"
    for n in (16, 32, 64, 128):
        numbers = dict.fromkeys(NO_KV_TIMES.numbers, 1.0) | {"time": n**1.5, "p05": n**1.4, "p95": n**1.6}
        tables.append(NO_KV_TIMES, folder, {"model": "m", "dtype": "float32", "prompt_length": 64, "output_length": n}
                      | numbers | {"predicted": None} | mark)
        numbers = dict.fromkeys(kv_cache.TABLE.numbers, 0.5) | {"time": n / 2, "p05": n / 3, "p95": n}
        rest = dict.fromkeys(kv_cache.TABLE.optional) | {"peer": "transformers absent: no module", "code": "labs"}
        tables.append(kv_cache.TABLE, folder, {"model": "m", "dtype": "float32", "prompt_length": 64,
                                               "output_length": n} | numbers | rest | mark)
    for size in (1, 2, 4):
        numbers = dict.fromkeys(prefill.NUMBERS, 1.0 * size) | {"padded_tokens": 2.0 * size}
        rest = dict.fromkeys(prefill.PEER) | {"peer": "transformers absent: no module", "code": "labs"}
        for table in (prefill.UNIFORM, prefill.DIFFERENT):
            tables.append(table, folder, {"model": "m", "dtype": "float32", "batch_size": size} | numbers | rest | mark)
    for task in ("forward", "generate"):
        numbers = {"time": 2.0, "p05": 1.0, "p95": 3.0, "repeats": 5}
        peer = dict.fromkeys(transformer.TABLE.optional) | {"peer": "transformers absent: no such module"}
        tables.append(transformer.TABLE, folder,
                      {"task": task, "batch": 1, "tokens": 8, "new_tokens": 0} | numbers | peer | mark)
    for point in row_timings.points(torch.device("cuda")):
        numbers = dict.fromkeys(row_timings.TABLE.numbers, 2e8) | dict.fromkeys(row_timings.TABLE.optional, 1e-4)
        tables.append(row_timings.TABLE, folder, point.key | numbers | {"absent": ""} | mark)
    for point in copy_timings.points(torch.device("cuda"))[::5]:
        numbers = {"time": 1e-5 + point.key["bytes"] / 1e9, "p05": 1e-5, "p95": 1.0, "repeats": 5}
        tables.append(copy_timings.TABLE, folder, point.key | numbers | mark)
    table = attention_timings.TABLE
    row = Ceilings(bytes_per_second=3e12, flops_per_second=7e14).columns() | dict.fromkeys(table.optional)
    for task in [task for task in attention_timings.tasks() if task.sequence in (1024, 16_384)]:
        seconds = {"time": task.flops / 4e14, "p05": task.flops / 5e14, "p95": task.flops / 3e14, "tflops": 400.0}
        lesson, peer = (attention_timings.key_of(task, name) for name in ("lesson 06", "FlashInfer"))
        tables.append(table, folder, lesson | row | seconds | {"reason": ""} | mark)
        tables.append(table, folder, peer | row | {"reason": "not here"} | mark)
    for point in step_timings.points(torch.device("cuda")):
        seconds = {"time": 1e-3, "p05": 9e-4, "p95": 2e-3, "repeats": 5, "tflops": 400.0, "reason": ""}
        tables.append(step_timings.TABLE, folder, point.key | seconds | mark)
    return tmp_path / "timings"


def test_every_table_is_drawn(timings, tmp_path):
    written, problems = plots.draw_all(FIGURES, timings, tmp_path / "plots")
    assert problems == []
    assert {file.name for file in written} == {f"{figure.name}.png" for figure in FIGURES}
    for file in written:
        height, width, _ = imread(file).shape
        assert 600 <= width <= 2000 and 300 <= height <= 1000
        assert imread(file)[..., :3].std() > 0.05  # something is drawn
    first = {file: file.read_bytes() for file in written}
    plots.draw_all(FIGURES, timings, tmp_path / "plots")
    assert first == {file: file.read_bytes() for file in written}, "the same CSVs give the same pictures"


def test_a_figure_is_found_by_its_name_which_no_other_has():
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)
    assert plots.find("copies", FIGURES).tables == (copy_timings.TABLE,)
    with pytest.raises(ValueError, match="no figure 'copys'; there are .*copies"):
        plots.find("copys", FIGURES)


def test_a_roofline_has_its_spots_under_their_names():
    spot = roofline.Spot("n = 4", flops=4_000, bytes_moved=1_000, seconds=2e-6)
    assert (spot.intensity, spot.flops_per_second) == (4.0, pytest.approx(2e9))
    with style.in_style():
        figure = roofline.draw("toy", Ceilings(bytes_per_second=1e9, flops_per_second=1e10), {"prefill": [spot]})
    [panel] = figure.axes
    roof, spots = panel.lines[0], panel.lines[-1]
    assert max(roof.get_ydata()) == pytest.approx(10) and min(roof.get_ydata()) == pytest.approx(min(roof.get_xdata()))
    assert (spots.get_label(), *spots.get_xydata()[0]) == ("prefill", 4.0, pytest.approx(2.0))


def test_a_damaged_table_is_named_and_the_others_are_drawn(timings, tmp_path):
    NO_KV_TIMES.file(timings / "toy").write_text("damaged")
    (timings / "toy" / "foreign.csv").write_text("a,b\n1,2\n")
    written, problems = plots.draw_all(FIGURES, timings, tmp_path / "plots")
    undamaged = {figure.name for figure in FIGURES if NO_KV_TIMES not in figure.tables}
    assert {file.stem for file in written} == undamaged
    assert len(problems) == 2 and "foreign.csv" in problems[0] and "no_kv_times.csv" in problems[1]


def test_attention_is_summed_up_with_its_absent_peers(timings):
    rows = tables.read(attention_timings.TABLE, timings / "toy")
    twice = rows[rows.implementation.eq("lesson 06")].assign(implementation="torch FA2", tflops=200.0)
    said = attention_timings.summary(pd.concat([rows, twice])).splitlines()
    assert said[2].split() == ["forward", "torch", "FA2", "2.00", "(2.00-2.00)"]
    assert said[-1] == "absent, backward: FlashInfer: not here"


def test_the_fit_finds_the_curve(timings):
    rows = tables.read(NO_KV_TIMES, timings / "toy")
    n = rows.output_length.astype(float)
    coefficients = no_kv_figures.fit_times(rows.assign(time=0.5 + 0.002 * n + 3e-6 * n**2))
    assert coefficients == pytest.approx([0.5, 0.002, 3e-6])
    assert no_kv_figures.describe_fit(coefficients) == "0.5 s + 2 ms·n + 3 µs·n²"


def test_the_command_ends_in_an_error_if_a_table_is_damaged(timings, tmp_path, monkeypatch, capsys):
    NO_KV_TIMES.file(timings / "toy").write_text("damaged")
    pictures, draw_all = tmp_path / "data" / "plots", plots.draw_all
    monkeypatch.setattr(plots, "draw_all", lambda figures: draw_all(figures, timings, pictures))
    monkeypatch.setattr(command, "PLOTS", pictures)
    assert command.main(["plots"]) == 1
    said = capsys.readouterr()
    assert "decoder_forward.png drawn" in said.out and "no_kv_times.csv" in said.err


@pytest.mark.parametrize("file", sorted((ROOT / "data" / "timings").glob("*/*.csv")), ids=str)
def test_committed_tables_can_be_read_and_lie_with_their_machine(file):
    assert set(tables.read(TABLES[file.stem], file.parent).machine) == {file.parent.name}
