"""Lesson 00, start here: choose a token, mark answers, and launch a first Triton kernel.

Shapes: `N` tokens, `V` vocabulary, `n` elements of a vector.
"""
import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 1024  # elements that one program of the kernel handles: a power of two, as tl.arange asks


def greedy_token(logits: Float[Tensor, "N V"]) -> int:
    """00.1 The most likely token after the last of N tokens.

    Args:
        logits: one score per vocabulary entry for each of N >= 1 positions. Row i scores the token that follows
            token i, so only the last row speaks about the next token.

    Returns:
        Its id as a plain `int`, the lowest id where several logits are equally large: with 16-bit logits exact ties
        happen every few dozen tokens, and two engines agree only if both break them alike.
    """
    # BEGIN SOLUTION
    return int(torch.argmax(logits[-1]))
    # END SOLUTION


def answer_accuracy(logits: Float[Tensor, "N V"], token_ids: Int[Tensor, "N"], spans: list[tuple[int, int]]) -> float:
    """00.2 The fraction of answers that greedy generation would give word for word.

    A text holds several answers; `token_ids[start:end]` is one of them. Greedy generation, started just before an
    answer, gives exactly that answer if and only if each of its tokens is the most likely one after the tokens
    before it. So one run of the model over the whole text marks all answers at once ("teacher forcing").

    Args:
        logits: row i scores the token that follows token i.
        token_ids: the text.
        spans: (start, end) of each answer, 1 <= start < end <= N, `end` excluded.

    Returns:
        The number of wholly right answers over the number of answers, between 0.0 and 1.0, as a plain `float`.

    Raises:
        ValueError: if `spans` is empty, for no answers have no accuracy.
    """
    # BEGIN SOLUTION
    if not spans:
        raise ValueError("no answers to mark")
    right = logits[:-1].argmax(dim=-1) == token_ids[1:]  # right[i]: token i + 1 is the greedy choice after token i
    return sum(bool(right[start - 1 : end - 1].all()) for start, end in spans) / len(spans)
    # END SOLUTION


@triton.jit
def vector_add_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """00.3 Program p adds elements p * BLOCK up to (p + 1) * BLOCK of x and y, but none from n on."""
    # BEGIN SOLUTION
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < n
    x = tl.load(x_ptr + offsets, mask=inside)
    y = tl.load(y_ptr + offsets, mask=inside)
    tl.store(out_ptr + offsets, x + y, mask=inside)
    # END SOLUTION


def vector_add(x: Float[Tensor, "n"], y: Float[Tensor, "n"], out: Float[Tensor, "n"]) -> None:
    """00.3 Write x + y into `out` with one launch of `vector_add_kernel`.

    Args:
        x, y: contiguous vectors of n >= 1 elements, float32, float16 or (on a GPU) bfloat16. They are not changed.
        out: contiguous, of the same length and dtype. No memory outside its n elements may be written.

    The addition happens in the kernel: `vector_add` itself only computes the grid and launches, once.
    """
    # BEGIN SOLUTION
    n = out.numel()
    vector_add_kernel[(triton.cdiv(n, BLOCK),)](x, y, out, n, BLOCK=BLOCK)
    # END SOLUTION
