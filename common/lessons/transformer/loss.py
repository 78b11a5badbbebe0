"""01.7: the loss."""
from functools import partial

import numpy as np
import torch
from torch import Tensor

from common.checking.compare import expect_near
from common.checking.draw import integer, randn
from common.checking.exercise import BF16, F16, F32, Exercise, Rng, Values
from common.lessons.transformer.shared import FormulaCheck


def next_token_loss(logits: Tensor, token_ids: Tensor) -> Tensor:
    log_probs = logits.log_softmax(dim=-1)
    gained = [log_probs[row, token_id] for row, token_id in enumerate(token_ids.tolist()[1:])]
    return -torch.stack(gained).mean()


LossCheck = partial(
    FormulaCheck, symbol="next_token_loss", formula=next_token_loss,
    # Largest error 7.0e-7, of the loss or of 1, whichever is more.
    judged=lambda inputs, outputs, want: expect_near("loss", outputs["out"], want, F32, atol=7e-6, rtol=7e-6))


def draw_text(rng: Rng, n: int, vocab_size: int) -> Tensor:
    """Every token differs from the one before it, so that a shift always shows."""
    return torch.from_numpy(np.cumsum(rng.integers(1, vocab_size, n)) % vocab_size)


def good_model(rng: Rng) -> Values:
    n, vocab_size = integer(rng, 2, 50), integer(rng, 11, 300)
    token_ids = draw_text(rng, n, vocab_size)
    logits = randn(rng, n, vocab_size)
    logits[torch.arange(n - 1), token_ids[1:]] += 8  # any other token costs much
    return {"logits": logits, "token_ids": token_ids}


def equal_logits(rng: Rng) -> Values:
    n, vocab_size = integer(rng, 3, 50), integer(rng, 11, 300)
    return {"logits": torch.ones(n, vocab_size), "token_ids": draw_text(rng, n, vocab_size)}


def large_logits(rng: Rng) -> Values:
    n, vocab_size = integer(rng, 3, 50), integer(rng, 11, 300)
    token_ids = draw_text(rng, n, vocab_size)
    logits = 300 * randn(rng, n, vocab_size)
    logits[0, token_ids[1]], logits[0, token_ids[0]] = -1000, 1000  # sure of itself, and wrong
    return {"logits": logits, "token_ids": token_ids}


EXERCISE = Exercise("01.7", "The loss", "next_token_loss", minutes=10, difficulty=2, refused=(
    "torch.nn.functional.cross_entropy", "torch.nn.CrossEntropyLoss", "torch.nn.functional.nll_loss",
    "torch.nn.NLLLoss"), checks=(
    LossCheck("is log(V) where the model knows nothing", 1,
        arguments=lambda rng: {"logits": torch.zeros(2, 8), "token_ids": draw_text(rng, 2, 8)},
        advice="Equal logits give each of V tokens the probability 1/V, and -log(1/V) = log(V), the natural "
               "logarithm."),
    LossCheck("compares row i with token i + 1", 2, draws=3, arguments=good_model,
        advice="Row i was computed from token i and guesses the next: logits[:-1] belongs to token_ids[1:]."),
    LossCheck("averages over the N - 1 predictions", 1, draws=3, arguments=equal_logits,
        advice="N tokens hold N - 1 predictions: mean(), over them and nothing else."),
    LossCheck("stays finite for logits of 1000", 2, arguments=large_logits,
        advice="log(softmax(x)) is x - logsumexp(x): never take the logarithm of a probability that may have become "
               "0."),
    LossCheck("computes in float32 from float16 logits", 1, draws=3, arguments=good_model, cpu=(F16,), cuda=(F16, BF16),
        advice="logits.float() first; the result is a float32 tensor without dimensions."),
))
