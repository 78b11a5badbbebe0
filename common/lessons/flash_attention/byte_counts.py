"""06.1: the bytes that attention reads and writes, the plain way and tile by tile."""
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from common.checking.compare import expect_equal
from common.checking.draw import integer
from common.checking.exercise import Check, Exercise, Values
from common.lessons.flash_attention.shared import items

Shape = dict[str, int]  # the arguments of `attention_bytes`


class OperandElements(TorchDispatchMode):
    """Counts the elements that matrix products and softmaxes take and give, each tensor once per operation."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if operation in (torch.ops.aten.bmm.default, torch.ops.aten._softmax.default):
            self.count += sum(x.numel() for x in (*args, result) if isinstance(x, Tensor))
        return result


def counted_bytes(nq: int, nk: int, heads: int, kv_heads: int, head_dim: int, element_bytes: int,
                  q_tile: int) -> tuple[int, int]:
    """What three operations of torch take and give on these shapes (nothing is computed); what the programs load."""
    with torch.device("meta"), OperandElements() as elements:
        q = torch.empty(kv_heads, heads // kv_heads * nq, head_dim)  # the queries of a group side by side
        k = v = torch.empty(kv_heads, nk, head_dim)
        torch.bmm(torch.bmm(q, k.mT).softmax(-1), v)
    tiled = 0
    for first in range(0, nq, q_tile):
        rows = min(first + q_tile, nq) - first
        tiled += heads * ((rows * head_dim + 2 * nk * head_dim + rows * head_dim) * element_bytes + rows * 4)
    return elements.count * element_bytes, tiled


@dataclass(frozen=True, kw_only=True)
class BytesCheck(Check):
    shape: Callable[[np.random.Generator], Shape]
    draws: int = 5

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return self.shape(rng)

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        plain, tiled = items("attention_bytes", lab.attention_bytes(**inputs), ("plain", "tiled"))
        return {"plain": plain, "tiled": tiled}

    def judge(self, inputs: Values, outputs: Values) -> None:
        plain, tiled = counted_bytes(**inputs)
        expect_equal(f"plain bytes for {inputs}", outputs["plain"], plain)
        expect_equal(f"tiled bytes for {inputs}", outputs["tiled"], tiled)


def square(rng: np.random.Generator) -> Shape:
    n = 2 ** integer(rng, 4, 7)
    return {"nq": n, "nk": n, "heads": 1, "kv_heads": 1, "head_dim": n, "element_bytes": 2, "q_tile": n}


def many_tiles(rng: np.random.Generator) -> Shape:
    return {"nq": integer(rng, 100, 4999), "nk": integer(rng, 100, 4999), "heads": 1, "kv_heads": 1,
            "head_dim": 8 * integer(rng, 2, 16), "element_bytes": int(rng.choice([2, 4])),
            "q_tile": int(rng.choice([32, 64, 100, 128]))}


def groups(rng: np.random.Generator) -> Shape:
    kv_heads = integer(rng, 1, 8)
    return {"nq": integer(rng, 100, 4999), "nk": integer(rng, 100, 4999), "heads": kv_heads * integer(rng, 2, 8),
            "kv_heads": kv_heads, "head_dim": 64, "element_bytes": 2, "q_tile": 64}


EXERCISE = Exercise("06.1", "The bytes of attention", "attention_bytes", minutes=10, difficulty=2, checks=(
    BytesCheck("counts one head and one tile", 1, shape=square,
        advice="Plain: q, k, scores; scores, p; p, v, out. Tiled: q, k, v, out, 4 bytes of lse a row. Both plain "
               "ints."),
    BytesCheck("counts keys and values once for every tile of queries", 1, shape=many_tiles,
        advice="ceil(nq / q_tile) programs a head, each of which loads all nk keys and values: -(-nq // q_tile)."),
    BytesCheck("counts query heads and key/value heads apart", 1, shape=groups,
        advice="q, out and scores have `heads` heads, k and v `kv_heads`; but each program of a query head loads k "
               "and v."),
))
