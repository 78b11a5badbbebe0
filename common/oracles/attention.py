"""Softmax attention by its formula, in float64 with every score in memory: what the faster ways are held against."""
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

ScoreMod = Callable[[Tensor, Tensor, Tensor], Tensor]  # (scores (H, Nq, Nk), queries (Nq,), keys (Nk,)) -> scores


def plain_attention(q: Float[Tensor, "Nq H D"], k: Float[Tensor, "Nk KH D"], v: Float[Tensor, "Nk KH D"],
                    score_mod: ScoreMod | None = None, scale: float | None = None,
                    ) -> tuple[Float[Tensor, "Nq H D"], Float[Tensor, "Nq H"]]:
    """One sequence's `out` and natural `lse`, in float64. A query that sees no key gets 0, -inf and no gradient."""
    q, k, v = (x.double() for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    scores = torch.einsum("ihd,jhd->hij", q, k) * (q.shape[2]**-0.5 if scale is None else scale)
    if score_mod is not None:
        scores = score_mod(scores, torch.arange(len(q), device=q.device), torch.arange(len(k), device=q.device))
    sees_none = (scores == -torch.inf).all(-1)
    lse = scores.masked_fill(sees_none[..., None], 0).logsumexp(-1)  # for rows that see no key: any number
    p = (scores - lse[..., None]).exp()
    return torch.einsum("hij,jhd->ihd", p, v), lse.masked_fill(sees_none, -torch.inf).T


def causal_mod(nq: int, nk: int, window: int | None = None) -> ScoreMod:
    """Query i sees the keys j <= i + nk - nq, of these the last `window`: the last query sees the last key."""
    def hide(scores: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        distance = keys - (queries[:, None] + nk - nq)
        seen = distance <= 0 if window is None else (distance <= 0) & (distance > -window)
        return scores.masked_fill(~seen, -torch.inf)

    return hide


def packed_attention(q: Float[Tensor, "Nq H D"], k: Float[Tensor, "Nk KH D"], v: Float[Tensor, "Nk KH D"],
                     cu_seqlens_q: Int[Tensor, "batch+1"], cu_seqlens_k: Int[Tensor, "batch+1"], causal: bool,
                     window: int | None = None, scale: float | None = None,
                     ) -> tuple[Float[Tensor, "Nq H D"], Float[Tensor, "Nq H"]]:
    """`plain_attention` of each sequence of a packed batch."""
    results = []
    for rows, columns in zip(segments(cu_seqlens_q), segments(cu_seqlens_k), strict=True):
        hide = causal_mod(len(q[rows]), len(k[columns]), window) if causal else None
        results.append(plain_attention(q[rows], k[columns], v[columns], hide, scale))
    outs, lses = zip(*results, strict=True)
    return torch.cat(outs), torch.cat(lses)


def segments(cu_seqlens: Int[Tensor, "batch+1"]) -> list[slice]:
    bounds = cu_seqlens.tolist()
    return [slice(start, end) for start, end in zip(bounds, bounds[1:], strict=False)]
