"""01.5: the decoder layer."""
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from common.checking.compare import expect_equal, expect_near
from common.checking.draw import integer, randn
from common.checking.exercise import F32, Exercise, Rng, Values
from common.lessons.transformer.shared import FormulaCheck, draw_layer, small_config
from common.model.llama import Config
from common.oracles.decoder import PARTS, decoder_layer

OTHER_PARTS = SimpleNamespace(  # simple functions that are none of the four
    rms_norm=lambda x, weight, eps: x * weight / 2,
    rotate=lambda x, positions, theta: x + positions[:, None, None] / theta,
    causal_attention=lambda q, k, v: q * v.mean(dim=1, keepdim=True) + k.mean(dim=1, keepdim=True),
    swiglu=lambda x, w_gate, w_up, w_down: (x @ w_gate.T + x @ w_up.T) @ w_down.T,
)


def with_parts(x: Tensor, positions: Tensor, config: Values, weights: Values, parts: SimpleNamespace = PARTS) -> tuple:
    return x, positions, weights, Config(**config), parts


def expect_layer(inputs: Values, outputs: Values, want: Tensor, atol: float = 4e-5) -> None:
    expect_near("layer", outputs["out"], want, F32, atol)  # largest error 3.7e-6, with results of about 1 to 5


def expect_x_unchanged(inputs: Values, outputs: Values, want: Tensor) -> None:
    expect_equal("x after the call", outputs["first"], inputs["x"])


LayerCheck = partial(FormulaCheck, symbol="decoder_layer", formula=decoder_layer, prepare=with_parts,
                     judged=expect_layer)


def one_token(rng: Rng) -> Values:
    config = small_config(4, 1, 1, 4, 4)
    return {"x": randn(rng, 1, 4), "positions": torch.zeros(1, dtype=torch.long), "config": config,
            "weights": draw_layer(rng, config)}


def two_norms(rng: Rng) -> Values:
    config = small_config(16, 2, 2, 8, 24)
    weights = draw_layer(rng, config)
    for name in ("input_layernorm.weight", "post_attention_layernorm.weight"):
        weights[name] = torch.from_numpy(rng.uniform(0.3, 2, 16))
    return {"x": randn(rng, 1, 16), "positions": torch.zeros(1, dtype=torch.long), "config": config,
            "weights": weights}


def nothing_to_add(rng: Rng) -> Values:
    config = small_config(16, 2, 2, 8, 16)
    weights = draw_layer(rng, config)
    for name in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
        weights[name] = torch.zeros_like(weights[name])
    return {"x": 3 * randn(rng, 5, 16), "positions": torch.arange(5), "config": config, "weights": weights}


def many_tokens(rng: Rng, n: int, config: Values) -> Values:
    """Positions rise with gaps: a shift of all of them would not show, for rotary sees distances only."""
    return {"x": randn(rng, n, config["dim"]), "positions": torch.from_numpy(np.cumsum(rng.integers(2, 6, n))),
            "config": config, "weights": draw_layer(rng, config)}


def grouped_heads(rng: Rng) -> Values:
    kh, d = integer(rng, 2, 3), 2 * integer(rng, 3, 9)  # of a single key head no split can be wrong
    config = small_config(integer(rng, 20, 50), kh * integer(rng, 2, 3), kh, d, integer(rng, 20, 50))
    return many_tokens(rng, integer(rng, 3, 20), config)


EXERCISE = Exercise("01.5", "The decoder layer", "decoder_layer", minutes=20, difficulty=3,
                    refused=("common.model.llama.DecoderLayer", "common.model.llama.SelfAttention"), checks=(
    LayerCheck("carries one token at position 0 through both parts", 1, arguments=one_token,
        advice="x = x + o_proj(attention(norm(x))), and then x = x + swiglu(norm(x)): each part reads a normed copy."),
    LayerCheck("norms before each part, with that part's own weight", 1, draws=2, arguments=two_norms,
        advice="input_layernorm stands before attention, post_attention_layernorm before the feed-forward part."),
    LayerCheck("returns x itself where neither part adds anything", 2, arguments=nothing_to_add,
               judged=partial(expect_layer, atol=0),  # x + 0 is x
               advice="With o_proj and down_proj all zero both parts add zeros: what comes out is x, neither normed "
                      "nor lost."),
    LayerCheck("rotates queries and keys by the positions given, and leaves values alone", 2, draws=3,
        arguments=lambda rng: many_tokens(rng, integer(rng, 6, 30), small_config(32, 1, 1, 32, 16)),
        advice="rotate(q, positions, theta) and rotate(k, positions, theta): v carries content, and stays as it is."),
    LayerCheck("splits the projections into heads of D neighbouring rows", 1, draws=3, arguments=grouped_heads,
        advice="Row h * D + d of q_proj is element d of head h: unflatten to (heads, D), not to (D, heads)."),
    LayerCheck("leaves the x that it was given unchanged", 1, arguments=grouped_heads, judged=expect_x_unchanged,
        advice="x += y writes into the tensor that the caller still holds: write x = x + y."),
    LayerCheck("uses the four functions that `parts` holds", 1, arguments=grouped_heads,
        prepare=partial(with_parts, parts=OTHER_PARTS),
        advice="Call parts.rms_norm, parts.rotate, parts.causal_attention and parts.swiglu, here other ones than "
               "yours."),
))
