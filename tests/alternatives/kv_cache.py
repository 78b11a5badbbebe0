"""Lesson 03 done otherwise: heads before tokens in memory, attention by its formula, an iterator, sums in loops."""
import math

import torch


class KVCache:
    def __init__(self, config, capacity, dtype, device):
        # In memory each head's tokens lie side by side; `keys` and `values` show them in the order that was asked for.
        shape = (2, config.n_layers, config.n_kv_heads, capacity, config.head_dim)
        self.memory = torch.zeros(shape, dtype=dtype).to(device)
        self.keys, self.values = self.memory.transpose(2, 3)
        self.tokens_in = {}

    @property
    def length(self):
        return min(self.tokens_in.get(layer, 0) for layer in range(self.memory.shape[1]))

    def append(self, layer, k, v):
        held = self.tokens_in.get(layer, 0)
        left = self.memory.shape[3] - held
        if left < k.shape[0]:
            raise ValueError(f"{k.shape[0]} tokens asked, {held} held, capacity {self.memory.shape[3]}")
        for memory, new in zip(self.memory, (k, v), strict=True):
            memory[layer].narrow(1, held, len(new)).copy_(new.transpose(0, 1))
        self.tokens_in[layer] = held + len(v)
        return self.keys[layer].narrow(0, 0, held + len(k)), self.values[layer].narrow(0, 0, held + len(k))


def CachedAttention(cache):
    def attend(layer, q, k, v):
        keys, values = (x.float().repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in cache.append(layer, k, v))
        at = torch.arange(len(keys), device=q.device)
        scores = torch.einsum("ihd,jhd->hij", q.float(), keys) / math.sqrt(q.shape[2])
        scores = scores.masked_fill(at > at[-len(q):, None], float("-inf"))
        return torch.einsum("hij,jhd->ihd", scores.softmax(dim=-1), values).to(q.dtype)

    return attend


class generate:
    def __init__(self, model, prompt_ids, max_new_tokens, stop_ids, choose):
        self.model, self.stop_ids, self.choose = model, set(stop_ids), choose
        self.next_ids, self.position, self.left = torch.tensor(prompt_ids), 0, max_new_tokens
        parameter = list(model.parameters())[-1]
        self.device = parameter.device
        if max_new_tokens:
            places = len(prompt_ids) + max_new_tokens - 1
            self.attention = CachedAttention(KVCache(model.config, places, parameter.dtype, parameter.device))

    def __iter__(self):
        return self

    @torch.no_grad()
    def __next__(self):
        if not self.left:
            raise StopIteration
        ids = self.next_ids.to(self.device)
        hidden = self.model(ids, self.position + torch.arange(len(ids), device=self.device), attention=self.attention)
        chosen = int(self.choose(self.model.logits(hidden[-1][None])))
        self.position += len(ids)
        self.left = 0 if chosen in self.stop_ids else self.left - 1
        if chosen in self.stop_ids:
            raise StopIteration
        self.next_ids = ids.new_tensor([chosen])
        return chosen


def cache_bytes(config, tokens, bytes_per_element):
    return math.prod((2, bytes_per_element, config.n_layers, config.n_kv_heads, config.head_dim)) * tokens


def call_cost(config, new, held, bytes_per_element):
    q_width, k_width = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    matrices = [(config.dim, q_width), (q_width, config.dim), (config.dim, k_width), (config.dim, k_width)]
    matrices += 3 * [(config.dim, config.ffn_dim)]
    flops, elements = 2 * config.dim * config.vocab_size, config.dim * config.vocab_size
    for _ in range(config.n_layers):
        for rows, columns in matrices:
            flops += 2 * new * rows * columns
            elements += rows * columns
        for _ in range(config.n_heads):
            flops += 2 * new * config.head_dim * (held + new) + 2 * new * (held + new) * config.head_dim
        elements += 2 * (held + new) * k_width
    return flops, elements * bytes_per_element


def predict_seconds(config, prompt_length, new_tokens, flops_per_second, bytes_per_second, seconds_per_call,
                    bytes_per_element):
    parts = [0.0, 0.0]
    held, new = 0, prompt_length
    for call in range(new_tokens):
        flops, moved = call_cost(config, new, held, bytes_per_element)
        parts[call > 0] += sorted([flops / flops_per_second, moved / bytes_per_second, seconds_per_call])[-1]
        held, new = held + new, 1
    return parts[0], parts[1]
