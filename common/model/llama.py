"""A Llama decoder on packed tokens.

The decoder sees N tokens in one row, whichever requests they belong to, and each token's position in its own request.
Which token may look at which other, and where keys and values are kept, is the business of the `attention` argument
alone (attention.py). So one decoder serves a single sequence, a ragged batch, a paged cache and chunked prefill.

Shapes: `N` packed tokens, `H` query heads, `KH` key/value heads, `D` head dim, `dim` = model width, `V` vocabulary.
Source: Touvron et al. 2023, "LLaMA"; grouped queries: Ainslie et al. 2023; parameter names are Hugging Face's.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from common.model.attention import Attention


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's stretching of the rotary wavelengths for contexts longer than the original training length."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True)
class Config:
    """The numbers that fix a Llama's shape. `max_positions` is the context length it was trained for, in tokens."""

    vocab_size: int
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    max_positions: int = 2048
    tie_embeddings: bool = False


class RMSNorm(nn.Module):
    """Scale every row to root mean square 1, then by a learned weight (Zhang & Sennrich 2019)."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Float[Tensor, "N dim"]) -> Float[Tensor, "N dim"]:
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)  # torch squares and sums half precision in float32


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021): turn each pair (x[i], x[i + D/2]) by position * frequency[i]."""

    def __init__(self, config: Config):
        super().__init__()
        # On the CPU even when the model is laid out on the meta device: these numbers are in no checkpoint.
        pair = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu")
        frequency = config.rope_theta ** (-pair / config.head_dim)
        if config.rope_scaling is not None:
            frequency = scale_frequency(frequency, config.rope_scaling)
        self.register_buffer("frequency", frequency, persistent=False)

    def forward(self, positions: Int[Tensor, "N"]) -> tuple[Float[Tensor, "N 1 D"], Float[Tensor, "N 1 D"]]:
        """What `rotate` multiplies with, computed once per call of the model and shared by all layers."""
        angle = torch.outer(positions.float(), self.frequency.float())[:, None, :]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)

    @staticmethod
    def rotate(
        x: Float[Tensor, "N heads D"], cos: Float[Tensor, "N 1 D"], sin: Float[Tensor, "N 1 D"]
    ) -> Float[Tensor, "N heads D"]:
        """(x1 cos - x2 sin, x2 cos + x1 sin) in few operations; in float32 at least, since cos and sin are."""
        other_half = x.roll(x.shape[-1] // 2, dims=-1)
        return torch.addcmul(x * cos, other_half, sin).type_as(x)


def scale_frequency(frequency: Float[Tensor, "half"], scaling: RopeScaling) -> Float[Tensor, "half"]:
    """Divide slow frequencies by `factor`, keep fast ones, and blend in between (Llama 3.1's model card and code)."""
    turns = scaling.original_max_positions * frequency / (2 * math.pi)  # turns made within the original context
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = keep.clamp(0, 1)
    return keep * frequency + (1 - keep) * frequency / scaling.factor


class SwiGLU(nn.Module):
    """The gated feed-forward part: silu(gate) * up, projected back to `dim` (Shazeer 2020)."""

    def __init__(self, config: Config, linear: Callable[..., nn.Module]):
        super().__init__()
        self.gate_proj = linear(config.dim, config.ffn_dim, bias=False)
        self.up_proj = linear(config.dim, config.ffn_dim, bias=False)
        self.down_proj = linear(config.ffn_dim, config.dim, bias=False)

    def forward(self, x: Float[Tensor, "N dim"]) -> Float[Tensor, "N dim"]:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


@dataclass(frozen=True)
class Parts:
    """What a Llama is assembled from. Lessons put the learner's own parts in place of these."""

    norm: Callable[[int, float], nn.Module] = RMSNorm
    rotary: Callable[[Config], nn.Module] = Rotary
    mlp: Callable[[Config, Callable[..., nn.Module]], nn.Module] = SwiGLU
    linear: Callable[..., nn.Module] = nn.Linear
    embedding: Callable[[int, int], nn.Module] = nn.Embedding


class SelfAttention(nn.Module):
    """Project to queries, keys and values, rotate, let the backend attend, project back."""

    def __init__(self, config: Config, parts: Parts):
        super().__init__()
        self.head_dim = config.head_dim
        self.q_proj = parts.linear(config.dim, config.n_heads * config.head_dim, bias=False)
        self.k_proj = parts.linear(config.dim, config.n_kv_heads * config.head_dim, bias=False)
        self.v_proj = parts.linear(config.dim, config.n_kv_heads * config.head_dim, bias=False)
        self.o_proj = parts.linear(config.n_heads * config.head_dim, config.dim, bias=False)

    def forward(self, x: Float[Tensor, "N dim"], rotate: Callable[[Tensor], Tensor],
                attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Float[Tensor, "N dim"]:
        q = self.q_proj(x).unflatten(-1, (-1, self.head_dim))  # (N, H, D)
        k = self.k_proj(x).unflatten(-1, (-1, self.head_dim))  # (N, KH, D)
        v = self.v_proj(x).unflatten(-1, (-1, self.head_dim))
        return self.o_proj(attend(rotate(q), rotate(k), v).flatten(-2))


class DecoderLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: Config, parts: Parts):
        super().__init__()
        self.input_layernorm = parts.norm(config.dim, config.norm_eps)
        self.self_attn = SelfAttention(config, parts)
        self.post_attention_layernorm = parts.norm(config.dim, config.norm_eps)
        self.mlp = parts.mlp(config, parts.linear)

    def forward(self, x: Float[Tensor, "N dim"], rotate: Callable, attend: Callable) -> Float[Tensor, "N dim"]:
        x = x + self.self_attn(self.input_layernorm(x), rotate, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """The decoder. `forward` gives hidden states, `logits` scores the vocabulary from those rows that are needed."""

    def __init__(self, config: Config, parts: Parts = Parts()):  # noqa: B008  (frozen, so one shared default is safe)
        super().__init__()
        self.config = config
        self.embed_tokens = parts.embedding(config.vocab_size, config.dim)
        self.rotary = parts.rotary(config)
        self.layers = nn.ModuleList(DecoderLayer(config, parts) for _ in range(config.n_layers))
        self.norm = parts.norm(config.dim, config.norm_eps)
        self.lm_head = None if config.tie_embeddings else parts.linear(config.dim, config.vocab_size, bias=False)

    def forward(
        self, token_ids: Int[Tensor, "N"], positions: Int[Tensor, "N"], attention: Attention
    ) -> Float[Tensor, "N dim"]:
        x = self.embed_tokens(token_ids)
        cos, sin = self.rotary(positions)

        def rotate(heads: Tensor) -> Tensor:
            return self.rotary.rotate(heads, cos, sin)

        for index, layer in enumerate(self.layers):
            x = layer(x, rotate, lambda q, k, v, index=index: attention(index, q, k, v))
        return self.norm(x)

    def logits(self, hidden: Float[Tensor, "N dim"]) -> Float[Tensor, "N V"]:
        if self.lm_head is None:
            return F.linear(hidden, self.embed_tokens.weight)
        return self.lm_head(hidden)
