"""A function held against its formula, which most exercises of this lesson ask for, and one layer's weights."""
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from common.checking.draw import randn
from common.checking.exercise import Check, Rng, Values


@dataclass(frozen=True, kw_only=True)
class FormulaCheck(Check):
    """A function of the lab, called with what `arguments` draws, against what `formula` makes of it in float64."""

    symbol: str  # the lab's function
    formula: Callable[..., Tensor]
    arguments: Callable[[Rng], Values]  # by name, in the order of the call
    prepare: Callable[..., Sequence[Any]] = lambda *drawn: drawn  # makes the arguments of the call from those drawn
    judged: Callable[[Values, Values, Tensor], None]  # of inputs, outputs and what the formula gives

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        return in_dtype(self.arguments(rng), dtype)

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        arguments = self.prepare(*inputs.values())
        return {"out": getattr(lab, self.symbol)(*arguments), "first": arguments[0]}  # the first as the call left it

    def judge(self, inputs: Values, outputs: Values) -> None:
        self.judged(inputs, outputs, self.formula(*self.prepare(*in_dtype(inputs, torch.float64).values())))


def in_dtype(value: Any, dtype: torch.dtype) -> Any:
    """The same value with every floating-point tensor in `dtype`, those in dictionaries too."""
    if isinstance(value, dict):
        return {name: in_dtype(part, dtype) for name, part in value.items()}
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def small_config(dim: int, h: int, kh: int, d: int, width: int, layers: int = 1, vocab_size: int = 8) -> Values:
    return {"vocab_size": vocab_size, "dim": dim, "n_layers": layers, "n_heads": h, "n_kv_heads": kh, "head_dim": d,
            "ffn_dim": width}


def draw_layer(rng: Rng, config: Values) -> dict[str, Tensor]:
    """One layer's weights, with norms that change nothing."""
    dim, width = config["dim"], config["ffn_dim"]
    q, kv = config["n_heads"] * config["head_dim"], config["n_kv_heads"] * config["head_dim"]
    shapes = {"self_attn.q_proj": (q, dim), "self_attn.k_proj": (kv, dim), "self_attn.v_proj": (kv, dim),
              "self_attn.o_proj": (dim, q), "mlp.gate_proj": (width, dim), "mlp.up_proj": (width, dim),
              "mlp.down_proj": (dim, width)}
    weights = {f"{name}.weight": randn(rng, *shape) / math.sqrt(shape[1]) for name, shape in shapes.items()}
    return weights | {f"{name}.weight": torch.ones(dim) for name in ("input_layernorm", "post_attention_layernorm")}
