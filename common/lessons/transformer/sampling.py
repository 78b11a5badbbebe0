"""01.8: sampling."""
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from common.checking.compare import expect_equal
from common.checking.draw import integer, randn
from common.checking.exercise import Check, Exercise, Mismatch, Rng, Values

VOCAB = 8
SAMPLES = 2000
# For n samples of K tokens, P(sum |frequency - probability| >= e) <= (2 ** K - 2) * exp(-n * e * e / 2), whatever the
# probabilities (Weissman et al. 2003, "Inequalities for the L1 Deviation of the Empirical Distribution"). The bound
# below (0.155) is wrong once in 1e8 checks. The mistakes that these checks are after lie more than twice as far off.
FALSE_ALARM = 1e-8
FARTHEST = math.sqrt(2 * math.log((2**VOCAB - 2) / FALSE_ALARM) / SAMPLES)


@dataclass(frozen=True, kw_only=True)
class SampleCheck(Check):
    """Many tokens from one row of logits, one after another from one generator."""

    logits: Callable[[Rng], Tensor]
    settings: Callable[[Rng, Tensor], Values] = lambda rng, probs: {}  # probs: the largest first
    samples: int = 40
    judged: Callable[[Values, Values], None]

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        logits = self.logits(rng).to(dtype)
        inputs = {"logits": logits, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": integer(rng, 0, 2**31)}
        return inputs | self.settings(rng, logits.double().softmax(dim=-1).sort(descending=True).values)

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        generator = torch.Generator(inputs["logits"].device).manual_seed(inputs["seed"])
        settings = inputs["temperature"], inputs["top_k"], inputs["top_p"], generator
        tokens = [lab.sample(inputs["logits"], *settings) for _ in range(self.samples)]
        return {"tokens": tokens, "logits": inputs["logits"]}

    def judge(self, inputs: Values, outputs: Values) -> None:
        self.judged(inputs, outputs)


class RepeatCheck(SampleCheck):
    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        first, again = (super(RepeatCheck, self).drive(lab, inputs)["tokens"] for _ in range(2))
        return {"first": first, "again": again}


def expect_best(inputs: Values, outputs: Values) -> None:
    logits = inputs["logits"].tolist()
    for token in outputs["tokens"]:
        expect_equal("token id", token, logits.index(max(logits)))


def expect_repeated(inputs: Values, outputs: Values) -> None:
    expect_equal("forty tokens from the same state of the generator", outputs["again"], outputs["first"])


def expect_logits_unchanged(inputs: Values, outputs: Values) -> None:
    expect_equal("logits after the call", outputs["logits"], inputs["logits"])


def expect_frequencies(inputs: Values, outputs: Values) -> None:
    probs = filtered(inputs)
    counts = Counter(outputs["tokens"])
    if strange := [token for token in counts if type(token) is not int or not 0 <= token < VOCAB]:
        raise Mismatch(f"got {type(strange[0]).__name__} {strange[0]!r}, want an int from 0 to {VOCAB - 1}")
    wanted = ", ".join(f"{p:.2f}" for p in probs)
    for token, p in enumerate(probs):
        if counts[token] and p == 0:
            raise Mismatch(f"token {token} came {counts[token]} times in {SAMPLES}, and should never: "
                           f"probabilities {wanted}")
        if not counts[token] and p > 0.05:  # by chance once in 1e44 checks
            raise Mismatch(f"token {token} never came in {SAMPLES}: probabilities {wanted}")
    frequencies = [counts[token] / SAMPLES for token in range(VOCAB)]
    if sum(abs(frequency - p) for frequency, p in zip(frequencies, probs, strict=True)) >= FARTHEST:
        raise Mismatch(f"frequencies {', '.join(f'{frequency:.2f}' for frequency in frequencies)} "
                       f"of {SAMPLES} samples, probabilities {wanted}: further apart than chance allows")


def filtered(inputs: Values) -> list[float]:
    """The probability of every token, by sorting and adding up in plain Python."""
    weight = [math.exp(logit / inputs["temperature"]) for logit in inputs["logits"].tolist()]
    kept = sorted(range(VOCAB), key=lambda token: -weight[token])[:inputs["top_k"] or VOCAB]
    left = sum(weight[token] for token in kept)
    nucleus, mass = [], 0.0
    for token in kept:
        if mass < inputs["top_p"]:
            nucleus.append(token)
            mass += weight[token] / left
    total = sum(weight[token] for token in nucleus)
    return [weight[token] / total if token in nucleus else 0.0 for token in range(VOCAB)]


def two_best(rng: Rng) -> Tensor:
    logits = randn(rng, VOCAB)
    logits[torch.from_numpy(rng.permutation(VOCAB)[:2])] = logits.max() + 1  # two equals: the lower id counts
    return logits


def steps_up_to(spread: float, rng: Rng) -> Tensor:
    """Logits that are `spread` apart from the least to the most likely token.

    In random order, except that the last id is the most likely: so neither a rank nor the first ids pass for the best.
    """
    order = torch.from_numpy(np.append(rng.permutation(VOCAB - 1), VOCAB - 1))
    return torch.linspace(0, spread, VOCAB)[order] + integer(rng, -3, 3)


FrequencyCheck = partial(SampleCheck, logits=partial(steps_up_to, 1.0), samples=SAMPLES, judged=expect_frequencies)


def nucleus(rng: Rng, probs: Tensor) -> Values:
    kept = integer(rng, 2, 5)
    return {"top_p": float(probs[:kept].sum() - probs[kept - 1] / 2)}  # crossed halfway by the last token kept


def nucleus_of_the_first(rng: Rng, probs: Tensor) -> Values:
    top_k = integer(rng, 3, 5)
    scaled = probs[:top_k] / probs[:top_k].sum()
    kept = integer(rng, 1, top_k - 1)
    return {"top_k": top_k, "top_p": float(scaled[:kept].sum() - scaled[kept - 1] / 10)}


EXERCISE = Exercise("01.8", "Sampling", "sample", minutes=15, difficulty=3, checks=(
    SampleCheck("takes the most likely token at temperature 0", 1, judged=expect_best, logits=two_best,
        settings=lambda rng, probs: {"temperature": 0.0},
        advice="Temperature 0 means greedy: return int(logits.argmax()) before anything is divided by it."),
    SampleCheck("becomes greedy as the temperature falls", 1, judged=expect_best,
                # Steps of 0.2: another token comes once in e ** 200.
                logits=lambda rng: torch.from_numpy(rng.permutation(50)) / 5 + 1,
                settings=lambda rng, probs: {"temperature": 0.001},
                advice="At 0.001 logits become a thousand times as large: softmax subtracts their maximum, a bare exp "
                       "does not."),
    FrequencyCheck("draws every token as often as its probability says", 2, logits=partial(steps_up_to, 3.0),
        advice="torch.multinomial(probs, 1, generator=generator) draws an index by its probability; turn it into an "
               "id."),
    FrequencyCheck("divides the logits by the temperature before the softmax", 2, logits=partial(steps_up_to, 4.0),
        settings=lambda rng, probs: {"temperature": float(rng.choice([0.3, 0.4, 3.0, 4.0]))},
        advice="softmax(logits / temperature): low temperatures sharpen, high ones flatten."),
    FrequencyCheck("keeps exactly the top_k most likely tokens", 1,
        settings=lambda rng, probs: {"top_k": integer(rng, 2, 5)},
        advice="Sort by probability, keep the first top_k, and remember which ids they were; 0 keeps all."),
    FrequencyCheck("keeps the smallest set that reaches top_p", 2, settings=nucleus,
        advice="Keep a token if those that are likelier sum to less than top_p: the one that crosses it is still in."),
    FrequencyCheck("applies top_p to what top_k has left, scaled to sum 1", 1, settings=nucleus_of_the_first,
        advice="After top_k scale what is left to sum 1; only then add up to top_p."),
    RepeatCheck("draws from the generator that it is given and from nothing else", 1, judged=expect_repeated,
        logits=lambda rng: randn(rng, 100),
        advice="Pass the generator on, as in torch.multinomial(probs, 1, generator=generator)."),
    SampleCheck("leaves the logits that it was given unchanged", 1, judged=expect_logits_unchanged, samples=1,
        logits=lambda rng: randn(rng, 100), settings=lambda rng, probs: {"temperature": 0.7, "top_k": 20, "top_p": 0.9},
        advice="logits /= t writes into the tensor that the caller still holds: make a new one, logits / t."),
))
