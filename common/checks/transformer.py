"""Lesson 01: checks of the decoder's parts, of the model that they make, of its loss and of sampling.

The oracles are the formulas in float64, written apart from the reference: the rotation as a product of complex numbers,
attention and silu from torch. A tolerance is ten times the largest error of the reference, and of
tests/alternatives/transformer.py, against its oracle over 500 seeds of all checks of the exercise, rounded up; the
largest error stands beside it.
"""
import math
from collections import Counter
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common import STORY_LLAMA
from common.checks.compare import expect_close, expect_equal, expect_like
from common.checks.draw import as_slices, draw_qkv, integer, randn
from common.checks.exercise import Check, Exercise, Lesson, Mismatch, Values
from common.device import DEVICE
from common.model.attention import CausalAttention
from common.model.checkpoint import load_model
from common.model.evaluate import fresh_stories
from common.model.llama import Config, Llama
from common.model.tokenizer import Tokenizer


def expect_near(what: str, got: Any, want: Tensor, dtype: torch.dtype, atol: float, rtol: float = 0.0) -> None:
    """Shape and dtype as promised, values within the tolerance of the float64 `want`."""
    expect_like(what, got, want.to(dtype))
    expect_close(what, got, want, atol, rtol)


# The oracles: right in whatever dtype they are given. Under the names that a layer knows its parts by, they also stand
# in for the learner's own functions, so that each exercise is marked by itself.


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / (x.pow(2).mean(dim=-1, keepdim=True) + eps).sqrt()


def rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    half = x.shape[-1] // 2
    pair = torch.arange(half, dtype=torch.float64, device=x.device)
    angle = torch.outer(positions.double(), theta ** (-pair / half))[:, None, :]
    turned = torch.complex(*x.double().split(half, dim=-1)) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((turned.real, turned.imag), dim=-1).to(x.dtype)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1)


def swiglu(x: Tensor, w_gate: Tensor, w_up: Tensor, w_down: Tensor) -> Tensor:
    return F.linear(F.silu(F.linear(x, w_gate)) * F.linear(x, w_up), w_down)


def decoder_layer(x: Tensor, positions: Tensor, weights: dict[str, Tensor], config: Config, parts: Any) -> Tensor:
    def project(name: str, rows: Tensor) -> Tensor:
        return F.linear(rows, weights[f"self_attn.{name}_proj.weight"])

    def heads(name: str) -> Tensor:
        return project(name, normed).view(len(x), -1, config.head_dim)

    normed = parts.rms_norm(x, weights["input_layernorm.weight"], config.norm_eps)
    q, k = (parts.rotate(heads(name), positions, config.rope_theta) for name in ("q", "k"))
    between = x + project("o", parts.causal_attention(q, k, heads("v")).reshape(len(x), -1))
    normed = parts.rms_norm(between, weights["post_attention_layernorm.weight"], config.norm_eps)
    return between + parts.swiglu(normed, *(weights[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down")))


PARTS = SimpleNamespace(rms_norm=rms_norm, rotate=rotate, causal_attention=causal_attention, swiglu=swiglu,
                        decoder_layer=decoder_layer)


# 01.1 -----------------------------------------------------------------------------------------------------------------


class NormCheck(Check):
    # Largest error, relative to the value: 3.0e-7, 9.5e-4 and 7.6e-3.
    rtol = {torch.float32: 3e-6, torch.float16: 1e-2, torch.bfloat16: 8e-2}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"out": lab.rms_norm(inputs["x"], inputs["weight"], inputs["eps"])}

    def judge(self, inputs: Values, outputs: Values) -> None:
        x = inputs["x"]
        want = rms_norm(x.double(), inputs["weight"].double(), inputs["eps"])
        expect_near("normed rows", outputs["out"], want, x.dtype, atol=0, rtol=self.rtol[x.dtype])


class NormsOneRow(NormCheck):
    name = "brings a row to root mean square 1"
    points = 1
    mistake = "divides by something other than the root of the mean of the squares"
    advice = "Square, take the mean over the row, then the root, and divide the row by that: RMS, read backwards."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"x": randn(rng, 1, 8).to(dtype), "weight": torch.ones(8, dtype=dtype), "eps": 0.0}


class NormsEachRowByItself(NormCheck):
    name = "norms every row by itself and scales column i by weight[i]"
    points = 1
    draws = 3
    mistake = "takes the mean over the whole matrix, or forgets the weight"
    advice = "mean(dim=-1, keepdim=True) keeps one number a row; the weight has one number a column."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        n, dim = integer(rng, 3, 20), integer(rng, 17, 300)
        sizes = 2.0 ** torch.arange(n)[:, None]  # every row twice as large as the one above
        return {"x": (sizes * randn(rng, n, dim)).to(dtype), "weight": (2 + randn(rng, dim)).to(dtype), "eps": 1e-6}


class AddsEpsInsideTheRoot(NormCheck):
    name = "adds eps inside the root"
    points = 1
    mistake = "adds eps to the root, or leaves it out, which shows in small rows and divides zeros by zero"
    advice = "sqrt(mean + eps), not sqrt(mean) + eps: in a small row eps outweighs the mean of the squares."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        x = 1e-3 * randn(rng, 5, 64)
        x[3] = 0
        return {"x": x.to(dtype), "weight": torch.ones(64, dtype=dtype), "eps": 1e-5}


class NormsInFloat32(NormCheck):
    name = "stays right for |x| = 300 and more in float16"
    points = 2
    draws = 3
    cpu, cuda = (torch.float16,), (torch.float16, torch.bfloat16)
    mistake = "squares in float16, whose largest number is 65504: 256 * 256 is infinite, and the row becomes zero"
    advice = "Widen first: x.float() before squaring, and back to x.dtype at the very end."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        sign = torch.from_numpy(rng.choice([-1.0, 1.0], (3, 128)))
        x = sign * torch.from_numpy(rng.uniform(300, 900, (3, 128)))
        return {"x": x.to(dtype), "weight": (2 + randn(rng, 128)).to(dtype), "eps": 1e-5}


# 01.2 -----------------------------------------------------------------------------------------------------------------


class RotateCheck(Check):
    # Largest error: 5.7e-6, and for positions above 2048 in 16 bits 2.0e-3 and 1.6e-2.
    atol = {torch.float32: 6e-5, torch.float16: 2e-2, torch.bfloat16: 0.16}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"out": lab.rotate(inputs["x"], inputs["positions"], inputs["theta"])}

    def judge(self, inputs: Values, outputs: Values) -> None:
        x = inputs["x"]
        want = rotate(x.double(), inputs["positions"], inputs["theta"])
        expect_near("rotated", outputs["out"], want, x.dtype, self.atol[x.dtype])


def draw_heads(rng: np.random.Generator, n: int, dtype: torch.dtype) -> Values:
    heads, head_dim = integer(rng, 1, 5), 2 * integer(rng, 4, 40)
    return {"x": randn(rng, n, heads, head_dim).to(dtype), "theta": float(rng.choice([100.0, 3e3, 5e5]))}


class TurnsOnePair(RotateCheck):
    name = "turns a single pair by its position"
    points = 1
    mistake = "turns by another angle, or the other way round"
    advice = "With D = 2 there is one pair, and its angle is the position itself: (a cos - b sin, b cos + a sin)."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"x": randn(rng, 4, 1, 2).to(dtype), "positions": torch.arange(4), "theta": 10_000.0}


class PairsTheHalves(RotateCheck):
    name = "pairs x[i] with x[i + D/2] and turns pair i by theta ** (-2i / D)"
    points = 2
    draws = 4
    mistake = "pairs neighbours, or takes other frequencies"
    advice = ("Pair i is x[..., i] and x[..., i + D/2]: x.chunk(2, dim=-1) gives both halves. i runs from 0 to D/2 - "
              "1, and its speed is theta ** (-2 * i / D): mind the 2.")

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        n = integer(rng, 5, 30)
        return {**draw_heads(rng, n, dtype), "positions": torch.arange(n)}


class TurnsByThePositionsGiven(RotateCheck):
    name = "turns each token by the position it is given, and position 0 not at all"
    points = 1
    draws = 3
    mistake = "counts the rows instead of reading `positions`, or counts from 1"
    advice = "The angle of row n comes from positions[n], which need not be n. At position 0 nothing turns."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        n = integer(rng, 6, 30)
        positions = torch.from_numpy(rng.permutation(np.append(rng.integers(40, 500, n - 1), 0)))
        x = randn(rng, n, integer(rng, 1, 5), 2)  # single pairs, so that wrong ones are left to another check
        return {"x": x.to(dtype), "positions": positions, "theta": 10_000.0}


class SeesDistanceOnly(Check):
    name = "leaves dot products that depend on relative position only"
    points = 2
    draws = 3
    atol = 2.2e-3  # largest difference 2.2e-4, of dot products that are about 6 in size
    mistake = "something that is no rotation, such as the angle of one pair on half of another"
    advice = ("Moving a query and a key by equally many tokens must leave their dot product as it was: the halves of a "
              "pair need the same angle, and its sine two opposite signs.")

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        n, head_dim = integer(rng, 4, 20), 2 * integer(rng, 4, 40)
        near = torch.from_numpy(rng.integers(0, 100, n))
        return {"q": randn(rng, n, 2, head_dim).to(dtype), "k": randn(rng, n, 2, head_dim).to(dtype),
                "near": near, "shift": integer(rng, 50, 300), "theta": 10_000.0}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        near, theta = inputs["near"], inputs["theta"]
        return {f"{name} {place}": lab.rotate(inputs[name], positions, theta)
                for place, positions in (("near", near), ("far", near + inputs["shift"])) for name in ("q", "k")}

    def judge(self, inputs: Values, outputs: Values) -> None:
        near, far = (torch.einsum("ihd,jhd->ijh", *(outputs[f"{name} {place}"].double() for name in ("q", "k")))
                     for place in ("near", "far"))
        expect_close(f"dot products {inputs['shift']} tokens further on", far, near, self.atol)


class TurnsFarTokensInHalf(RotateCheck):
    name = "stays right above position 2048 in float16"
    points = 2
    draws = 2
    cpu, cuda = (torch.float16,), (torch.float16, torch.bfloat16)
    mistake = "makes the angles in float16, in which 2049 is 2048"
    advice = "Above 2048 float16 has only even numbers: keep positions, angles, sine and cosine in float32."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        n = integer(rng, 6, 30)
        positions = torch.from_numpy(2 * rng.integers(1024, 4096, n) + 1)  # odd: none of them exists in float16
        return {**draw_heads(rng, n, dtype), "positions": positions}


class RefusesOddHeads(Check):
    name = "raises ValueError for an odd head dimension"
    points = 1
    mistake = "rotates what it can, or fails with whatever error comes first"
    advice = "An odd D leaves one element without a partner: raise ValueError, as the docstring says."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"x": randn(rng, 3, 2, 2 * integer(rng, 1, 9) + 1).to(dtype)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        try:
            out = lab.rotate(inputs["x"], torch.arange(3, device=inputs["x"].device), 10_000.0)
        except NotImplementedError:
            raise
        except Exception as error:
            return {"did": f"raised {type(error).__name__}"}
        return {"did": f"returned a tensor of shape {tuple(out.shape)}"}

    def judge(self, inputs: Values, outputs: Values) -> None:
        if outputs["did"] != "raised ValueError":
            raise Mismatch(f"D = {inputs['x'].shape[-1]}: {outputs['did']}, want a ValueError")


# 01.3 -----------------------------------------------------------------------------------------------------------------


class AttentionCheck(Check):
    draws = 3
    atol = 1.5e-5  # largest error 1.5e-6, with values of about 1

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"out": lab.causal_attention(*as_slices(inputs["q"], inputs["k"], inputs["v"]))}

    def judge(self, inputs: Values, outputs: Values) -> None:
        want = causal_attention(*(inputs[name].double() for name in ("q", "k", "v")))
        expect_near("attention", outputs["out"], want, inputs["q"].dtype, self.atol)


class AttendsWithOneHead(AttentionCheck):
    name = "attends over four tokens with one head of width 4"
    points = 1
    draws = 1
    mistake = "another formula than softmax(q k / sqrt(D)) v over the past"
    advice = "scores[i, j] = dot(q[i], k[j]) / sqrt(D); -inf where j > i; softmax over j; the weighted mean of v[j]."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return draw_qkv(rng, (4,), (1, 1, 4), dtype)

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"out": lab.causal_attention(inputs["q"], inputs["k"], inputs["v"])}


class IgnoresTheFuture(AttentionCheck):
    name = "gives no future token any influence"
    points = 2
    mistake = "no mask, or one that lets the next token through"
    advice = "Token i must not see token i + 1: scores with j > i get -inf before the softmax (triu(diagonal=1))."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        n = integer(rng, 5, 40)
        return {**draw_qkv(rng, (n,), (2, 2, 16), dtype), "cut": integer(rng, 1, n - 1)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        q, k, v, cut = inputs["q"], inputs["k"].clone(), inputs["v"].clone(), inputs["cut"]
        before = lab.causal_attention(*as_slices(q, k, v))
        k[cut:] *= -1  # another future, and a loud one
        v[cut:] += 1000
        return {"before": before, "after": lab.causal_attention(*as_slices(q, k, v))}

    def judge(self, inputs: Values, outputs: Values) -> None:
        before, after = outputs["before"], outputs["after"]
        expect_like("attention", before, inputs["q"])
        expect_like("attention", after, inputs["q"])
        cut = inputs["cut"]
        what = f"tokens 0 to {cut - 1} after those from {cut} on were changed"
        expect_close(what, after[:cut], before[:cut], self.atol)


class SeesThePast(AttentionCheck):
    name = "lets every token see itself and all before it"
    points = 1
    mistake = "a mask that hides the token itself, or q, k and v taken to be contiguous"
    advice = "Token i sees j <= i, itself included, so the mask is strictly above the diagonal."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return draw_qkv(rng, (integer(rng, 5, 70),), (1, 1, 24), dtype)


class ScalesByHeadDim(AttentionCheck):
    name = "divides by sqrt(D), however many heads there are"
    points = 2
    mistake = "scales by the whole width H * D, or mixes the heads"
    advice = "The scale is 1 / sqrt(D) with D = q.shape[-1], the width of one head; heads do not see each other."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        h = integer(rng, 2, 8)
        return draw_qkv(rng, (integer(rng, 5, 40),), (h, h, 8 * integer(rng, 1, 12)), dtype)


class SharesKeyHeads(AttentionCheck):
    name = "gives query head h the key/value head h // (H // KH)"
    points = 2
    mistake = "takes head h % KH, or any other order"
    advice = ("Neighbouring query heads share a key/value head: with H = 4 and KH = 2 they use 0, 0, 1, 1 "
              "(repeat_interleave), and not 0, 1, 0, 1 (repeat).")

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        kh = integer(rng, 2, 4)
        return draw_qkv(rng, (integer(rng, 3, 40),), (kh * integer(rng, 2, 4), kh, 16), dtype)


class SurvivesLargeScores(AttentionCheck):
    name = "stays finite with scores forty times as large"
    points = 1
    atol = 6e-4  # largest error 5.4e-5: a score of 400 is itself no finer than 3e-5
    mistake = "exp of the raw scores, which overflows above 88"
    advice = "Subtract each row's maximum before exp, or let softmax do it: exp(89) is already infinite in float32."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = draw_qkv(rng, (integer(rng, 5, 40),), (4, 2, 32), dtype)
        # A token that matches its own key with a score of 400 whatever was drawn, among scores of 40 or so.
        inputs["q"][-1, 0] = inputs["k"][-1, 0] * (10 * math.sqrt(32) / inputs["k"][-1, 0].square().sum())
        inputs["q"] *= 40
        return inputs


# 01.4 -----------------------------------------------------------------------------------------------------------------


class GateCheck(Check):
    rtol = 7e-6  # largest error 6.8e-7, relative to the largest value

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"out": lab.swiglu(*(inputs[name] for name in ("x", "w_gate", "w_up", "w_down")))}

    def judge(self, inputs: Values, outputs: Values) -> None:
        want = swiglu(*(inputs[name].double() for name in ("x", "w_gate", "w_up", "w_down")))
        expect_near("feed-forward", outputs["out"], want, inputs["x"].dtype, self.rtol * float(want.abs().max()))


def draw_feed_forward(rng: np.random.Generator, n: int, dim: int, width: int, dtype: torch.dtype) -> Values:
    return {"x": randn(rng, n, dim).to(dtype),
            "w_gate": 2 * randn(rng, width, dim).to(dtype) / math.sqrt(dim),
            "w_up": randn(rng, width, dim).to(dtype) / math.sqrt(dim),
            "w_down": randn(rng, dim, width).to(dtype) / math.sqrt(width)}


class GatesWithIdentities(GateCheck):
    name = "gives silu(x) * x when all three weights are identities"
    points = 1
    mistake = "another activation, or a sum where a product belongs"
    advice = "silu(gate) = gate * sigmoid(gate); its product with `up` goes through w_down."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        identity = torch.eye(4, dtype=dtype)
        return {"x": randn(rng, 1, 4).to(dtype), "w_gate": identity, "w_up": identity, "w_down": identity}


class GatesTheRightBranch(GateCheck):
    name = "puts silu on the gate and leaves `up` as it is"
    points = 2
    draws = 3
    mistake = "silu on the branch of w_up"
    advice = "The two branches are not alike: silu(x @ w_gate.T) * (x @ w_up.T)."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        # Symmetric weights, so that a forgotten transpose is left to another check.
        inputs = draw_feed_forward(rng, integer(rng, 1, 9), 16, 16, dtype)
        return {name: value if name == "x" else value + value.T for name, value in inputs.items()}


class AppliesTheTransposes(GateCheck):
    name = "applies weights that are stored as (outputs, inputs)"
    points = 1
    draws = 3
    mistake = "x @ weight without the transpose, which even runs where the matrix is square"
    advice = "Weights lie as torch.nn.Linear keeps them, (outputs, inputs): x @ weight.T."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        dim = integer(rng, 5, 60)
        return draw_feed_forward(rng, integer(rng, 1, 9), dim, dim + integer(rng, 0, 2) * 7, dtype)


class SurvivesLargeGates(GateCheck):
    name = "stays finite for gates of several hundred, either way"
    points = 1
    mistake = "exp of a large gate, which is infinite, divided by itself"
    advice = "exp(gate) overflows above 88: torch.sigmoid(gate), or 1 / (1 + exp(-gate)), stays finite."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = draw_feed_forward(rng, 3, 16, 16, dtype)
        inputs["w_gate"] = torch.diag(torch.from_numpy(rng.choice([-300.0, 300.0], 16))).to(dtype)
        inputs["x"] = inputs["x"].sign() * (1 + inputs["x"].abs())  # no gate is smaller than 300
        inputs["x"][0] = torch.diag(inputs["w_gate"]).sign()  # and these are all positive
        return inputs


# 01.5 -----------------------------------------------------------------------------------------------------------------


class LayerCheck(Check):
    parts = PARTS
    atol = 4e-5  # largest error 3.7e-6, with results of about 1 to 5

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        x = inputs["x"].clone()
        out = lab.decoder_layer(x, inputs["positions"], inputs["weights"], Config(**inputs["config"]), self.parts)
        return {"out": out, "x": x}

    def judge(self, inputs: Values, outputs: Values) -> None:
        weights = {name: weight.double() for name, weight in inputs["weights"].items()}
        want = decoder_layer(inputs["x"].double(), inputs["positions"], weights, Config(**inputs["config"]), self.parts)
        expect_near("layer", outputs["out"], want, inputs["x"].dtype, self.atol)


def draw_config(dim: int, h: int, kh: int, d: int, width: int, layers: int = 1, vocab_size: int = 8) -> Values:
    return {"vocab_size": vocab_size, "dim": dim, "n_layers": layers, "n_heads": h, "n_kv_heads": kh, "head_dim": d,
            "ffn_dim": width}


def draw_layer(rng: np.random.Generator, config: Values, dtype: torch.dtype) -> dict[str, Tensor]:
    """One layer's weights, with norms that change nothing."""
    dim, q, kv = config["dim"], config["n_heads"] * config["head_dim"], config["n_kv_heads"] * config["head_dim"]
    width = config["ffn_dim"]
    shapes = {"self_attn.q_proj": (q, dim), "self_attn.k_proj": (kv, dim), "self_attn.v_proj": (kv, dim),
              "self_attn.o_proj": (dim, q), "mlp.gate_proj": (width, dim), "mlp.up_proj": (width, dim),
              "mlp.down_proj": (dim, width)}
    weights = {f"{name}.weight": randn(rng, *shape).to(dtype) / math.sqrt(shape[1]) for name, shape in shapes.items()}
    norms = ("input_layernorm", "post_attention_layernorm")
    return weights | {f"{name}.weight": torch.ones(dim, dtype=dtype) for name in norms}


def draw_positions(rng: np.random.Generator, n: int) -> Tensor:
    """Rising, with gaps: a shift of all of them would not show, for rotary sees distances only."""
    return torch.from_numpy(np.cumsum(rng.integers(2, 6, n)))


class AddsTwoParts(LayerCheck):
    name = "carries one token at position 0 through both parts"
    points = 1
    mistake = "a residual, a norm or a projection left out"
    advice = "x = x + o_proj(attention(norm(x))), and then x = x + swiglu(norm(x)): each part reads a normed copy."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        config = draw_config(4, 1, 1, 4, 4)
        return {"x": randn(rng, 1, 4).to(dtype), "positions": torch.zeros(1, dtype=torch.long), "config": config,
                "weights": draw_layer(rng, config, dtype)}


class NormsWithTwoWeights(LayerCheck):
    name = "norms before each part, with that part's own weight"
    points = 1
    draws = 2
    mistake = "one norm's weight used twice, or the two exchanged"
    advice = "input_layernorm stands before attention, post_attention_layernorm before the feed-forward part."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        config = draw_config(16, 2, 2, 8, 24)
        weights = draw_layer(rng, config, dtype)
        for name in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            weights[name] = torch.from_numpy(rng.uniform(0.3, 2, 16)).to(dtype)
        return {"x": randn(rng, 1, 16).to(dtype), "positions": torch.zeros(1, dtype=torch.long), "config": config,
                "weights": weights}


class KeepsTheResidualStream(LayerCheck):
    name = "returns x itself where neither part adds anything"
    points = 2
    atol = 0  # x + 0 is x
    mistake = "replaces the residual stream instead of adding to it, or adds the normed x"
    advice = "With o_proj and down_proj all zero both parts add zeros: what comes out is x, neither normed nor lost."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        config = draw_config(16, 2, 2, 8, 16)
        weights = draw_layer(rng, config, dtype)
        for name in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
            weights[name] = torch.zeros_like(weights[name])
        x = 3 * randn(rng, 5, 16).to(dtype)
        return {"x": x, "positions": torch.arange(5), "config": config, "weights": weights}


class RotatesQueriesAndKeys(LayerCheck):
    name = "rotates queries and keys by the positions given, and leaves values alone"
    points = 2
    draws = 3
    mistake = "rotates values too, or one of the two only, or by the row's number"
    advice = "rotate(q, positions, theta) and rotate(k, positions, theta): v carries content, and stays as it is."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        config = draw_config(32, 1, 1, 32, 16)
        n = integer(rng, 6, 30)
        return {"x": randn(rng, n, 32).to(dtype), "positions": draw_positions(rng, n), "config": config,
                "weights": draw_layer(rng, config, dtype)}


class SplitsHeadsInOrder(LayerCheck):
    name = "splits the projections into heads of D neighbouring rows"
    points = 1
    draws = 3
    mistake = "splits into D pieces of H, or takes H heads of keys where there are KH"
    advice = "Row h * D + d of q_proj is element d of head h: unflatten to (heads, D), not to (D, heads)."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        kh, d = integer(rng, 1, 3), 2 * integer(rng, 3, 9)
        config = draw_config(integer(rng, 20, 50), kh * integer(rng, 2, 3), kh, d, integer(rng, 20, 50))
        n = integer(rng, 3, 20)
        return {"x": randn(rng, n, config["dim"]).to(dtype), "positions": draw_positions(rng, n), "config": config,
                "weights": draw_layer(rng, config, dtype)}


class LeavesXAlone(SplitsHeadsInOrder):
    name = "leaves the x that it was given unchanged"
    points = 1
    draws = 1
    mistake = "x += ..., which writes into the caller's tensor"
    advice = "x += y writes into the tensor that the caller still holds: write x = x + y."

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_equal("x after the call", outputs["x"], inputs["x"])


class UsesTheParts(SplitsHeadsInOrder):
    name = "uses the four functions that `parts` holds"
    points = 1
    draws = 1
    mistake = "calls the functions of its own file, so that no faster one can take their place"
    advice = "Call parts.rms_norm, parts.rotate, parts.causal_attention and parts.swiglu, here other ones than yours."
    parts = SimpleNamespace(  # simple functions that are none of the four
        rms_norm=lambda x, weight, eps: x * weight / 2,
        rotate=lambda x, positions, theta: x + positions[:, None, None] / theta,
        causal_attention=lambda q, k, v: q * v.mean(dim=1, keepdim=True) + k.mean(dim=1, keepdim=True),
        swiglu=lambda x, w_gate, w_up, w_down: (x @ w_gate.T + x @ w_up.T) @ w_down.T,
    )


# 01.6 -----------------------------------------------------------------------------------------------------------------


class ModelCheck(Check):
    atol = 5e-5  # largest error 4.9e-6, with logits of about 1 to 3

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"logits": lab.llama_logits(inputs["token_ids"], inputs["weights"], Config(**inputs["config"]), PARTS)}

    def judge(self, inputs: Values, outputs: Values) -> None:
        config, token_ids = Config(**inputs["config"]), inputs["token_ids"]
        weights = {name: weight.double() for name, weight in inputs["weights"].items()}
        x = weights["embed_tokens.weight"][token_ids]
        for index in range(config.n_layers):
            prefix = f"layers.{index}."
            layer = {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}
            x = decoder_layer(x, torch.arange(len(x)), layer, config, PARTS)
        head = weights["embed_tokens.weight" if config.tie_embeddings else "lm_head.weight"]
        want = F.linear(rms_norm(x, weights["norm.weight"], config.norm_eps), head)
        expect_near("logits", outputs["logits"], want, inputs["weights"]["norm.weight"].dtype, self.atol)


def draw_model(rng: np.random.Generator, n: int, layers: int, dtype: torch.dtype, tied: bool = True) -> Values:
    config = draw_config(24, 4, 2, 8, 40, layers, vocab_size=integer(rng, 30, 90))
    weights = {f"layers.{index}.{name}": weight for index in range(layers)
               for name, weight in draw_layer(rng, config, dtype).items()}
    weights["norm.weight"] = torch.from_numpy(rng.uniform(0.5, 2, 24)).to(dtype)
    for name in ("embed_tokens.weight",) if tied else ("embed_tokens.weight", "lm_head.weight"):
        weights[name] = randn(rng, config["vocab_size"], 24).to(dtype) / math.sqrt(24)
    token_ids = torch.from_numpy(rng.integers(0, config["vocab_size"], n))
    return {"token_ids": token_ids, "weights": weights, "config": config | {"tie_embeddings": tied}}


class ScoresAfterOneToken(ModelCheck):
    name = "scores the vocabulary after one token, with one layer"
    points = 1
    mistake = "the embedding, the last norm or the output projection left out"
    advice = "embedding[token_ids], the layers, rms_norm with norm.weight, then the product with every embedding row."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return draw_model(rng, 1, 1, dtype)


class ScoresEveryRow(ModelCheck):
    name = "gives every one of N tokens its row, at positions 0 to N - 1"
    points = 1
    draws = 2
    mistake = "scores the last token only, or gives all tokens one position"
    advice = "The result has shape (N, V), and positions are torch.arange(N)."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return draw_model(rng, integer(rng, 5, 40), 1, dtype)


class RunsEveryLayer(ModelCheck):
    name = "runs every layer in order, each with its own weights"
    points = 1
    draws = 2
    mistake = "the first layer's weights for all, or the layers in another order"
    advice = "for index in range(config.n_layers), with layer_weights(weights, index): 0 comes first."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return draw_model(rng, 1, integer(rng, 2, 4), dtype)


class UsesTheHead(ModelCheck):
    name = "scores with lm_head.weight where there is one"
    points = 1
    mistake = "ties the embeddings of a model that has a projection of its own"
    advice = 'weights.get("lm_head.weight") is None only in tied models; in others it is the output projection.'

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return draw_model(rng, 1, 1, dtype, tied=False)


@cache
def story_model(device: str = "cpu") -> Llama:
    return load_model(STORY_LLAMA, device=device)


class TellsTheStory(Check):
    name = "tells the story as the course's own decoder does, with every part yours"
    points = 3
    seconds = 60  # takes 0.2; torch's threads slow one another down on a busy machine
    tokens = 12
    gap = 1e-3  # an exact tie aside, two float32 engines differ by about 1e-5 in the story model's logits
    mistake = "any part of 01.1 to 01.6 that is not yet right: their own checks say which"
    advice = "Here the parts are your own functions of 01.1 to 01.5: look first for one of them whose check fails."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        (told,) = fresh_stories(1, seed=integer(rng, 0, 2**31), shortest=60, longest=120)
        return {"prompt": Tokenizer(STORY_LLAMA).encode(told.text)[:40]}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        token_ids, model = list(inputs["prompt"]), story_model(DEVICE.type)
        with torch.inference_mode():
            for _ in range(self.tokens):
                logits = lab.llama_logits(torch.tensor(token_ids, device=DEVICE), model.state_dict(), model.config, lab)
                token_ids.append(int(logits[-1].argmax()))
        return {"tokens": token_ids[len(inputs["prompt"]):]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        prompt, tokens = inputs["prompt"], outputs["tokens"]
        expect_equal("number of tokens", len(tokens), self.tokens)
        token_ids = torch.tensor(prompt + tokens)
        with torch.inference_mode():
            hidden = story_model()(token_ids, torch.arange(len(token_ids)), CausalAttention())
            logits = story_model().logits(hidden[len(prompt) - 1 : -1])
        behind = logits.max(dim=-1).values - logits.gather(1, token_ids[len(prompt):, None]).squeeze(1)
        for index, far in enumerate(behind.tolist()):
            if not far <= self.gap:
                decode = Tokenizer(STORY_LLAMA).tokenizer.decode
                got, want = decode(tokens[index:index + 1]), decode([int(logits[index].argmax())])
                before = decode(prompt[-8:] + tokens[:index])
                raise Mismatch(f"token {index + 1}, after {before!r}: got {got!r}, want {want!r}")


# 01.7 -----------------------------------------------------------------------------------------------------------------


class LossCheck(Check):
    tolerance = 7e-6  # largest error 7.0e-7, of the loss or of 1, whichever is more

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"loss": lab.next_token_loss(inputs["logits"], inputs["token_ids"])}

    def judge(self, inputs: Values, outputs: Values) -> None:
        log_probs = inputs["logits"].double().log_softmax(dim=-1)
        gained = [log_probs[row, token_id] for row, token_id in enumerate(inputs["token_ids"].tolist()[1:])]
        expect_near("loss", outputs["loss"], -torch.stack(gained).mean(), torch.float32, self.tolerance, self.tolerance)


def draw_token_ids(rng: np.random.Generator, n: int, vocab_size: int) -> Tensor:
    """Every token differs from the one before it, so that a shift always shows."""
    return torch.from_numpy(np.cumsum(rng.integers(1, vocab_size, n)) % vocab_size)


class IsLogV(LossCheck):
    name = "is log(V) where the model knows nothing"
    points = 1
    mistake = "another logarithm, another sign, or a probability instead of its logarithm"
    advice = "Equal logits give each of V tokens the probability 1/V, and -log(1/V) = log(V), the natural logarithm."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"logits": torch.zeros(2, 8, dtype=dtype), "token_ids": draw_token_ids(rng, 2, 8)}


class LooksOneTokenAhead(LossCheck):
    name = "compares row i with token i + 1"
    points = 2
    draws = 3
    mistake = "compares row i with token i, which the model has already seen"
    advice = "Row i was computed from token i and guesses the next: logits[:-1] belongs to token_ids[1:]."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        n, vocab_size = integer(rng, 2, 50), integer(rng, 11, 300)
        token_ids = draw_token_ids(rng, n, vocab_size)
        logits = randn(rng, n, vocab_size)
        logits[torch.arange(n - 1), token_ids[1:]] += 8  # a good model, so that any other token costs much
        return {"logits": logits.to(dtype), "token_ids": token_ids}


class AveragesPredictions(LossCheck):
    name = "averages over the N - 1 predictions"
    points = 1
    draws = 3
    mistake = "a sum, or a mean over N"
    advice = "N tokens hold N - 1 predictions: mean(), over them and nothing else."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        n, vocab_size = integer(rng, 3, 50), integer(rng, 11, 300)
        return {"logits": torch.ones(n, vocab_size, dtype=dtype), "token_ids": draw_token_ids(rng, n, vocab_size)}


class SurvivesLargeLogits(LossCheck):
    name = "stays finite for logits of 1000"
    points = 2
    mistake = "log of a softmax that has become 0, or exp of a logit that is too large"
    advice = "log(softmax(x)) is x - logsumexp(x): never take the logarithm of a probability that may have become 0."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        n, vocab_size = integer(rng, 3, 50), integer(rng, 11, 300)
        token_ids = draw_token_ids(rng, n, vocab_size)
        logits = 300 * randn(rng, n, vocab_size)
        logits[0, token_ids[1]], logits[0, token_ids[0]] = -1000, 1000  # sure of itself, and wrong
        return {"logits": logits.to(dtype), "token_ids": token_ids}


class WorksInFloat32(LooksOneTokenAhead):
    name = "computes in float32 from float16 logits"
    points = 1
    cpu, cuda = (torch.float16,), (torch.float16, torch.bfloat16)
    mistake = "keeps float16, whose three digits are too few for a loss"
    advice = "logits.float() first; the result is a float32 tensor without dimensions."


# 01.8 -----------------------------------------------------------------------------------------------------------------

VOCAB = 8
SAMPLES = 2000
# For n samples of K tokens, P(sum |frequency - probability| >= e) <= (2 ** K - 2) * exp(-n * e * e / 2), whatever the
# probabilities (Weissman et al. 2003, "Inequalities for the L1 Deviation of the Empirical Distribution"). The bound
# below (0.155) is wrong once in 1e8 checks. The mistakes that these checks are after lie more than twice as far off.
FALSE_ALARM = 1e-8
FARTHEST = math.sqrt(2 * math.log((2**VOCAB - 2) / FALSE_ALARM) / SAMPLES)


class SampleCheck(Check):
    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        generator = torch.Generator(inputs["logits"].device).manual_seed(inputs["seed"])
        settings = inputs["temperature"], inputs["top_k"], inputs["top_p"], generator
        return {"tokens": [lab.sample(inputs["logits"], *settings) for _ in range(SAMPLES)]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        probs = filtered(inputs)
        counts = Counter(outputs["tokens"])
        if strange := [token for token in counts if type(token) is not int or not 0 <= token < VOCAB]:
            raise Mismatch(f"got {type(strange[0]).__name__} {strange[0]!r}, want an int from 0 to {VOCAB - 1}")
        story = ", ".join(f"{p:.2f}" for p in probs)
        for token, p in enumerate(probs):
            if counts[token] and p == 0:
                raise Mismatch(f"token {token} came {counts[token]} times in {SAMPLES}, and should never: "
                               f"probabilities {story}")
            if not counts[token] and p > 0.05:  # by chance once in 1e44 checks
                raise Mismatch(f"token {token} never came in {SAMPLES}: probabilities {story}")
        far = sum(abs(counts[token] / SAMPLES - p) for token, p in enumerate(probs))
        if far >= FARTHEST:
            raise Mismatch(f"frequencies {', '.join(f'{counts[token] / SAMPLES:.2f}' for token in range(VOCAB))} "
                           f"of {SAMPLES} samples, probabilities {story}: further apart than chance allows")


def filtered(inputs: Values) -> list[float]:
    """The probability of every token, by sorting and adding up in plain Python."""
    weight = [math.exp(logit / inputs["temperature"]) for logit in inputs["logits"].tolist()]
    kept = sorted(range(VOCAB), key=lambda token: -weight[token])[:inputs["top_k"] or VOCAB]
    left = sum(weight[token] for token in kept)
    nucleus, mass = [], 0.0
    for token in kept:
        if mass < inputs["top_p"]:
            nucleus.append(token)
            mass += weight[token] / left
    total = sum(weight[token] for token in nucleus)
    return [weight[token] / total if token in nucleus else 0.0 for token in range(VOCAB)]


def draw_sampling(rng: np.random.Generator, spread: float) -> Values:
    """Logits that are `spread` apart from the least to the most likely token; no filter.

    In random order, except that the last id is the most likely: so neither a rank nor the first ids pass for the best.
    """
    order = torch.from_numpy(np.append(rng.permutation(VOCAB - 1), VOCAB - 1))
    logits = torch.linspace(0, spread, VOCAB)[order] + integer(rng, -3, 3)
    return {"logits": logits, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": integer(rng, 0, 2**31)}


def ranked(inputs: Values) -> Tensor:
    """Probabilities at temperature 1, the largest first."""
    return inputs["logits"].double().softmax(dim=-1).sort(descending=True).values


class TakesTheBest(Check):
    name = "takes the most likely token at temperature 0"
    points = 1
    mistake = "divides by a temperature of zero, or leaves the choice to chance"
    advice = "Temperature 0 means greedy: return int(logits.argmax()) before anything is divided by it."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        logits = randn(rng, VOCAB)
        logits[torch.from_numpy(rng.permutation(VOCAB)[:2])] = 4.0  # two equals: the lower id counts
        return {"logits": logits.to(dtype), "seed": integer(rng, 0, 2**31)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        generator = torch.Generator(inputs["logits"].device).manual_seed(inputs["seed"])
        return {"tokens": [lab.sample(inputs["logits"], 0.0, 0, 1.0, generator) for _ in range(40)]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        logits = inputs["logits"].tolist()
        for token in outputs["tokens"]:
            expect_equal("token id", token, logits.index(max(logits)))


class BecomesGreedy(TakesTheBest):
    name = "becomes greedy as the temperature falls"
    points = 1
    mistake = "exp of logits / temperature, which overflows long before the temperature is 0"
    advice = "At 0.001 logits become a thousand times as large: softmax subtracts their maximum, a bare exp does not."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        logits = torch.from_numpy(rng.permutation(50)) / 5 + 1  # steps of 0.2: another token comes once in e ** 200
        return {"logits": logits.to(dtype), "seed": integer(rng, 0, 2**31)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        generator = torch.Generator(inputs["logits"].device).manual_seed(inputs["seed"])
        return {"tokens": [lab.sample(inputs["logits"], 0.001, 0, 1.0, generator) for _ in range(40)]}


class DrawsByProbability(SampleCheck):
    name = "draws every token as often as its probability says"
    points = 2
    mistake = "always takes the best, or draws all alike"
    advice = "torch.multinomial(probs, 1, generator=generator) draws an index by its probability; turn it into an id."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return draw_sampling(rng, spread=3.0)


class DividesByTemperature(SampleCheck):
    name = "divides the logits by the temperature before the softmax"
    points = 2
    mistake = "scales probabilities instead of logits, which changes nothing once they sum to 1, or multiplies"
    advice = "softmax(logits / temperature): low temperatures sharpen, high ones flatten."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {**draw_sampling(rng, spread=4.0), "temperature": float(rng.choice([0.3, 0.4, 3.0, 4.0]))}


class KeepsTopK(SampleCheck):
    name = "keeps exactly the top_k most likely tokens"
    points = 1
    mistake = "one token too many or too few, or the first k ids"
    advice = "Sort by probability, keep the first top_k, and remember which ids they were; 0 keeps all."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {**draw_sampling(rng, spread=1.0), "top_k": integer(rng, 2, 5)}


class KeepsTheNucleus(SampleCheck):
    name = "keeps the smallest set that reaches top_p"
    points = 2
    mistake = "drops the token that crosses top_p, or keeps one more"
    advice = "Keep a token if those that are likelier sum to less than top_p: the one that crosses it is still in."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = draw_sampling(rng, spread=1.0)
        kept, probs = integer(rng, 2, 5), ranked(inputs)
        return {**inputs, "top_p": float(probs[:kept].sum() - probs[kept - 1] / 2)}  # crossed halfway by the last kept


class CutsByKThenP(SampleCheck):
    name = "applies top_p to what top_k has left, scaled to sum 1"
    points = 1
    mistake = "measures top_p against the probabilities before top_k, or cuts by top_p first"
    advice = "After top_k scale what is left to sum 1; only then add up to top_p."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = draw_sampling(rng, spread=1.0)
        top_k = integer(rng, 3, 5)
        probs = ranked(inputs)[:top_k] / ranked(inputs)[:top_k].sum()
        kept = integer(rng, 1, top_k - 1)
        return {**inputs, "top_k": top_k, "top_p": float(probs[:kept].sum() - probs[kept - 1] / 10)}


class RepeatsFromASeed(Check):
    name = "draws from the generator that it is given and from nothing else"
    points = 1
    mistake = "torch's global generator, which anything else may move on"
    advice = "Pass the generator on, as in torch.multinomial(probs, 1, generator=generator)."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"logits": randn(rng, 100).to(dtype), "seed": integer(rng, 0, 2**31)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        def tokens() -> list[int]:
            generator = torch.Generator(inputs["logits"].device).manual_seed(inputs["seed"])
            return [lab.sample(inputs["logits"], 1.0, 0, 1.0, generator) for _ in range(40)]

        return {"first": tokens(), "again": tokens()}

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_equal("forty tokens from the same state of the generator", outputs["again"], outputs["first"])


class LeavesLogitsAlone(Check):
    name = "leaves the logits that it was given unchanged"
    points = 1
    mistake = "logits /= temperature, which writes into the caller's tensor"
    advice = "logits /= t writes into the tensor that the caller still holds: make a new one, logits / t."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"logits": randn(rng, 100).to(dtype), "seed": integer(rng, 0, 2**31)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        logits = inputs["logits"].clone()
        lab.sample(logits, 0.7, 20, 0.9, torch.Generator(logits.device).manual_seed(inputs["seed"]))
        return {"logits": logits}

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_equal("logits after the call", outputs["logits"], inputs["logits"])


LESSON = Lesson("01", "transformer", "The transformer", minutes=120, exercises=(
    Exercise("01.1", "RMSNorm", "rms_norm", minutes=10, difficulty=1,
             checks=(NormsOneRow(), NormsEachRowByItself(), AddsEpsInsideTheRoot(), NormsInFloat32()),
             refused=("torch.nn.functional.rms_norm", "torch.rms_norm", "torch.nn.RMSNorm",
                      "common.model.llama.RMSNorm")),
    Exercise("01.2", "Rotary embedding", "rotate", minutes=20, difficulty=3,
             checks=(TurnsOnePair(), PairsTheHalves(), TurnsByThePositionsGiven(), SeesDistanceOnly(),
                     TurnsFarTokensInHalf(), RefusesOddHeads()),
             refused=("common.model.llama.Rotary",)),
    Exercise("01.3", "Causal grouped-query attention", "causal_attention", minutes=20, difficulty=3,
             checks=(AttendsWithOneHead(), IgnoresTheFuture(), SeesThePast(), ScalesByHeadDim(), SharesKeyHeads(),
                     SurvivesLargeScores()),
             refused=("torch.nn.functional.scaled_dot_product_attention",
                      "torch.nn.functional.multi_head_attention_forward", "torch.nn.MultiheadAttention",
                      "common.model.attention.CausalAttention")),
    Exercise("01.4", "SwiGLU", "swiglu", minutes=10, difficulty=1,
             checks=(GatesWithIdentities(), GatesTheRightBranch(), AppliesTheTransposes(), SurvivesLargeGates()),
             refused=("torch.nn.functional.silu", "torch.nn.SiLU", "common.model.llama.SwiGLU")),
    Exercise("01.5", "The decoder layer", "decoder_layer", minutes=20, difficulty=3,
             checks=(AddsTwoParts(), NormsWithTwoWeights(), KeepsTheResidualStream(), RotatesQueriesAndKeys(),
                     SplitsHeadsInOrder(), LeavesXAlone(), UsesTheParts()),
             refused=("common.model.llama.DecoderLayer", "common.model.llama.SelfAttention")),
    Exercise("01.6", "The whole model", "llama_logits", minutes=10, difficulty=2,
             checks=(ScoresAfterOneToken(), ScoresEveryRow(), RunsEveryLayer(), UsesTheHead(), TellsTheStory()),
             refused=("common.model.llama.Llama", "common.model.checkpoint.load_model")),
    Exercise("01.7", "The loss", "next_token_loss", minutes=10, difficulty=2,
             checks=(IsLogV(), LooksOneTokenAhead(), AveragesPredictions(), SurvivesLargeLogits(), WorksInFloat32()),
             refused=("torch.nn.functional.cross_entropy", "torch.nn.CrossEntropyLoss",
                      "torch.nn.functional.nll_loss", "torch.nn.NLLLoss")),
    Exercise("01.8", "Sampling", "sample", minutes=15, difficulty=3,
             checks=(TakesTheBest(), BecomesGreedy(), DrawsByProbability(), DividesByTemperature(), KeepsTopK(),
                     KeepsTheNucleus(), CutsByKThenP(), RepeatsFromASeed(), LeavesLogitsAlone())),
))
