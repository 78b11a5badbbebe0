"""Lesson 04 done otherwise: softmax by hand, a rectangle inside ragged attention, one growing cache per request."""
import math
from itertools import pairwise

import torch
from torch.nn.functional import scaled_dot_product_attention


def count_tokens(lengths, batch_size):
    padding = 0
    waiting = list(lengths)
    while waiting:
        batch, waiting = waiting[:batch_size], waiting[batch_size:]
        padding += sum(max(batch) - length for length in batch)
    return sum(lengths), padding


def pad(prompts, side, pad_id):
    longest = max(len(prompt) for prompt in prompts)
    ids, positions, mask = [], [], []
    for prompt in prompts:
        fill = longest - len(prompt)
        left, right = (fill, 0) if side == "left" else (0, fill)
        ids.append([pad_id] * left + prompt + [pad_id] * right)
        positions.append([longest - 1] * left + list(range(len(prompt))) + [longest - 1] * right)
        mask.append([False] * left + [True] * len(prompt) + [False] * right)
    return torch.tensor(ids), torch.tensor(positions), torch.tensor(mask)


def spread(heads, groups):
    """Key heads, each as often as query heads share it."""
    return heads.repeat_interleave(groups, dim=1) if groups > 1 else heads


class PaddedAttention:
    def __init__(self, mask):
        self.shape = mask.shape
        places = torch.arange(mask.shape[1], device=mask.device)
        self.hidden = ~mask[:, None, :] | (places[None, :] > places[:, None])

    def __call__(self, layer, q, k, v):
        k, v = (spread(x, q.shape[1] // k.shape[1]) for x in (k, v))
        q, k, v = (x.reshape(*self.shape, *x.shape[1:]) for x in (q, k, v))
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(q.shape[-1])
        weights = scores.masked_fill(self.hidden[:, None], -math.inf).softmax(dim=-1).nan_to_num(0)
        return torch.einsum("bhij,bjhd->bihd", weights, v).flatten(0, 1)


def padded_prefill(model, prompts, side):
    device = list(model.parameters())[0].device
    ids, positions, mask = (x.to(device) for x in pad(prompts, side, 7))
    with torch.no_grad():
        hidden = model(ids.view(-1), positions.view(-1), PaddedAttention(mask)).view(*mask.shape, -1)
        last = (mask * torch.arange(1, mask.shape[1] + 1, device=device)).argmax(dim=1)
        return model.logits(hidden[torch.arange(len(prompts), device=device), last])


def pack(prompts):
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    cu_seqlens = torch.cat((torch.zeros(1, dtype=torch.int32), lengths.cumsum(0).int()))
    token_ids = torch.cat([torch.tensor(prompt) for prompt in prompts])
    return token_ids, torch.arange(len(token_ids)) - cu_seqlens[:-1].long().repeat_interleave(lengths), cu_seqlens


class RaggedAttention:
    """Puts the packed rows into a rectangle, attends there, and takes them out again."""

    def __init__(self, cu_seqlens):
        lengths = cu_seqlens.diff()
        self.mask = torch.arange(int(lengths.max()), device=cu_seqlens.device) < lengths[:, None]

    def __call__(self, layer, q, k, v):
        real = self.mask.flatten()
        wide = [x.new_zeros(len(real), *x.shape[1:]) for x in (q, k, v)]
        for rectangle, rows in zip(wide, (q, k, v), strict=True):
            rectangle[real] = rows
        return PaddedAttention(self.mask)(layer, *wide)[real]


class PackedCache:
    """Not packed at all: keys and values of each request by themselves."""

    def __init__(self, cu_seqlens):
        self.cuts = cu_seqlens.tolist()
        self.held = {}

    def __call__(self, layer, q, k, v):
        cuts = list(range(len(q) + 1)) if layer in self.held else self.cuts
        before = self.held.get(layer, [(k[:0], v[:0])] * (len(self.cuts) - 1))
        self.held[layer] = [(torch.cat((keys, k[start:end])), torch.cat((values, v[start:end])))
                            for (keys, values), (start, end) in zip(before, pairwise(cuts), strict=True)]
        out = []
        for (keys, values), (start, end) in zip(self.held[layer], pairwise(cuts), strict=True):
            mask = torch.ones(end - start, len(keys), dtype=torch.bool, device=q.device).tril(len(keys) - (end - start))
            heads = (x.transpose(0, 1)[None] for x in (q[start:end], keys, values))
            out.append(scaled_dot_product_attention(*heads, attn_mask=mask, enable_gqa=True)[0].transpose(0, 1))
        return torch.cat(out)


def generate_packed(model, prompts, max_new_tokens, stop_ids):
    device = model.norm.weight.device
    token_ids, positions, cu_seqlens = (x.to(device) for x in pack(prompts))
    attention, told, last = PackedCache(cu_seqlens), [], cu_seqlens.long()[1:] - 1
    with torch.no_grad():
        for _ in range(max_new_tokens):
            token_ids = model.logits(model(token_ids, positions, attention).index_select(0, last)).argmax(-1)
            told.append(token_ids.tolist())
            positions = positions[last] + 1
            last = torch.arange(len(prompts), device=device)
    rows = [[step[request] for step in told] for request in range(len(prompts))]
    ends = [next((i for i, token_id in enumerate(row) if token_id in stop_ids), len(row)) for row in rows]
    return [row[:end] for row, end in zip(rows, ends, strict=True)]


def exposes(prompt_lengths, max_new_tokens):
    return min(len(prompt_lengths), max_new_tokens) > 1


class SlotCache:
    def __init__(self, config, batch, capacity, dtype, device):
        shape = (config.n_layers, batch, config.n_kv_heads, capacity, config.head_dim)
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in "kv")
        self.lengths = [0] * batch

    def begin(self, counts):
        capacity, device = self.keys.size(3), self.keys.device
        for row, length in enumerate(self.lengths):
            if length + counts[row] > capacity:
                raise ValueError(f"{capacity} places, and row {row} wants {counts[row]} after {length}")
        self.counts = counts
        self.places = [(row, length + i) for row, length in enumerate(self.lengths) for i in range(counts[row])]
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]
        # Each slot as one row of the flattened (B, KH, capacity): a place is row * KH * capacity + head * capacity + t.
        heads = self.keys.size(2)
        rows, self.at = torch.tensor(self.places, device=device).T
        head = torch.arange(heads, device=device)
        self.flat = (rows[:, None] * heads + head) * capacity + self.at[:, None]
        ends = torch.tensor(self.lengths, device=device)
        self.hidden = torch.arange(max(self.lengths), device=device) >= ends[:, None]
        return self.at

    def __call__(self, layer, q, k, v):
        for memory, new in ((self.keys, k), (self.values, v)):
            memory[layer].flatten(0, 2).index_copy_(0, self.flat.flatten(), new.flatten(0, 1))
        if max(self.counts) > 1:
            cuts = torch.tensor([0, *self.counts], device=q.device).cumsum(0)
            return RaggedAttention(cuts)(layer, q, k, v)
        used = slice(0, self.hidden.shape[1])
        keys, values = (spread(x[layer, :, :, used], q.shape[1] // k.shape[1]) for x in (self.keys, self.values))
        scores = (keys @ q[:, :, :, None]).squeeze(-1) / math.sqrt(q.shape[-1])  # (B, H, longest)
        weights = scores.masked_fill(self.hidden[:, None], -math.inf).softmax(dim=-1)
        return (weights[:, :, None] @ values).squeeze(-2)

    def keep(self, rows):
        rows_on_device = torch.tensor(rows, device=self.keys.device)
        self.keys = self.keys.index_select(1, rows_on_device)
        self.values = self.values.index_select(1, rows_on_device)
        self.lengths = [length for row, length in enumerate(self.lengths) if row in rows]


def generate_batch(model, prompts, max_new_tokens, stop_ids, capacity):
    needed = [len(prompt) + max_new_tokens - 1 for prompt in prompts]
    if not all(prompts):
        raise ValueError(f"prompt {[bool(prompt) for prompt in prompts].index(False)} has no tokens")
    if max(needed) > capacity:
        raise ValueError(f"prompt {needed.index(max(needed))} is too long")
    told = {request: [] for request in range(len(prompts))}
    if max_new_tokens < 1:
        return list(told.values())
    weight = model.embed_tokens.weight
    cache = SlotCache(model.config, len(prompts), capacity, weight.dtype, weight.device)
    batch = {request: list(prompt) for request, prompt in enumerate(prompts)}  # what each running request sends next
    while batch:
        ids = torch.tensor(sum(batch.values(), []), device=weight.device)
        counts = [len(own) for own in batch.values()]
        with torch.no_grad():
            hidden = model(ids, cache.begin(counts), cache)
            last = hidden[torch.tensor(counts, device=weight.device).cumsum(0) - 1]
            chosen = model.logits(last).max(dim=-1).indices.tolist()
        stay = []
        for row, (request, token_id) in enumerate(zip(list(batch), chosen, strict=True)):
            if token_id not in stop_ids:
                told[request] += [token_id]
            if token_id in stop_ids or len(told[request]) == max_new_tokens:
                del batch[request]
            else:
                batch[request] = [token_id]
                stay.append(row)
        if batch and len(stay) < len(chosen):
            cache.keep(stay)
    return list(told.values())
