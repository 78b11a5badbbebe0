"""What each step towards a fast kernel is worth: every step is undone by itself, and timed beside the whole.

A step has the name of what stands in its place when it is undone. Undoing it replaces some fragments of the source.
"""
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType

import pandas as pd
import torch

from common import ROOT, labs_folder
from common.lessons.flash_attention.attention_timings import HIDDEN, TOKENS, in_row, time_all
from common.lessons.flash_attention.implementations import Absent, Attend, Problem, Task, make_problem
from common.measure.run import Point
from common.measure.tables import Table
from common.measure.timing import Times

HEAD_DIM, SEQUENCE = 128, 4096
TABLE = Table("attention_steps", key=("version", "step", "causal", "head_dim", "sequence", "dtype"), numbers=(),
              optional=("time", "p05", "p95", "repeats", "tflops"), words=("reason",))
ALL = "all steps"  # the others, each with one step undone, are compared with this


@dataclass(frozen=True)
class Version:
    """A source, the name of its function, and its steps: what to replace in the source to undo each of them."""

    file: Callable[[], Path]
    function: str
    undo: dict[str, dict[str, str]]


VERSIONS = {
    "lesson 06": Version(lambda: labs_folder() / "flash_attention.py", "flash_attention", {
        ALL: {},
        "heads first in the grid": {
            "head, heads, sequence = tl.program_id(1), tl.num_programs(1), tl.program_id(2)\n"
            "    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * Q_TILE  # the last queries":
            "head, heads, sequence = tl.program_id(0), tl.num_programs(0), tl.program_id(1)\n"
            "    first = (tl.num_programs(2) - 1 - tl.program_id(2)) * Q_TILE  # the last queries",
            'grid = (triton.cdiv(max_seqlen_q, config["Q_TILE"]), heads, len(cu_seqlens_q) - 1)':
            'grid = (heads, len(cu_seqlens_q) - 1, triton.cdiv(max_seqlen_q, config["Q_TILE"]))'},
        "first queries first": {
            "first = (tl.num_programs(0) - 1 - tl.program_id(0)) * Q_TILE  # the last":
            "first = tl.program_id(0) * Q_TILE  # the last"},
        "a mask in every tile": {
            "if part != 1:\n                keys = start + tl.arange(0, K_TILE)\n                v = _rows_there":
            "if part != 3:\n                keys = start + tl.arange(0, K_TILE)\n                v = _rows_there"},
        "pointers for descriptors": {
            "return TensorDescriptor.from_tensor(x, [rows, 1, triton.next_power_of_2(x.shape[2])])": "return x",
            "rows: tl.constexpr = desc.block_shape[0]\n"
            "    return desc.load([start.to(tl.int32), head, 0]).reshape(rows, desc.block_shape[2])":
            "rows = start + tl.arange(0, 64)\n"
            f"    return tl.load(desc + (rows[:, None] * {HIDDEN // HEAD_DIM} + head) * {HEAD_DIM} + "
            f"tl.arange(0, {HEAD_DIM})[None, :])"}}),
    "second version": Version(lambda: ROOT / "common" / "kernels" / "flash_attention_2.py", "flash_attention_2", {
        ALL: {},
        "values added up at once": {
            "scores = warpgroup_mma_wait(1, [scores])": "scores, out = warpgroup_mma_wait(0, [scores, out])"},
        "exponentials after the wait": {"computed_by_now(row_sum)])": "row_sum])"},
        "a program for each piece": {
            "programs = min(work, torch.cuda.get_device_properties(q.device).multi_processor_count)":
            "programs = work"},
        "narrow stores": {
            "WIDE: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [4, 1], [1, 0])":
            "WIDE: gl.constexpr = O_LAYOUT"}}),
}


def points(device: torch.device) -> list[Point]:
    if device.type != "cuda":
        return []
    return [Point(TABLE, {"version": version, "step": step, "causal": causal, "head_dim": HEAD_DIM,
                          "sequence": SEQUENCE, "dtype": "bfloat16"}, partial(measure, version, step, causal, device))
            for version in VERSIONS for causal in (0, 1) for step in VERSIONS[version].undo]


def measure(version: str, step: str, causal: int, device: torch.device) -> dict:
    return in_row(measure_all(version, causal, device)[step], task_of(causal))


@lru_cache(maxsize=1)
def measure_all(version: str, causal: int, device: torch.device) -> dict[str, Times | Exception]:
    """Step -> the times with it undone, or why there are none."""
    undo = VERSIONS[version].undo
    return time_all({step: partial(without, VERSIONS[version], replacements) for step, replacements in undo.items()},
                    make_problem(task_of(causal), device))


def task_of(causal: int) -> Task:
    heads = HIDDEN // HEAD_DIM
    return Task("forward", HEAD_DIM, heads, heads, bool(causal), TOKENS // SEQUENCE, SEQUENCE)


def without(version: Version, replacements: dict[str, str], problem: Problem) -> Attend:
    """The version's attention, from its source with the fragments replaced."""
    source = version.file().read_text(encoding="utf-8")
    for fragment, replacement in replacements.items():
        if source.count(fragment) != 1:
            raise Absent(f"{version.file().name} is written otherwise")
        source = source.replace(fragment, replacement)
    function = getattr(module_of(source), version.function)
    task, starts = problem.task, problem.cu_seqlens
    return lambda: function(problem.q, problem.k, problem.v, starts, starts, task.sequence, task.causal)[:1]


def module_of(source: str) -> ModuleType:
    """A module made from a file, since Triton reads a kernel's source there."""
    file = Path(tempfile.mkdtemp()) / f"attention_step_{abs(hash(source))}.py"
    file.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def summary(rows: pd.DataFrame) -> str:
    """How many times as fast a version is as with one step undone."""
    lines = [f"{'':16}{'':37}{'no mask':>9}{'causal':>9}"]
    for version, steps in rows.groupby("version", sort=False):
        table = steps.pivot_table(index="step", columns="causal", values="tflops", sort=False)
        lines.append(f"{version:16}{'TFLOP/s with ' + ALL:37}" + "".join(f"{table[c][ALL]:9.0f}" for c in "01"))
        lines += [f"{'':16}{'gain over ' + step:37}" + "".join(f"{table[c][ALL] / table[c][step]:8.2f}x" for c in "01")
                  for step in table.index if step != ALL]
    return "\n".join(lines)
