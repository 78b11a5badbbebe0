"""Attention by itself, in TFLOP/s, beside its peers and under the matmul rate of the same run.

All implementations of one point are timed in the same rounds, and each has to agree with torch's FlashAttention-2
first: one that computes something else is listed as absent, with the error as the reason.
"""
from collections.abc import Callable
from dataclasses import fields
from functools import cache, lru_cache, partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from common.lessons.flash_attention.implementations import (
    IMPLEMENTATIONS,
    Absent,
    Attend,
    Problem,
    Task,
    lab,
    make_problem,
    packed,
    torch_fused,
)
from common.measure.ceilings import Ceilings, measure_ceilings
from common.measure.run import Point
from common.measure.tables import Table
from common.measure.timing import Times, time_each

TABLE = Table("attention_performance",
              key=("direction", "implementation", "head_dim", "heads", "kv_heads", "causal", "batch", "sequence",
                   "dtype"),
              numbers=("matmul_flops_per_second", "copy_bytes_per_second"),
              optional=("time", "p05", "p95", "repeats", "tflops", "share", "predicted"), words=("reason",))
TOKENS, HIDDEN = 16_384, 2048
BUDGET = 0.4  # seconds of rounds at one point
TOLERANCE = 2e-2  # of the largest value; bfloat16 keeps 8 bits


def points(device: torch.device) -> list[Point]:
    if device.type != "cuda":
        return []  # a CPU only has the interpreter
    return [Point(TABLE, key_of(task, name), partial(measure, task, name, device))
            for task in tasks() for name in IMPLEMENTATIONS if name != "plain torch" or has_plain(task)]


def tasks() -> list[Task]:
    lengths = [2**power for power in range(9, 15)]
    grid = [Task(direction, head_dim, HIDDEN // head_dim, HIDDEN // head_dim, causal, TOKENS // length, length)
            for direction in ("forward", "backward") for head_dim in (64, 128) for causal in (False, True)
            for length in lengths]
    batches = [Task("forward", 128, 16, 16, True, 2**power, 1024) for power in range(7)]
    llama = [Task("forward", 128, 32, 8, True, TOKENS // length, length) for length in lengths]
    return list(dict.fromkeys(grid + batches + llama))


def has_plain(task: Task) -> bool:
    """The plain formula as 06.1 counts it: forward, no mask, as many key/value heads as query heads."""
    return task.direction == "forward" and not task.causal and task.heads == task.kv_heads


def key_of(task: Task, name: str) -> dict[str, str | int]:
    values = {field.name: getattr(task, field.name) for field in fields(task)} | {
        "implementation": name, "causal": int(task.causal), "dtype": "bfloat16"}
    return {column: values[column] for column in TABLE.key}


def measure(task: Task, name: str, device: torch.device) -> dict:
    row, limits = in_row(measure_all(task, device)[name], task), ceilings(device)
    known = row["time"] is not None
    return row | {**limits.columns(),
                  "share": row["tflops"] * 1e12 / limits.flops_per_second if known else None,
                  "predicted": predicted_seconds(task, name, limits) if known else None}


@lru_cache(maxsize=1)
def measure_all(task: Task, device: torch.device) -> dict[str, Times | Exception]:
    return time_all(IMPLEMENTATIONS, make_problem(task, device))


def time_all(implementations: dict[str, Callable[[Problem], Attend]], problem: Problem) -> dict[str, Times | Exception]:
    """Name -> its times, in the same rounds as all others', or what it raised. A wrong result counts as Absent."""
    reference, found = [packed(x) for x in torch_fused(SDPBackend.FLASH_ATTENTION, problem)()], {}
    for name, prepare in implementations.items():
        try:
            attend = prepare(problem)
            expect_near(reference, attend())
            found[name] = attend
        except Exception as error:
            found[name] = error.with_traceback(None)  # its frames would hold on to tensors
    del reference
    running = {name: attend for name, attend in found.items() if not isinstance(attend, Exception)}
    times = time_each(list(running.values()), problem.q.device, BUDGET, at_least=5, at_most=100, queued=True)
    return found | dict(zip(running, times, strict=True))


def in_row(times: Times | Exception, task: Task) -> dict:
    """The columns that say how fast it was, or why that is not known. Raise a stub's error: it may be written later."""
    if isinstance(times, NotImplementedError):
        raise times
    if isinstance(times, Exception):
        reason = str(times) if isinstance(times, Absent) else f"{type(times).__name__}: {times}".splitlines()[0]
        return dict.fromkeys(("time", "p05", "p95", "repeats", "tflops")) | {"reason": reason[:200]}
    return times.columns() | {"tflops": task.flops / times.median / 1e12, "reason": ""}


@cache
def ceilings(device: torch.device) -> Ceilings:
    return measure_ceilings(device, torch.bfloat16)


def expect_near(reference: list[Tensor], got: tuple[Tensor, ...]) -> None:
    for want, result in zip(reference, got, strict=True):
        error = (packed(result).float() - want.float()).abs().max() / want.float().abs().max()
        if not error <= TOLERANCE:
            raise Absent(f"its result is off by {error:.2g} of the largest value")


def predicted_seconds(task: Task, name: str, limits: Ceilings) -> float | None:
    """What the lab's own count of bytes (06.1) says: no faster than the bytes, nor than the FLOPs."""
    if name not in ("plain torch", "lesson 06") or not has_plain(task):
        return None
    try:
        q_tile = lab().tiles(task.head_dim, torch.bfloat16, torch.device("cuda"))["Q_TILE"]
        plain, tiled = lab().attention_bytes(task.sequence, task.sequence, task.heads, task.kv_heads, task.head_dim, 2,
                                             q_tile)
    except Exception:  # an unfinished lab must not cost the measurement
        return None
    moved = task.batch * (plain if name == "plain torch" else tiled)
    return max(moved / limits.bytes_per_second, task.flops / limits.flops_per_second)


# --- What the rows say in short ---

BETTER = {"better of both": ["lesson 06", "second version"],
          "better of cuDNN, FA3": ["torch cuDNN", "FlashAttention-3"]}
OURS = ("lesson 06", "second version", "better of both")
PEERS = ("torch FA2", "torch cuDNN", "FlashAttention-3", "FlashInfer", "better of cuDNN, FA3")


def summary(rows: pd.DataFrame) -> str:
    """How many times as fast as each peer ours is: over the points of the grid that both have."""
    grid = rows[rows.kv_heads.eq(rows.heads) & (rows.batch.astype(int) * rows.sequence.astype(int)).eq(TOKENS)]
    table = grid.pivot_table(index=["direction", "head_dim", "causal", "sequence"], columns="implementation",
                             values="tflops").reindex(columns=list(IMPLEMENTATIONS))
    for better, pair in BETTER.items():
        table[better] = table[pair].max(axis=1).where(table[pair].notna().all(axis=1))
    lines = ["TFLOP/s, ours / theirs: geometric mean (smallest to largest)",
             f"{'':32}" + "".join(f"{ours:18}" for ours in OURS)]
    for direction in sorted(set(table.index.get_level_values("direction")), reverse=True):
        speeds = table.loc[direction]
        for peer in PEERS:
            cells = [in_short((speeds[ours] / speeds[peer]).dropna()) for ours in OURS]
            if any(cells):
                lines.append(f"{direction:10}{peer:22}" + "".join(f"{cell:18}" for cell in cells))
    absent = rows[rows.time.isna()].groupby(["direction", "reason"], sort=False).implementation.unique()
    lines += [f"absent, {direction}: {', '.join(names)}: {reason}" for (direction, reason), names in absent.items()]
    return "\n".join(line.rstrip() for line in lines)


def in_short(ratios: pd.Series) -> str:
    return f"{np.exp(np.log(ratios).mean()):.2f} ({ratios.min():.2f}-{ratios.max():.2f})" if len(ratios) else ""
