"""Lesson 04, prefill: many prompts at once, padded, packed and in slots, and then decoding for all of them.

Shapes: `B` requests; `T` tokens of the longest; `N` tokens in one row, whichever requests they belong to; `H` query
heads; `KH` key/value heads, H a multiple of KH; `D` head dim; `V` vocabulary.

All attention here scales scores by 1 / sqrt(D), and query head h reads key/value head h // (H // KH).
"""
from collections.abc import Collection, Sequence
from itertools import accumulate, pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.model.attention import CausalAttention, KVHeads, QueryHeads
from common.model.llama import Config, Llama


def count_tokens(lengths: Sequence[int], batch_size: int) -> tuple[int, int]:
    """04.1 What padding costs: the tokens that mean something, and those that fill up rectangles.

    Args:
        lengths: the prompts' lengths in tokens, each >= 1, in the order in which they arrive.
        batch_size: prompts are taken so many at a time, in this order; the last batch may be smaller. Every batch is
            padded to its own longest prompt.

    Returns:
        (real, padding): the numbers of both kinds of tokens over all batches, as plain `int`s.
    """
    # BEGIN SOLUTION
    batches = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
    rectangles = sum(len(batch) * max(batch) for batch in batches)
    return sum(lengths), rectangles - sum(lengths)
    # END SOLUTION


def pad(
    prompts: list[list[int]], side: Literal["left", "right"], pad_id: int
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """04.2 Prompts as a rectangle, each filled up to the longest with `pad_id`.

    Args:
        prompts: at least one, each of at least one id.
        side: where the padding stands: before each prompt ("left") or behind it ("right").
        pad_id: may well be an id that occurs in prompts too.

    Returns:
        token_ids: int64.
        positions: int64. Each prompt's tokens are numbered 0, 1, 2, ..., on whichever side its padding is. Padding has
            any number from 0 to T - 1.
        mask: bool, True for the prompts' tokens and False for padding.
    """
    # BEGIN SOLUTION
    shape = len(prompts), max(map(len, prompts))
    token_ids = torch.full(shape, pad_id)
    positions = torch.zeros(shape, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        n = len(prompt)
        real = slice(0, n) if side == "right" else slice(shape[1] - n, shape[1])
        token_ids[row, real] = torch.tensor(prompt)
        positions[row, real] = torch.arange(n)
        mask[row, real] = True
    return token_ids, positions, mask
    # END SOLUTION


class PaddedAttention:
    """04.3 The attention backend of a rectangle: B sequences of T tokens each, row after row in one long row.

    A token of a prompt sees the tokens of its own prompt up to itself: no other prompt, no padding, nothing later. What
    a token of padding gets is open, but for one thing: it is finite. In the next layer padding has keys and values too,
    and where a mask gives weight 0 to a value, 0 * nan is still nan.
    """

    def __init__(self, mask: Bool[Tensor, "B T"]):
        """`mask` is True for the prompts' tokens, as `pad` gives it: in each row on the left, or on the right."""
        # BEGIN SOLUTION
        self.batch, length = mask.shape
        self.mask = None  # padding on the right is later than every token: the causal mask alone hides it
        if not mask[:, 0].all():
            past = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
            itself = torch.eye(length, dtype=torch.bool, device=mask.device)  # the softmax over nothing is nan
            self.mask = (past & mask[:, None, :] | itself)[:, None]  # (B, 1, T, T)
        # END SOLUTION

    def __call__(self, layer: int, q: QueryHeads, k: KVHeads, v: KVHeads) -> QueryHeads:
        """What all N = B * T tokens gather, in q's dtype. Neither q, k nor v need be contiguous."""
        # BEGIN SOLUTION
        grouped = q.shape[1] != k.shape[1]
        q, k, v = (x.unflatten(0, (self.batch, -1)).transpose(1, 2) for x in (q, k, v))  # (B, heads, T, D)
        out = F.scaled_dot_product_attention(q, k, v, self.mask, is_causal=self.mask is None, enable_gqa=grouped)
        return out.transpose(1, 2).flatten(0, 1)
        # END SOLUTION


@torch.inference_mode()
def padded_prefill(
    model: Llama, prompts: list[list[int]], side: Literal["left", "right"]
) -> Float[Tensor, "B V"]:
    """04.4 What follows each prompt: the logits of its last token, from one pass over a padded rectangle.

    Args:
        model: `model(token_ids, positions, attention)` takes ids (N,) and positions (N,), both on the device of the
            model's parameters, and gives hidden states (N, dim). `model.logits(hidden)` scores the vocabulary from as
            many of these rows as it is given.
        prompts: at least one, each of at least one id.
        side: where the padding stands.

    Returns:
        Row i: the logits after the last token of prompts[i].

    The model is called once, with the B * T tokens of `pad` and the positions that it gives them. `model.logits` is
    called once, with the B rows that are asked for: V is large, and hardly any row of a prompt matters.
    """
    # BEGIN SOLUTION
    device = next(model.parameters()).device
    token_ids, positions, mask = (x.to(device) for x in pad(prompts, side, pad_id=0))
    hidden = model(token_ids.flatten(), positions.flatten(), PaddedAttention(mask))
    length = mask.shape[1]
    last = [row * length + (len(prompt) if side == "right" else length) - 1 for row, prompt in enumerate(prompts)]
    return model.logits(hidden[last])
    # END SOLUTION


def pack(prompts: list[list[int]]) -> tuple[Int[Tensor, "N"], Int[Tensor, "N"], Int[Tensor, "B+1"]]:
    """04.5 Prompts one behind the other in a single row, with nothing between them.

    Args:
        prompts: at least one, each of at least one id.

    Returns:
        token_ids: int64, all ids.
        positions: int64. Each prompt's tokens are numbered 0, 1, 2, ...
        cu_seqlens: int32, the cumulative lengths: prompt i is token_ids[cu_seqlens[i] : cu_seqlens[i + 1]]. The first
            is 0 and the last N.
    """
    # BEGIN SOLUTION
    token_ids = torch.tensor([id for prompt in prompts for id in prompt])
    positions = torch.cat([torch.arange(len(prompt)) for prompt in prompts])
    cu_seqlens = torch.tensor([0, *accumulate(map(len, prompts))], dtype=torch.int32)
    return token_ids, positions, cu_seqlens
    # END SOLUTION


class RaggedAttention:
    """04.5 The attention backend of packed prompts: each token sees its own prompt up to itself, and nothing else.

    A loop over the prompts is welcome here. What is not: scores of one prompt's tokens with another's, be they masked
    afterwards. No tensor may have as many as N * N elements (where there are several prompts).
    """

    def __init__(self, cu_seqlens: Int[Tensor, "B+1"]):
        # BEGIN SOLUTION
        self.cu_seqlens = cu_seqlens.tolist()  # once: on a GPU this waits for everything before it
        self.alone = CausalAttention()
        # END SOLUTION

    def __call__(self, layer: int, q: QueryHeads, k: KVHeads, v: KVHeads) -> QueryHeads:
        """What all N tokens gather, in q's dtype. Neither q, k nor v need be contiguous."""
        # BEGIN SOLUTION
        prompts = pairwise(self.cu_seqlens)
        return torch.cat([self.alone(layer, q[start:end], k[start:end], v[start:end]) for start, end in prompts])
        # END SOLUTION


class PackedCache:
    """04.6 Ragged attention that goes on: keys and values of all requests in one packed row.

    Called once per layer in every call of the model. The first call brings the packed prompts, as `RaggedAttention`
    gets them. Every further call brings one new token of each request, in the requests' order (N = B). A new token sees
    all of its own request: the prompt, the tokens that were added since, and itself. It sees nothing of any other.
    """

    def __init__(self, cu_seqlens: Int[Tensor, "B+1"]):
        self.prefill = RaggedAttention(cu_seqlens)
        self.cu_seqlens = cu_seqlens.tolist()
        self.keys: dict[int, Tensor] = {}  # by layer: (tokens so far, KH, D)
        self.values: dict[int, Tensor] = {}

    def __call__(self, layer: int, q: QueryHeads, k: KVHeads, v: KVHeads) -> QueryHeads:
        """What all N tokens gather, in q's dtype. Neither q, k nor v need be contiguous."""
        if layer not in self.keys:
            self.keys[layer], self.values[layer] = k, v
            return self.prefill(layer, q, k, v)
        # BEGIN GIVEN
        # # From here on something is wrong.
        # self.keys[layer] = torch.cat((self.keys[layer], k))
        # self.values[layer] = torch.cat((self.values[layer], v))
        # added = (len(self.keys[layer]) - self.cu_seqlens[-1]) // len(q)  # new tokens of each request so far
        # out = []
        # for request, (start, end) in enumerate(pairwise(self.cu_seqlens)):
        #     own = slice(start, end + added)
        #     out.append(attend_one(q[request], self.keys[layer][own], self.values[layer][own]))
        # return torch.stack(out)
        # END GIVEN
        # BEGIN SOLUTION
        self.keys[layer] = torch.cat((self.keys[layer], k))
        self.values[layer] = torch.cat((self.values[layer], v))
        packed, batch = self.cu_seqlens[-1], len(q)
        out = []
        for request, (start, end) in enumerate(pairwise(self.cu_seqlens)):
            # Every step appended one row per request, so a request's new rows lie `batch` apart.
            own = [*range(start, end), *range(packed + request, len(self.keys[layer]), batch)]
            out.append(attend_one(q[request], self.keys[layer][own], self.values[layer][own]))
        return torch.stack(out)
        # END SOLUTION


def attend_one(q: Float[Tensor, "H D"], k: Float[Tensor, "T KH D"], v: Float[Tensor, "T KH D"]) -> Float[Tensor, "H D"]:
    """What one token gathers from T tokens, all of which it sees. Used in 04.6, and right as it stands."""
    q = q.unflatten(0, (k.shape[1], -1))  # (KH, H / KH, D): heads that share a key head become its queries
    return F.scaled_dot_product_attention(q, k.transpose(0, 1), v.transpose(0, 1)).flatten(0, 1)


@torch.inference_mode()
def generate_packed(model: Llama, prompts: list[list[int]], max_new_tokens: int,
                    stop_ids: Collection[int]) -> list[list[int]]:
    """Generate for all prompts on a `PackedCache`. Used in 04.6, and right as it stands.

    Returns the new ids of each request, up to its first stop id and without it. A request that has ended is computed
    until the last one has, and ignored.
    """
    device = next(model.parameters()).device
    token_ids, positions, cu_seqlens = (x.to(device) for x in pack(prompts))
    attention, last = PackedCache(cu_seqlens), cu_seqlens[1:] - 1
    new_ids: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    for _ in range(max_new_tokens):
        hidden = model(token_ids, positions, attention)
        token_ids = model.logits(hidden[last]).argmax(dim=-1)
        for request, token_id in enumerate(token_ids.tolist()):
            ended[request] |= token_id in stop_ids
            if not ended[request]:
                new_ids[request].append(token_id)
        if all(ended):
            break
        positions, last = positions[last] + 1, torch.arange(len(prompts), device=device)
    return new_ids


def exposes(prompt_lengths: list[int], max_new_tokens: int) -> bool:
    """04.7 Which batches expose the bug of 04.6? Answer for `PackedCache` as it was given, not as you mended it.

    Args:
        prompt_lengths: the lengths of the batch's prompts, at least one, each >= 1.
        max_new_tokens: how many tokens are generated for each, >= 0. No stop token.

    Returns:
        True if, in the course of this generation, any new token attends to another set of tokens than it should.
    """
    # BEGIN SOLUTION
    # The first token comes from the prefill alone. One request has all rows behind its prompt to itself.
    return len(prompt_lengths) >= 2 and max_new_tokens >= 2
    # END SOLUTION


class SlotCache:
    """04.8 The keys and values of a batch: a slot of `capacity` tokens for each request; and the attention on them.

    Token t of request i lies, in layer l, in keys[l, i, :, t] and values[l, i, :, t]. `lengths[i]` is the number of
    tokens of request i. Request i is row i of the batch; as requests leave, the others move up.

    As an `Attention` it serves two kinds of calls, each announced by `begin`: the packed prompts of all requests, into
    empty slots; and then, again and again, one new token of each request, in order. In both a token sees all tokens of
    its own request up to itself, and nothing else.
    """

    keys: Float[Tensor, "n_layers B KH capacity D"]
    values: Float[Tensor, "n_layers B KH capacity D"]
    lengths: list[int]

    def __init__(self, config: Config, batch: int, capacity: int, dtype: torch.dtype, device: torch.device | str):
        """Reserve the memory: all of it, and for good. (This is right as it stands.)"""
        shape = (config.n_layers, batch, config.n_kv_heads, capacity, config.head_dim)
        # Zeros, for memory that was never written may hold nan, and a masked nan is not harmless: 0 * nan is nan.
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = [0] * batch

    def begin(self, counts: list[int]) -> Int[Tensor, "N"]:
        """Announce the next call of the model: counts[i] >= 1 new tokens of request i, N in all.

        Returns:
            The positions of the N tokens, each counted from 0 in its own request: int64, on the cache's device. From
            now on `lengths` includes them.

        Raises:
            ValueError: if a request would then have more tokens than its slot holds. The message names the request's
                row, its length and the capacity, and nothing has changed: not `lengths`, not `keys`, not `values`.
        """
        # BEGIN SOLUTION
        capacity, device = self.keys.shape[3], self.keys.device
        for row, (length, count) in enumerate(zip(self.lengths, counts, strict=True)):
            if length + count > capacity:
                raise ValueError(f"row {row} has {length} tokens and cannot take {count} more: a slot's capacity is "
                                 f"{capacity}. Make the cache with a larger one, or ask for fewer tokens.")
        new, before = torch.tensor(counts), torch.tensor(self.lengths)
        cu_seqlens = F.pad(new.cumsum(0), (1, 0))
        rows = torch.arange(len(counts)).repeat_interleave(new)
        positions = torch.arange(len(rows)) + (before - cu_seqlens[:-1])[rows]
        self.lengths = (before + new).tolist()
        self.places = rows.to(device), positions.to(device)
        self.prefill = RaggedAttention(cu_seqlens) if max(counts) > 1 else None
        self.longest = max(self.lengths)
        unseen = torch.arange(self.longest) >= (before + new)[:, None]  # (B, longest)
        mask = torch.zeros(unseen.shape, dtype=self.keys.dtype).masked_fill(unseen, -torch.inf)
        self.mask = mask[:, None, None].to(device)  # made once, added to the scores in every layer
        return self.places[1]
        # END SOLUTION

    def __call__(self, layer: int, q: QueryHeads, k: KVHeads, v: KVHeads) -> QueryHeads:
        """Keep the new keys and values of one layer, and give what the N new tokens gather, in q's dtype.

        For one new token per request, the number of torch operations does not grow with the batch (no loop over
        requests), and nothing is read of any slot behind the longest request of the batch, whatever the capacity.
        `keys` and `values` are written in place.
        """
        # BEGIN SOLUTION
        rows, positions = self.places
        self.keys[layer][rows, :, positions] = k
        self.values[layer][rows, :, positions] = v
        if self.prefill:
            return self.prefill(layer, q, k, v)
        q = q.unflatten(1, (k.shape[1], -1))  # (B, KH, H / KH, D): heads that share a key head become its queries
        keys, values = (x[layer, :, :, : self.longest] for x in (self.keys, self.values))  # (B, KH, longest, D)
        return F.scaled_dot_product_attention(q, keys, values, self.mask).flatten(1, 2)
        # END SOLUTION

    def keep(self, rows: list[int]) -> None:
        """Let requests leave: those of `rows`, ascending and at least one, stay, and become rows 0, 1, 2, ..."""
        # BEGIN SOLUTION
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.lengths = [self.lengths[row] for row in rows]
        # END SOLUTION


# BEGIN SOLUTION
class _Request:
    def __init__(self, prompt: list[int]):
        self.unsent = prompt  # for the next call of the model: the prompt, then the newest token, nothing at the end
        self.new_ids: list[int] = []


# END SOLUTION
@torch.inference_mode()
def generate_batch(model: Llama, prompts: list[list[int]], max_new_tokens: int, stop_ids: Collection[int],
                   capacity: int) -> list[list[int]]:
    """04.9 Generate greedily for all prompts at once, each ending on its own.

    Args:
        model: as in `padded_prefill`; `model.config` is its Config.
        prompts: at least one. Neither the list nor the prompts are changed.
        max_new_tokens: the most tokens to generate for each, >= 0.
        stop_ids: ids that end a request.
        capacity: tokens that a slot of the cache may hold, >= 0.

    Returns:
        For each prompt, in order, its new ids as plain `int`s: up to the first stop id, which is not among them, and
        no more than `max_new_tokens`. Of equally large logits the lowest id wins.

    Raises:
        ValueError: before the model is called, if a prompt is empty, or if its tokens and max_new_tokens - 1 new ones
            exceed `capacity`: the last new token is never sent to the model. The message names the prompt's index.

    The first call of the model gets all prompts, packed, without padding. Every further call gets the newest token of
    each request that has not ended, and nothing of those that have. `model.logits` gets one row for each request in the
    call. After the last token that is needed the model is not called again: for max_new_tokens = 0, never.
    """
    # BEGIN SOLUTION
    for index, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {index} is empty: there is no last token to go on from.")
        if len(prompt) + max_new_tokens - 1 > capacity:
            raise ValueError(f"prompt {index} has {len(prompt)} tokens; {max_new_tokens} new ones do not fit a slot of "
                             f"{capacity}. Shorten it, ask for fewer, or raise the capacity.")
    weight = next(model.parameters())
    cache = SlotCache(model.config, len(prompts), capacity, weight.dtype, weight.device)
    requests = [_Request(prompt) for prompt in prompts]
    running = requests if max_new_tokens > 0 else []  # running[row]: the request in this row of the cache
    while running:
        counts = [len(request.unsent) for request in running]
        token_ids = torch.tensor([id for request in running for id in request.unsent], device=weight.device)
        hidden = model(token_ids, cache.begin(counts), cache)
        last = torch.tensor(counts).cumsum(0) - 1
        chosen = model.logits(hidden[last]).argmax(dim=-1).tolist()  # a GPU is waited for here, once per step
        for request, token_id in zip(running, chosen, strict=True):
            if token_id not in stop_ids:
                request.new_ids.append(token_id)
            ended = token_id in stop_ids or len(request.new_ids) >= max_new_tokens
            request.unsent = [] if ended else [token_id]
        stay = [row for row, request in enumerate(running) if request.unsent]
        if 0 < len(stay) < len(running):
            cache.keep(stay)
        running = [running[row] for row in stay]
    return [request.new_ids for request in requests]
    # END SOLUTION
