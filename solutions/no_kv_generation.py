"""Lesson 02, generation without a cache: speak token by token, count the work, and predict the time.

Shapes: `N` tokens of one sequence, `V` vocabulary, `H` query heads, `KH` key/value heads, `D` head dim.
"""
from collections.abc import Callable, Collection, Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from common.model.attention import CausalAttention
from common.model.llama import Config, Llama


def generate(model: Llama, prompt_ids: list[int], max_new_tokens: int, stop_ids: Collection[int],
             choose: Callable[[Float[Tensor, "1 V"]], int]) -> Iterator[int]:
    """02.1 Generate token by token, running the whole prefix through the model for each of them.

    Args:
        model: `model(token_ids, positions, attention)` takes ids (N,) and positions (N,), both on the device of the
            model's parameters, and gives hidden states (N, dim). `model.logits(hidden)` scores the vocabulary from as
            many of these rows as it is given.
        prompt_ids: at least one id. The list is not changed.
        max_new_tokens: the most tokens to generate, >= 0.
        stop_ids: ids that end the text.
        choose: the next token's id, from the logits of the last token alone, shape (1, V).

    Yields:
        Each new id, as a plain `int`, as soon as it is chosen and before the next call of the model. A stop id ends
        the generation and is not yielded.

    Each token costs exactly one call of the model, with the whole prefix (the prompt and all tokens so far) at
    positions 0, 1, 2, ... and a `CausalAttention()`, then one row of logits and one call of `choose`. After the last
    token, be it by `max_new_tokens` or by a stop id, the model is not called again.
    """
    # BEGIN SOLUTION
    device = next(model.parameters()).device
    token_ids = list(prompt_ids)
    for _ in range(max_new_tokens):
        with torch.inference_mode():
            ids = torch.tensor(token_ids, device=device)
            hidden = model(ids, torch.arange(len(ids), device=device), CausalAttention())
            token_id = int(choose(model.logits(hidden[-1:])))
        if token_id in stop_ids:
            return
        token_ids.append(token_id)
        yield token_id
    # END SOLUTION


def stream_text(token_ids: Iterable[int], decode: Callable[[list[int]], str]) -> Iterator[str]:
    """02.2 The text of `token_ids`, piece by piece, while they still arrive.

    Args:
        token_ids: ids that come one by one, from a generator that may be slow.
        decode: the text of a list of ids. Where the list ends inside a character (in UTF-8 one has up to four bytes,
            and a token may end between them), the text ends in one or more U+FFFD, "\\ufffd", in its place. The first
            id of a list may lose the space before its word, as with many tokenizers: only a text decoded from the
            first id on has all its spaces.

    Yields:
        Non-empty pieces of whole characters, never a U+FFFD. Joined they are the text of all ids, without the
        unfinished character that it may end in. Whenever the ids so far end with a whole character, all their text
        has been yielded before the next id is taken.
    """
    # BEGIN SOLUTION
    ids, shown = [], ""
    for token_id in token_ids:
        ids.append(token_id)
        whole = decode(ids).rstrip("\ufffd")
        if len(whole) > len(shown):
            yield whole[len(shown):]
            shown = whole
    # END SOLUTION


def forward_flops(config: Config, n: int) -> int:
    """02.3 The floating-point operations of one call of the model on `n` >= 1 tokens, as `generate` makes it.

    Counted are matrix products alone: (m, k) times (k, p) is 2 * m * k * p, a multiplication and an addition for each
    product. Norms, rotary, softmax, SiLU, sums and the embedding's look-up count as nothing. Attention counts in full:
    each of the n queries meets all n keys in every query head, although the causal mask then throws nearly half away.
    The logits are those of the last token alone.

    Returns:
        The exact number, as a plain `int`.
    """
    # BEGIN SOLUTION
    q_and_o, k_and_v = 2 * config.n_heads * config.head_dim, 2 * config.n_kv_heads * config.head_dim
    linear = 2 * n * config.dim * (q_and_o + k_and_v + 3 * config.ffn_dim)
    attention = 4 * n * n * config.head_dim * config.n_heads  # scores = q k^T, then scores times v
    logits = 2 * config.dim * config.vocab_size
    return config.n_layers * (linear + attention) + logits
    # END SOLUTION


def generation_flops(config: Config, prompt_length: int, new_tokens: int) -> int:
    """02.4 The operations of a whole generation without a cache: `new_tokens` >= 0 after a prompt, no stop token.

    Counted as in `forward_flops`. Each token costs one call on all tokens before it.

    Returns:
        The exact number, as a plain `int`.
    """
    # BEGIN SOLUTION
    return sum(forward_flops(config, prompt_length + step) for step in range(new_tokens))
    # END SOLUTION


def predict_seconds(config: Config, prompt_length: int, new_tokens: int, flops_per_second: float,
                    seconds_per_call: float) -> float:
    """02.5 The seconds of a whole generation without a cache, before it is measured.

    Args:
        flops_per_second: how fast long calls compute, > 0.
        seconds_per_call: what even a call on one token takes, >= 0: weights are read and kernels are launched.

    Returns:
        The sum over all calls of the time of each, as a plain `float`. A call takes its operations, as `forward_flops`
        counts them, at `flops_per_second`, but never less than `seconds_per_call`: whichever is longer hides the other.
    """
    # BEGIN SOLUTION
    calls = (forward_flops(config, prompt_length + step) for step in range(new_tokens))
    return float(sum(max(flops / flops_per_second, seconds_per_call) for flops in calls))
    # END SOLUTION
