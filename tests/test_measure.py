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
from common.authoring.stubs import make_stub
from common.measure import __main__ as command
from common.measure import (
    copies,
    decoder_forward,
    flash,
    flash_steps,
    limits,
    models,
    no_kv,
    no_kv_plot,
    plots,
    prefill,
    roofline,
    row_kernels,
    run,
    single_batch,
    stamp,
    style,
    tables,
    timing,
)
from common.measure.ceilings import Ceilings
from common.measure.run import Interrupted, Point
from common.measure.tables import Table, TableError
from common.model.attention import CausalAttention
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


def test_a_cached_generation_makes_a_full_row_beside_its_peer(subject, monkeypatch):
    monkeypatch.setenv("LABS", "solutions")
    plan = single_batch.Plan(longest=9, longest_of_peer=5, at_least=1, budget=0.0)
    it = single_batch.Subject(subject, models.peer_of(subject.model), "transformers")
    row = single_batch.measure(lambda: it, 5, plan)
    assert set(row) == {*single_batch.TABLE.numbers, *single_batch.TABLE.optional, *single_batch.TABLE.words}
    assert None not in row.values() and row["code"] == "solutions"
    assert row["time"] == pytest.approx(row["prefill_s"] + row["decode_s"])
    assert 0 < row["limit_seconds"] < no_kv.limit_seconds(subject, 5), "with a cache there is less to do"
    assert row["predicted"] == pytest.approx(5 * 1e-4, rel=0.5)
    assert single_batch.measure(lambda: it, 6, plan)["peer_time"] is None, "longer than the peer is timed"


def test_a_batch_makes_a_full_row_beside_its_peer(subject, monkeypatch):
    monkeypatch.setenv("LABS", "solutions")
    plan = single_batch.Plan(longest=5, longest_of_peer=5, at_least=2, budget=0.0)
    it = single_batch.Subject(subject, models.peer_of(subject.model), "transformers")
    row = prefill.measure(lambda: it, [3, 9, 1], plan)
    assert set(row) == {*prefill.NUMBERS, *prefill.PEER, *prefill.DIFFERENT.words}
    assert None not in row.values() and row["code"] == "solutions" and row["repeats"] == 2
    assert (row["prompt_tokens"], row["padded_tokens"]) == (13, 27)
    assert row["tokens_per_s"] == pytest.approx(3 * 4 / row["decode_s"])
    absent = prefill.measure(lambda: single_batch.Subject(subject, None, "transformers absent: why"), [3, 9], plan)
    assert absent["peer"].endswith("why") and absent["decode_ratio"] is None


def test_a_batch_of_one_has_the_limits_of_a_single_generation(subject):
    rates = *subject.limit_of_call, subject.model.embed_tokens.weight.element_size()
    alone = limits.generation_limits(subject.model.config, [len(subject.prompt)], 5, *rates)
    assert sum(alone) == pytest.approx(single_batch.limit_seconds(subject, 5))
    three = limits.generation_limits(subject.model.config, 3 * [len(subject.prompt)], 5, *rates)
    assert all(one <= many <= 3 * one for one, many in zip(alone, three, strict=True)), "weights are read once for all"


def test_prompts_differ_and_larger_batches_begin_as_smaller_ones():
    assert prefill.prompt_lengths(4, different=False) == [512] * 4
    different = prefill.prompt_lengths(64, different=True)
    assert different[:8] == prefill.prompt_lengths(8, different=True)
    assert min(different) >= 32 and max(different) <= 512 and len(set(different)) > 48


def test_an_unfinished_batch_engine_is_not_timed(subject, monkeypatch, tmp_path):
    (tmp_path / "prefill.py").write_text(make_stub((ROOT / "solutions" / "prefill.py").read_text(), "prefill"))
    monkeypatch.setenv("LABS", str(tmp_path))
    with pytest.raises(NotImplementedError, match="04."):
        prefill.measure(lambda: single_batch.Subject(subject, None, "absent"), [3, 9], single_batch.PATIENT)


def test_an_unfinished_engine_is_not_timed(subject, monkeypatch, tmp_path):
    solution = (ROOT / "solutions" / "kv_cache.py").read_text()
    (tmp_path / "kv_cache.py").write_text(make_stub(solution, "kv_cache"))
    monkeypatch.setenv("LABS", str(tmp_path))
    with pytest.raises(NotImplementedError, match="03.3"):
        single_batch.measure(lambda: single_batch.Subject(subject, None, "absent"), 5, single_batch.PATIENT)


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
    flops = [limits.call_flops(TINY, new, held, causal=True) - logits for new, held in calls]
    assert sum(flops) == limits.forward_flops(TINY, 9, causal=True) - logits
    assert limits.call_bytes(TINY, 1, 8, 4) - limits.weight_bytes(TINY, 4) == 2 * TINY.n_layers * 9 * 2 * 4 * 4


def test_random_weights_have_the_dtype_and_spare_the_default():
    model = random_model(TINY, torch.bfloat16, CPU)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.rotary.frequency.dtype == torch.float32 == torch.get_default_dtype()


def test_weights_are_counted_as_the_model_holds_them():
    model = random_model(TINY, torch.float32, CPU)
    matrices = {name: weight for name, weight in model.named_parameters() if weight.dim() == 2}
    del matrices["embed_tokens.weight"]  # looked up, not read
    assert limits.weight_bytes(TINY, 4) == sum(weight.nbytes for weight in matrices.values())


def test_an_attention_that_fails_gives_its_reason_and_a_stub_gives_no_row():
    task = flash.tasks()[0]
    assert flash.in_row(flash.Absent("forward only"), task)["reason"] == "forward only"
    row = flash.in_row(RuntimeError("no way\nat all"), task)
    assert row["reason"] == "RuntimeError: no way" and row["time"] is None
    with pytest.raises(NotImplementedError):
        flash.in_row(NotImplementedError("06.4 is still a stub"), task)


def test_steps_of_the_attention_kernels_stand_in_their_sources(monkeypatch):
    monkeypatch.setattr(flash_steps, "labs_folder", lambda: ROOT / "solutions")
    for name, version in flash_steps.VERSIONS.items():
        source = version.file().read_text(encoding="utf-8")
        for step, replacements in version.undo.items():
            for fragment in replacements:
                assert source.count(fragment) == 1, f"{name}, {step}: {fragment}"


def test_points_of_a_machine_have_the_keys_of_their_table():
    for device in (CPU, torch.device("cuda")):
        topics = (decoder_forward, no_kv, single_batch, prefill, row_kernels, copies, flash, flash_steps)
        for point in (point for topic in topics for point in topic.points(device)):
            assert tuple(point.key) == point.table.key
        plain, cached = ({tuple(point.key.values()) for point in topic.points(device)}
                         for topic in (no_kv, single_batch))
        assert cached <= plain, "the same prompts and lengths"
    assert {point.key["model"] for point in no_kv.points(torch.device("cuda"))} == {"story-llama", "llama-3-8b-shape"}


def test_an_absent_peer_is_listed_with_the_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    models.peer_named.cache_clear()
    monkeypatch.setattr(decoder_forward, "time_each", lambda functions, *_, **__: [timing.Times((1,))] * len(functions))
    row = decoder_forward.measure("forward", 1, 4, 0)
    models.peer_named.cache_clear()
    assert row["peer"].startswith("transformers absent: ") and row["peer_time"] is None and row["ratio"] is None


@pytest.fixture
def small_rows(monkeypatch):
    """Row kernels of a size that the interpreter runs, on this CPU, with nothing compiled."""
    monkeypatch.setenv("LABS", "solutions")
    monkeypatch.setattr(torch, "compile", lambda formula, dynamic: formula)
    monkeypatch.setattr(row_kernels, "SIZES", {kernel: [(3, 1280)] for kernel in row_kernels.SIZES})
    monkeypatch.setattr(row_kernels, "limits", lambda *_: (1e9, 1e-6))
    monkeypatch.setattr(row_kernels, "time_each", lambda runs, *_, **__: [timing.Times((1.0,))] * len(runs))
    caches = (row_kernels.case, row_kernels.prepare, row_kernels.timed)
    yield partial(row_kernels.measure, rows=3, columns=1280, dtype=torch.float32, device=CPU)
    for one in caches:
        one.cache_clear()


@pytest.mark.parametrize("kernel", row_kernels.SIZES)
def test_row_kernels_make_full_rows(small_rows, kernel):
    for name in row_kernels.names(kernel, (3, 1280)):
        row = small_rows(kernel, name=name)
        assert set(row) == {*row_kernels.TABLE.numbers, *row_kernels.TABLE.optional, *row_kernels.TABLE.words}
        assert (row["time"] is None) == bool(row["absent"])
        if name in (row_kernels.LESSON, row_kernels.TORCH):
            assert row["time"] == 1.0 and row["share_of_copy"] == row["bytes"] / 1e9
        if name == row_kernels.LESSON:
            assert row["predicted"] == pytest.approx(row["bytes"] / 1e9)


def test_a_wrong_row_kernel_is_not_timed(small_rows, monkeypatch):
    monkeypatch.setattr(row_kernels, "normed", lambda x, weight: (x,))
    with pytest.raises(ValueError, match="differs from the formula"):
        small_rows("rms_norm", name=row_kernels.LESSON)


@pytest.mark.parametrize("layout", ["whole", "column"])
def test_a_copy_copies_so_many_bytes(layout, monkeypatch):
    copied = []

    def note(copy, *_, **__):
        copy()
        copied.append(copy)
        return timing.Times((1.0,))

    monkeypatch.setattr(copies, "time_one", note)
    assert copies.measure(CPU, copies.WITHIN, "none", layout, 4096)["time"] == 1.0
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
        numbers = dict.fromkeys(no_kv.TABLE.numbers, 1.0) | {"time": n**1.5, "p05": n**1.4, "p95": n**1.6}
        tables.append(no_kv.TABLE, folder, {"model": "m", "dtype": "float32", "prompt_length": 64, "output_length": n}
                      | numbers | {"predicted": None} | mark)
        numbers = dict.fromkeys(single_batch.TABLE.numbers, 0.5) | {"time": n / 2, "p05": n / 3, "p95": n}
        rest = dict.fromkeys(single_batch.TABLE.optional) | {"peer": "transformers absent: no module", "code": "labs"}
        tables.append(single_batch.TABLE, folder, {"model": "m", "dtype": "float32", "prompt_length": 64,
                                                   "output_length": n} | numbers | rest | mark)
    for size in (1, 2, 4):
        numbers = dict.fromkeys(prefill.NUMBERS, 1.0 * size) | {"padded_tokens": 2.0 * size}
        rest = dict.fromkeys(prefill.PEER) | {"peer": "transformers absent: no module", "code": "labs"}
        for table in (prefill.UNIFORM, prefill.DIFFERENT):
            tables.append(table, folder, {"model": "m", "dtype": "float32", "batch_size": size} | numbers | rest | mark)
    for task in ("forward", "generate"):
        numbers = {"time": 2.0, "p05": 1.0, "p95": 3.0, "repeats": 5}
        peer = dict.fromkeys(decoder_forward.TABLE.optional) | {"peer": "transformers absent: no such module"}
        tables.append(decoder_forward.TABLE, folder,
                      {"task": task, "batch": 1, "tokens": 8, "new_tokens": 0} | numbers | peer | mark)
    for point in row_kernels.points(torch.device("cuda")):
        numbers = dict.fromkeys(row_kernels.TABLE.numbers, 2e8) | dict.fromkeys(row_kernels.TABLE.optional, 1e-4)
        tables.append(row_kernels.TABLE, folder, point.key | numbers | {"absent": ""} | mark)
    for point in copies.points(torch.device("cuda"))[::5]:
        numbers = {"time": 1e-5 + point.key["bytes"] / 1e9, "p05": 1e-5, "p95": 1.0, "repeats": 5}
        tables.append(copies.TABLE, folder, point.key | numbers | mark)
    limits = {"matmul_flops_per_second": 7e14, "copy_bytes_per_second": 3e12, **dict.fromkeys(flash.TABLE.optional)}
    for task in [task for task in flash.tasks() if task.sequence in (1024, 16_384)]:
        seconds = {"time": task.flops / 4e14, "p05": task.flops / 5e14, "p95": task.flops / 3e14, "tflops": 400.0}
        tables.append(flash.TABLE, folder, flash.key_of(task, "lesson 06") | limits | seconds | {"reason": ""} | mark)
        tables.append(flash.TABLE, folder, flash.key_of(task, "FlashInfer") | limits | {"reason": "not here"} | mark)
    for point in flash_steps.points(torch.device("cuda")):
        seconds = {"time": 1e-3, "p05": 9e-4, "p95": 2e-3, "repeats": 5, "tflops": 400.0, "reason": ""}
        tables.append(flash_steps.TABLE, folder, point.key | seconds | mark)
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
    no_kv.TABLE.file(timings / "toy").write_text("damaged")
    (timings / "toy" / "foreign.csv").write_text("a,b\n1,2\n")
    written, problems = plots.draw_all(timings, tmp_path / "plots")
    undamaged = {name for name, (needed, _) in plots.FIGURES.items() if no_kv.TABLE not in needed}
    assert {file.stem for file in written} == undamaged
    assert len(problems) == 2 and "foreign.csv" in problems[0] and "no_kv_times.csv" in problems[1]


def test_attention_is_summed_up_with_its_absent_peers(timings):
    rows = tables.read(flash.TABLE, timings / "toy")
    twice = rows[rows.implementation.eq("lesson 06")].assign(implementation="torch FA2", tflops=200.0)
    said = flash.summary(pd.concat([rows, twice])).splitlines()
    assert said[2].split() == ["forward", "torch", "FA2", "2.00", "(2.00-2.00)"]
    assert said[-1] == "absent, backward: FlashInfer: not here"


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
