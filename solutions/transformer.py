"""Lesson 01, the transformer: a Llama decoder as plain formulas, and what turns its scores into tokens.

Shapes: `N` tokens of one sequence, in order; `dim` model width; `H` query heads; `KH` key/value heads, H a multiple of
KH; `D` head dim; `heads` either H or KH; `F` width of the feed-forward part; `V` vocabulary.

A weight matrix is stored as (outputs, inputs), as in `torch.nn.Linear`: `x @ weight.T` applies it.
No function changes its arguments.
"""
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.model.llama import Config


def rms_norm(x: Float[Tensor, "N dim"], weight: Float[Tensor, "dim"], eps: float) -> Float[Tensor, "N dim"]:
    """01.1 Scale every row to root mean square 1, then column i by weight[i].

    A row is divided by the root of (the mean of its squares + eps): eps stands inside the root.

    Args:
        x: float32, float16 or bfloat16. In float16 nothing above 65504 exists, and 300 squared is more, so the work
            is done in float32 whatever the dtype.
        weight: one factor per column, of the same dtype.
        eps: keeps a row of zeros from dividing by zero.

    Returns:
        A tensor of x's dtype. `torch.nn.functional.rms_norm` and its kin would be the answer and are refused.

    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", equation 4.
    """
    # BEGIN SOLUTION
    wide = x.float()
    mean_square = wide.square().mean(dim=-1, keepdim=True)
    return (wide * torch.rsqrt(mean_square + eps) * weight.float()).to(x.dtype)
    # END SOLUTION


def rotate(x: Float[Tensor, "N heads D"], positions: Int[Tensor, "N"], theta: float) -> Float[Tensor, "N heads D"]:
    """01.2 Turn each pair (x[..., i], x[..., i + D/2]), i < D/2, by the angle positions * theta ** (-2 * i / D).

    The pair (a, b) becomes (a cos - b sin, b cos + a sin). This pairing of the first half with the second is the one
    of Hugging Face's checkpoints; Meta's own files pair neighbours. In every head the angles are the same.

    Args:
        x: queries or keys, float32, float16 or bfloat16. The angles are computed in float32 whatever x's dtype: float16
            has no odd numbers above 2048.
        positions: the token's place in its text, from 0, in no particular order.
        theta: base of the wavelengths, 10000.0 in the paper.

    Returns:
        A tensor of x's dtype.

    Raises:
        ValueError: if D is odd, for then one element has no partner.

    Source: Su et al. 2021, "RoFormer", section 3.2.2.
    """
    # BEGIN SOLUTION
    head_dim = x.shape[-1]
    if head_dim % 2:
        raise ValueError(f"a head of {head_dim} elements cannot be cut into pairs")
    frequency = theta ** (-torch.arange(0, head_dim, 2, device=x.device).float() / head_dim)
    angle = positions.float()[:, None, None] * frequency  # (N, 1, D/2): one angle for all heads
    cos, sin = angle.cos(), angle.sin()
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
    # END SOLUTION


def causal_attention(
    q: Float[Tensor, "N H D"], k: Float[Tensor, "N KH D"], v: Float[Tensor, "N KH D"]
) -> Float[Tensor, "N H D"]:
    """01.3 For every token and query head, the mean of the values up to that token, weighted by how well keys match.

    Query head h works with key/value head h // (H // KH). Its token i gives token j <= i the score
    dot(q[i], k[j]) / sqrt(D); the softmax of token i's scores are the weights of the values. Tokens j > i have no
    influence at all. Scores of several hundred are no reason for NaN.

    Args:
        q, k, v: float32 on one device; possibly slices of a wider tensor, hence not contiguous.

    Returns:
        float32. `torch.nn.functional.scaled_dot_product_attention` and its kin would be the answer and are refused.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.1; Ainslie et al. 2023, "GQA", section 2.2.
    """
    # BEGIN SOLUTION
    n, n_heads, head_dim = q.shape
    group = n_heads // k.shape[1]  # this many query heads share a key/value head
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = torch.einsum("ihd,jhd->hij", q, k) / head_dim**0.5
    future = torch.ones(n, n, dtype=torch.bool, device=q.device).triu(diagonal=1)  # j > i
    weights = scores.masked_fill(future, float("-inf")).softmax(dim=-1)
    return torch.einsum("hij,jhd->ihd", weights, v)
    # END SOLUTION


def swiglu(
    x: Float[Tensor, "N dim"],
    w_gate: Float[Tensor, "F dim"],
    w_up: Float[Tensor, "F dim"],
    w_down: Float[Tensor, "dim F"],
) -> Float[Tensor, "N dim"]:
    """01.4 The feed-forward part: w_down applied to silu(gate) * up; gate and up are w_gate and w_up applied to x.

    silu(gate) = gate / (1 + exp(-gate)), element by element, finite for gates of several hundred either way.

    Args:
        x and the three weights: float32.

    Returns:
        float32. `torch.nn.functional.silu` and its kin would be the answer and are refused; `torch.sigmoid` is not.

    Source: Shazeer 2020, "GLU Variants Improve Transformer", equation 6.
    """
    # BEGIN SOLUTION
    gate, up = x @ w_gate.T, x @ w_up.T
    return (gate * torch.sigmoid(gate) * up) @ w_down.T
    # END SOLUTION


def decoder_layer(
    x: Float[Tensor, "N dim"], positions: Int[Tensor, "N"], weights: dict[str, Tensor], config: Config, parts: Any
) -> Float[Tensor, "N dim"]:
    """01.5 One layer: x plus attention of the normed x, then that plus the feed-forward part of the normed sum.

    Args:
        x: the residual stream, float32. It is not changed: the result is a new tensor.
        positions: handed on to `rotate`, which turns queries and keys, and not values.
        weights: this layer's tensors, under their names in the checkpoint:
            input_layernorm.weight, post_attention_layernorm.weight (dim,): of the first and of the second norm;
            self_attn.q_proj.weight (H * D, dim), self_attn.k_proj.weight and self_attn.v_proj.weight (KH * D, dim):
            rows h * D up to (h + 1) * D belong to head h; self_attn.o_proj.weight (dim, H * D): back from all heads;
            mlp.gate_proj.weight, mlp.up_proj.weight (F, dim), mlp.down_proj.weight (dim, F).
        config: n_heads (H), n_kv_heads (KH), head_dim (D), norm_eps and rope_theta are what is needed here.
        parts: holds `rms_norm`, `rotate`, `causal_attention` and `swiglu`, with the signatures of 01.1 to 01.4. The
            layer uses these and not the functions of this file, so that other ones can be put in their place
            (and so that a mistake in 01.1 costs nothing here).
    """
    # BEGIN SOLUTION
    h = parts.rms_norm(x, weights["input_layernorm.weight"], config.norm_eps)
    q = (h @ weights["self_attn.q_proj.weight"].T).unflatten(-1, (config.n_heads, config.head_dim))
    k = (h @ weights["self_attn.k_proj.weight"].T).unflatten(-1, (config.n_kv_heads, config.head_dim))
    v = (h @ weights["self_attn.v_proj.weight"].T).unflatten(-1, (config.n_kv_heads, config.head_dim))
    q, k = parts.rotate(q, positions, config.rope_theta), parts.rotate(k, positions, config.rope_theta)
    attended = parts.causal_attention(q, k, v).flatten(-2)
    x = x + attended @ weights["self_attn.o_proj.weight"].T

    h = parts.rms_norm(x, weights["post_attention_layernorm.weight"], config.norm_eps)
    gate, up, down = (weights[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
    return x + parts.swiglu(h, gate, up, down)
    # END SOLUTION


def layer_weights(weights: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """The tensors of layer `index`, under the names that `decoder_layer` knows. Given: nothing to write here."""
    prefix = f"layers.{index}."
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def llama_logits(
    token_ids: Int[Tensor, "N"], weights: dict[str, Tensor], config: Config, parts: Any
) -> Float[Tensor, "N V"]:
    """01.6 The whole model: row i scores the token that follows token i.

    A token's id picks its row of the embedding; `config.n_layers` layers follow, in order; then a last norm, and the
    product of each row with every row of the output projection.

    Args:
        token_ids: one sequence. Its positions are 0 to N - 1.
        weights: embed_tokens.weight (V, dim), norm.weight (dim,) of the last norm, and every layer's tensors, which
            `layer_weights(weights, index)` picks out. If there is an lm_head.weight (V, dim), it is the output
            projection; if not, the embedding is used again ("tied").
        config: n_layers and norm_eps are what is needed here; the layers need all of it.
        parts: as in 01.5, with `decoder_layer` besides, which is handed `parts` in turn.
    """
    # BEGIN SOLUTION
    x = weights["embed_tokens.weight"][token_ids]
    positions = torch.arange(len(token_ids), device=token_ids.device)
    for index in range(config.n_layers):
        x = parts.decoder_layer(x, positions, layer_weights(weights, index), config, parts)
    hidden = parts.rms_norm(x, weights["norm.weight"], config.norm_eps)
    return hidden @ weights.get("lm_head.weight", weights["embed_tokens.weight"]).T
    # END SOLUTION


def next_token_loss(logits: Float[Tensor, "N V"], token_ids: Int[Tensor, "N"]) -> Float[Tensor, ""]:
    """01.7 Minus the logarithm of the probability that the model gave to the token that came, on average, in nats.

    Row i of `logits` scores token i + 1, so N >= 2 tokens hold N - 1 predictions; nothing follows the last row. The
    probabilities of a row are the softmax of its logits.

    Args:
        logits: float32, float16 or bfloat16. The work is done in float32, and logits of +-1000 give a finite loss.
        token_ids: the text.

    Returns:
        A float32 tensor without dimensions. `torch.nn.functional.cross_entropy` and its kin would be the answer and are
        refused; `torch.logsumexp` is not.
    """
    # BEGIN SOLUTION
    wide = logits[:-1].float()
    due = wide.gather(1, token_ids[1:, None]).squeeze(1)  # the logit of the token that came
    return (wide.logsumexp(dim=-1) - due).mean()
    # END SOLUTION


def sample(
    logits: Float[Tensor, "V"], temperature: float, top_k: int, top_p: float, generator: torch.Generator
) -> int:
    """01.8 Draw a token id at random from the softmax of logits / temperature, cut first by top_k, then by top_p.

    Args:
        logits: one row. It is not changed.
        temperature: >= 0. At 0 the result is the most likely token, the lowest id among equals, without any chance.
        top_k: keep this many most likely tokens; 0 keeps all. The probabilities of what is left are scaled to sum 1.
        top_p: 0 < top_p <= 1. Of what top_k has left keep the smallest set of most likely tokens whose probabilities
            sum to top_p or more: the token that crosses top_p belongs to it. The draw is from that set, its
            probabilities again scaled to sum 1.
        generator: the only source of chance, on the device of `logits`: from the same state comes the same token.

    Returns:
        The id as a plain `int`.

    Source: top_k: Fan et al. 2018, "Hierarchical Neural Story Generation", section 5; top_p: Holtzman et al. 2020,
    "The Curious Case of Neural Text Degeneration", section 3.1.
    """
    # BEGIN SOLUTION
    if temperature == 0:
        return int(logits.argmax())
    probs, ids = (logits.float() / temperature).softmax(dim=-1).sort(descending=True)
    if top_k:
        probs[top_k:] = 0
        probs /= probs.sum()
    likelier = probs.cumsum(dim=-1) - probs  # the sum over all tokens that are likelier than this one
    probs[likelier >= top_p] = 0
    return int(ids[torch.multinomial(probs, 1, generator=generator)])  # multinomial scales the sum to 1 itself
    # END SOLUTION
