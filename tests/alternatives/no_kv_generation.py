"""Lesson 02 done otherwise: an iterator class, incremental UTF-8, and closed formulas in place of sums."""
import codecs
from fractions import Fraction

import torch

from common.model.attention import CausalAttention


class generate:
    def __init__(self, model, prompt_ids, max_new_tokens, stop_ids, choose):
        self.model, self.choose, self.stop_ids = model, choose, set(stop_ids)
        self.ids = torch.tensor(prompt_ids, device=list(model.parameters())[0].device)
        self.left = max_new_tokens

    def __iter__(self):
        return self

    @torch.no_grad()
    def __next__(self):
        if self.left == 0:
            raise StopIteration
        self.left -= 1
        positions = torch.cumsum(torch.ones_like(self.ids), 0) - 1
        last = self.model(self.ids, positions, CausalAttention(batch=1))[len(self.ids) - 1 :]
        chosen = int(self.choose(self.model.logits(last)))
        if chosen in self.stop_ids:
            self.left = 0
            raise StopIteration
        self.ids = torch.cat((self.ids, self.ids.new_tensor([chosen])))
        return chosen


def stream_text(token_ids, decode):
    ids, position = [], 0
    for token_id in token_ids:
        ids += [token_id]
        text = decode(ids)
        if text[-1:] == "\ufffd" or len(text) == position:  # holds back the whole tail, as tokenizers' own stream does
            continue
        yield text[position:]
        position = len(text)
    yield from filter(None, [codecs.encode(decode(ids)[position:], "utf-8").decode().split("\ufffd")[0]])


def forward_flops(config, n):
    shapes = [(config.dim, config.n_heads * config.head_dim), (config.n_heads * config.head_dim, config.dim)]
    shapes += 2 * [(config.dim, config.n_kv_heads * config.head_dim)]
    shapes += 3 * [(config.ffn_dim, config.dim)]
    total = 0
    for _ in range(config.n_layers):
        for rows, columns in shapes:
            total += 2 * n * rows * columns
        for _ in range(config.n_heads):
            total += 2 * n * config.head_dim * n + 2 * n * n * config.head_dim
    return total + 2 * 1 * config.dim * config.vocab_size


def generation_flops(config, prompt_length, new_tokens):
    # A call is a + b n + c n^2; three of them give the coefficients, and the sums over n are known.
    f1, f2, f3 = (forward_flops(config, n) for n in (1, 2, 3))
    c = Fraction(f3 - 2 * f2 + f1, 2)
    b = f2 - f1 - 3 * c
    a = f1 - b - c

    def up_to(n):  # sum of the calls on 1 to n tokens
        return a * n + b * n * (n + 1) / 2 + c * n * (n + 1) * (2 * n + 1) / 6

    return int(up_to(prompt_length + new_tokens - 1) - up_to(prompt_length - 1))


def predict_seconds(config, prompt_length, new_tokens, flops_per_second, seconds_per_call):
    seconds = 0.0
    for n in reversed(range(prompt_length, prompt_length + new_tokens)):
        computing = generation_flops(config, n, 1) / flops_per_second
        seconds += computing if computing > seconds_per_call else seconds_per_call
    return seconds
