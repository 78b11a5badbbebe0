"""The parts of a decoder by their formulas, right in whatever dtype they are given.

They are written apart from the reference: the rotation as a product of complex numbers, attention and silu from torch.
In lesson 01 they also stand in for the learner's own parts, so that each exercise is marked by itself.
"""
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from common.model.llama import Config


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
