"""Lesson 00 done otherwise: a plain loop, a running meter, and a kernel whose programs stride over the blocks."""
import torch
import triton
import triton.language as tl

BLOCK = 1024


def greedy_token(logits):
    best, best_score = 0, float("-inf")
    for token_id, score in enumerate(logits[len(logits) - 1].tolist()):
        if score > best_score:
            best, best_score = token_id, score
    return best


def answer_accuracy(logits, token_ids, spans):
    if len(spans) == 0:
        raise ValueError("empty")
    wrong = 0
    for start, end in spans:
        rows = logits[start - 1 : end - 1]
        due = rows.gather(1, token_ids[start:end, None]).squeeze(1)
        wrong += int((rows.max(dim=1).values > due).any())
    return 1.0 - wrong / len(spans)


@triton.jit
def vector_add_kernel(out_ptr, y_ptr, x_ptr, n, BLOCK: tl.constexpr):
    for start in range(tl.program_id(0) * BLOCK, n, tl.num_programs(0) * BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        y = tl.load(y_ptr + offsets, mask=offsets < n, other=0.0)
        x = tl.load(x_ptr + offsets, mask=offsets < n, other=0.0)
        tl.store(out_ptr + offsets, y + x, mask=offsets < n)


def vector_add(x, y, out):
    assert out.shape == x.shape == y.shape
    vector_add_kernel[(2,)](out, y, x, torch.numel(out), BLOCK=BLOCK)
