"""Lesson 01 done otherwise: sums of squares, complex numbers, a loop over heads, tanh, fused weights, Gumbel noise."""
import math

import torch


def rms_norm(x, weight, eps):
    wide = x.to(torch.float32)
    length = torch.linalg.vector_norm(wide, dim=1)
    divisor = torch.hypot(length / math.sqrt(x.shape[1]), torch.tensor(math.sqrt(eps), device=x.device))
    return (wide / divisor[:, None]).type_as(x) * weight  # rounded once more before the weight, as Hugging Face does


def rotate(x, positions, theta):
    n, heads, head_dim = x.shape
    if head_dim & 1:
        raise ValueError("odd")
    pair = torch.arange(head_dim // 2, dtype=torch.float32, device=x.device)
    frequency = torch.exp(pair * (-2 * math.log(theta) / head_dim))
    angle = torch.outer(positions.to(torch.float32), frequency)
    turn = torch.polar(torch.ones_like(angle), angle)
    turned = torch.view_as_complex(x.float().view(n, heads, 2, -1).transpose(2, 3).contiguous()) * turn[:, None]
    return torch.view_as_real(turned).transpose(2, 3).reshape(x.shape).to(x.dtype)


def causal_attention(q, k, v):
    out, group = torch.empty_like(q), q.shape[1] // k.shape[1]
    past = torch.ones(len(q), len(q), device=q.device).tril()
    for head in range(q.shape[1]):
        scores = q[:, head] @ k[:, head // group].T * q.shape[2] ** -0.5
        scores = torch.where(past > 0, scores, torch.finfo(scores.dtype).min)
        weights = (scores - scores.amax(dim=1, keepdim=True)).exp() * past
        out[:, head] = weights @ v[:, head // group] / weights.sum(dim=1, keepdim=True)
    return out


def swiglu(x, w_gate, w_up, w_down):
    gate, up = torch.nn.functional.linear(x, torch.cat((w_gate, w_up))).chunk(2, dim=-1)
    return torch.nn.functional.linear(0.5 * gate * (1 + torch.tanh(gate / 2)) * up, w_down)


def decoder_layer(x, positions, weights, config, parts):
    def attend(h):
        fused = torch.cat([weights[f"self_attn.{name}_proj.weight"] for name in "qkv"])
        heads = torch.einsum("nd,od->no", h, fused).reshape(len(h), -1, config.head_dim)
        q, k, v = heads.split([config.n_heads, config.n_kv_heads, config.n_kv_heads], dim=1)
        # Queries and keys side by side: to the rotation they are only heads.
        turned = parts.rotate(torch.cat((q, k), dim=1), positions, config.rope_theta)
        q, k = turned.split([q.shape[1], k.shape[1]], dim=1)
        return torch.einsum("nhd,ohd->no", parts.causal_attention(q, k, v),
                            weights["self_attn.o_proj.weight"].unflatten(1, (config.n_heads, -1)))

    def think(h):
        return parts.swiglu(h, *[weights[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down")])

    for norm, part in (("input_layernorm", attend), ("post_attention_layernorm", think)):
        x = part(parts.rms_norm(x, weights[f"{norm}.weight"], config.norm_eps)) + x
    return x


def layer_weights(weights, index):
    return {name.split(".", 2)[2]: weights[name] for name in weights if name.split(".")[:2] == ["layers", str(index)]}


def llama_logits(token_ids, weights, config, parts):
    x = torch.nn.functional.embedding(token_ids, weights["embed_tokens.weight"])
    positions = torch.ones_like(token_ids).cumsum(0) - 1
    for layer in [layer_weights(weights, index) for index in range(config.n_layers)]:
        x = parts.decoder_layer(x, positions, layer, config, parts)
    name = "lm_head.weight" if "lm_head.weight" in weights else "embed_tokens.weight"
    return torch.einsum("nd,vd->nv", parts.rms_norm(x, weights["norm.weight"], config.norm_eps), weights[name])


def next_token_loss(logits, token_ids):
    total = torch.zeros((), device=logits.device)
    for row, due in zip(logits, token_ids[1:], strict=False):
        shifted = row.float() - row.max()
        total += shifted.exp().sum().log() - shifted[due]
    return total / (len(token_ids) - 1)


def sample(logits, temperature, top_k, top_p, generator):
    best_first = torch.argsort(logits, descending=True, stable=True)
    if temperature == 0:
        return best_first[0].item()
    best_first = best_first[: top_k or None]
    scores = logits[best_first] / temperature
    mass, kept = 0.0, 0
    for p in torch.softmax(scores, 0).tolist():
        if mass >= top_p:
            break
        mass, kept = mass + p, kept + 1
    # The largest of logits with Gumbel noise is a sample of their softmax.
    noise = -torch.empty(kept, device=logits.device).exponential_(generator=generator).log()
    return int(best_first[(scores[:kept] + noise).argmax()])
