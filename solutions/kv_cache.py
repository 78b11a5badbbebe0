"""Lesson 03, the KV cache: every token goes through the model once, and what that costs in memory and in time.

Shapes: `N` new tokens of one sequence; `T` tokens that the cache holds, the new ones among them; `H` query heads; `KH`
key/value heads, H a multiple of KH; `D` head dim; `V` vocabulary.
"""
from collections.abc import Callable, Collection, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from common.model.attention import KVHeads, QueryHeads
from common.model.costs import forward_flops, weight_bytes
from common.model.llama import Config, Llama


class KVCache:
    """03.1 The keys and values of one sequence in all layers, in memory that is reserved once.

    `keys` and `values` have the shape (n_layers, capacity, KH, D). Token t of layer l lies in keys[l, t], values[l, t].
    They are made by the constructor and stay the same tensors for good: a longer text costs no new memory and moves
    nothing, so `torch.cat` has no place here.
    """

    keys: Float[Tensor, "n_layers capacity KH D"]
    values: Float[Tensor, "n_layers capacity KH D"]

    def __init__(self, config: Config, capacity: int, dtype: torch.dtype, device: torch.device | str):
        """Reserve room for `capacity` >= 0 tokens in each layer, in `dtype` on `device`. What it holds then is open."""
        # BEGIN SOLUTION
        shape = (config.n_layers, capacity, config.n_kv_heads, config.head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.held = [0] * config.n_layers  # tokens in each layer: within a call of the model they differ
        # END SOLUTION

    @property
    def length(self) -> int:
        """The number of tokens that every layer holds: 0 at first. In a layer that is ahead the rest do not count."""
        # BEGIN SOLUTION
        return min(self.held)
        # END SOLUTION

    def append(
        self, layer: int, k: KVHeads, v: KVHeads
    ) -> tuple[Float[Tensor, "T KH D"], Float[Tensor, "T KH D"]]:
        """Write N >= 1 tokens of one layer right after those that *this* layer holds; the others may hold more or less.

        k and v have the cache's dtype and device, and need not be contiguous.

        Returns:
            All keys and all values of this layer so far, in order, as views of `self.keys` and `self.values`: nothing
            is copied.

        Raises:
            ValueError: if fewer than N places are left in this layer. Nothing is written then, and the cache goes on
                as if it had not been asked. The message has three numbers in it: how many tokens the layer holds, how
                many were to be added, and the capacity.
        """
        # BEGIN SOLUTION
        start, end, capacity = self.held[layer], self.held[layer] + len(k), self.keys.shape[1]
        if end > capacity:
            raise ValueError(f"this cache holds {start} tokens of a capacity of {capacity}: no room for {len(k)} more")
        self.keys[layer, start:end] = k
        self.values[layer, start:end] = v
        self.held[layer] = end
        return self.keys[layer, :end], self.values[layer, :end]
        # END SOLUTION


class CachedAttention:
    """03.2 The attention backend of one sequence on a cache: the N new tokens look at all T, themselves among them.

    Called once per layer in every call of the model, it takes over the new keys and values with exactly one
    `cache.append(layer, k, v)`, which gives those of all T tokens. Nothing else of the cache is used here.

    The new tokens are the last of the T. Number i of them (from 0) sees tokens 0 to T - N + i: itself and all before
    it, none after it. That is the causal mask, aligned at its bottom right corner. T = N is a cold cache, N = 1 a step
    of decoding, and any N on any cache is a chunk. Query head h reads key/value head h // (H // KH); scores are scaled
    by 1 / sqrt(D).
    """

    def __init__(self, cache: KVCache):
        # BEGIN SOLUTION
        self.cache = cache
        # END SOLUTION

    def __call__(self, layer: int, q: QueryHeads, k: KVHeads, v: KVHeads) -> QueryHeads:
        """What the new tokens gather, in q's dtype. Neither q, k nor v need be contiguous, and none is changed."""
        # BEGIN SOLUTION
        keys, values = (x.transpose(0, 1)[None] for x in self.cache.append(layer, k, v))  # (1, KH, T, D)
        n, total = len(q), keys.shape[2]
        if n == 1:
            # No mask: a single token sees everything. The heads of a group become rows that share their keys.
            rows = q.unflatten(1, (keys.shape[1], -1))  # (1, KH, H / KH, D)
            return F.scaled_dot_product_attention(rows, keys, values).flatten(1, 2)
        q = q.transpose(0, 1)[None]  # (1, H, N, D)
        grouped = q.shape[1] != keys.shape[1]
        if n == total:
            out = F.scaled_dot_product_attention(q, keys, values, is_causal=True, enable_gqa=grouped)
        else:  # is_causal would align the mask at the top left
            mask = torch.ones(n, total, dtype=torch.bool, device=q.device).tril(diagonal=total - n)
            out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=grouped)
        return out[0].transpose(0, 1)
        # END SOLUTION


def generate(model: Llama, prompt_ids: list[int], max_new_tokens: int, stop_ids: Collection[int],
             choose: Callable[[Float[Tensor, "1 V"]], int]) -> Iterator[int]:
    """03.3 Generate with a cache: every token goes through the model at most once.

    The first call of the model gets the whole prompt, every further call the one token that was chosen last, all of
    them at their positions 0, 1, 2, ... in the text. The token chosen last of all is never sent, be it a stop id or the
    last of `max_new_tokens`: nobody asks what follows it.

    Each generation makes one `KVCache` of its own, of the dtype and on the device of the model's parameters, with room
    for exactly the tokens that can be sent: len(prompt_ids) + max_new_tokens - 1. For max_new_tokens = 0 the model is
    not called, and whether there is a cache at all is open.

    Args:
        model: `model(token_ids, positions, attention)` takes ids (N,) and positions (N,), both on the device of the
            model's parameters, and gives hidden states (N, dim). `model.logits(hidden)` scores the vocabulary from as
            many of these rows as it is given: here always one. `model.config` is its Config.
        prompt_ids: at least one id. The list is not changed.
        max_new_tokens: the most tokens to generate, >= 0.
        stop_ids: ids that end the text.
        choose: the next token's id, from the logits of the last token alone, shape (1, V). Asked once per token.

    Yields:
        Each new id, as a plain `int`, as soon as it is chosen and before the next call of the model. A stop id ends
        the generation and is not yielded.
    """
    # BEGIN SOLUTION
    weight = next(model.parameters())
    cache = KVCache(model.config, len(prompt_ids) + max_new_tokens - 1, weight.dtype, weight.device)
    attention = CachedAttention(cache)
    unsent = prompt_ids
    for _ in range(max_new_tokens):
        with torch.inference_mode():
            positions = torch.arange(cache.length, cache.length + len(unsent), device=weight.device)
            hidden = model(torch.tensor(unsent, device=weight.device), positions, attention)
            token_id = int(choose(model.logits(hidden[-1:])))
        if token_id in stop_ids:
            return
        yield token_id
        unsent = [token_id]
    # END SOLUTION


def cache_bytes(config: Config, tokens: int, bytes_per_element: int) -> int:
    """03.4 The bytes that the keys and values of `tokens` >= 0 tokens take, in all layers.

    Args:
        bytes_per_element: 4 for float32, 2 for bfloat16.

    Returns:
        The exact number, as a plain `int`.
    """
    # BEGIN SOLUTION
    return 2 * config.n_layers * tokens * config.n_kv_heads * config.head_dim * bytes_per_element
    # END SOLUTION


def call_cost(config: Config, new: int, held: int, bytes_per_element: int) -> tuple[int, int]:
    """03.5 What one call of the model costs: `new` >= 1 tokens, after `held` >= 0 that lie in the cache.

    Operations are counted as in lesson 02: a product of matrices (m, k) and (k, p) is 2 * m * k * p, nothing else
    counts, attention counts without regard to the mask (each new token meets all held + new keys, in every query head),
    and the logits are those of one row. `common.model.costs.forward_flops(config, n)` gives them for n tokens on an
    empty cache, and may be used.

    Bytes are those that must move between memory and processor at least once: each weight matrix, and the cache's keys
    and values of all held + new tokens, read or written. `common.model.costs.weight_bytes(config,
    bytes_per_element)` gives the first part, and may be used. Activations are small, and are left out.

    Returns:
        (operations, bytes), both exact, as plain `int`s.
    """
    # BEGIN SOLUTION
    attention = 4 * new * held * config.head_dim * config.n_heads  # q k^T and scores times v, on what was there before
    flops = forward_flops(config, new) + config.n_layers * attention
    return flops, weight_bytes(config, bytes_per_element) + cache_bytes(config, held + new, bytes_per_element)
    # END SOLUTION


def predict_seconds(config: Config, prompt_length: int, new_tokens: int, flops_per_second: float,
                    bytes_per_second: float, seconds_per_call: float, bytes_per_element: int) -> tuple[float, float]:
    """03.6 The seconds of a generation with a cache and no stop token, before it is measured: prefill and decode.

    Args:
        prompt_length: tokens of the prompt, >= 1.
        new_tokens: tokens to generate, >= 0.
        flops_per_second, bytes_per_second: how fast this machine computes and moves memory, > 0.
        seconds_per_call: what no call stays below, >= 0: hundreds of kernels are launched one after the other.
        bytes_per_element: of weights and of the cache.

    Returns:
        The seconds of the first call, which the reader of the first token waits for, and the sum of the seconds of all
        others, as plain `float`s. A call takes the longest of three: its operations at `flops_per_second`, its bytes at
        `bytes_per_second`, both as `call_cost` counts them, and `seconds_per_call`. Without a new token there is no
        call: (0.0, 0.0).
    """
    # BEGIN SOLUTION
    def seconds(new: int, held: int) -> float:
        flops, moved = call_cost(config, new, held, bytes_per_element)
        return max(flops / flops_per_second, moved / bytes_per_second, seconds_per_call)

    if new_tokens == 0:
        return 0.0, 0.0
    prefill = seconds(prompt_length, 0)
    decode = sum(seconds(1, prompt_length + step) for step in range(new_tokens - 1))
    return float(prefill), float(decode)
    # END SOLUTION
