"""00.2: the share of answers that a model gives whole and right."""
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from common.checking.compare import expect_close, expect_equal
from common.checking.draw import integer, randn
from common.checking.exercise import Check, Exercise, Mismatch, Rng, Values

Spans = list[list[int]]


def draw_text(rng: Rng, n: int, vocab_size: int) -> Tensor:
    return torch.from_numpy(rng.integers(0, vocab_size, n))


def draw_spans(rng: Rng, n: int, longest: int) -> Spans:
    """Disjoint answers in a text of n tokens, the first at 1 at the earliest, the last ending at n."""
    spans, start = [], integer(rng, 1, 3)
    while start < n:
        end = min(n, start + integer(rng, 1, longest))
        spans.append([start, end])
        start = end + integer(rng, 1, 5)
    return spans if spans[-1][1] == n else [*spans, [n - 1, n]]


def logits_that_choose(rng: Rng, choices: Tensor, vocab_size: int) -> Tensor:
    """Random logits whose row i is largest at choices[i]."""
    logits = randn(rng, len(choices), vocab_size)
    return logits.scatter(1, choices[:, None], 10.0)


@dataclass(frozen=True, kw_only=True)
class AccuracyCheck(Check):
    """A text with answers, and a model that is right on all of it but the tokens at `wrong_places(rng, n, spans)`."""

    wrong_places: Callable[[Rng, int, Spans], list[int]]
    longest: int = 6  # tokens in an answer

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        vocab_size, n = integer(rng, 11, 299), integer(rng, 60, 119)
        token_ids, spans = draw_text(rng, n, vocab_size), draw_spans(rng, n, self.longest)
        choices = torch.cat((token_ids[1:], draw_text(rng, 1, vocab_size)))  # nobody knows what follows the last token
        for place in self.wrong_places(rng, n, spans):
            choices[place - 1] = (choices[place - 1] + 1) % vocab_size
        return {"logits": logits_that_choose(rng, choices, vocab_size), "token_ids": token_ids, "spans": spans}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        spans = [tuple(span) for span in inputs["spans"]]
        return {"accuracy": lab.answer_accuracy(inputs["logits"], inputs["token_ids"], spans)}

    def judge(self, inputs: Values, outputs: Values) -> None:
        logits, token_ids, spans = inputs["logits"], inputs["token_ids"], inputs["spans"]
        right = [all(int(logits[i - 1].argmax()) == int(token_ids[i]) for i in range(*span)) for span in spans]
        got = outputs["accuracy"]
        if not isinstance(got, float):
            expect_equal("accuracy", got, sum(right) / len(right))
        expect_close("accuracy", torch.tensor(got), torch.tensor(sum(right) / len(right)), atol=1e-6)


def nowhere(rng: Rng, n: int, spans: Spans) -> list[int]:
    return []


def half_of_the_starts(rng: Rng, n: int, spans: Spans) -> list[int]:
    return [start for start, _ in spans if rng.random() < 0.5]


def one_token_in_most(rng: Rng, n: int, spans: Spans) -> list[int]:
    return [integer(rng, span[0], span[1] - 1) for span in spans if rng.random() < 0.6]


def everywhere_else(rng: Rng, n: int, spans: Spans) -> list[int]:
    inside = {i for span in spans for i in range(*span)}
    return [i for i in range(1, n) if i not in inside]


class PerfectModelCheck(AccuracyCheck):
    """One token over and over, so that a row that is read one place off still looks right."""

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        token_ids = draw_text(rng, 1, 8).repeat(8)
        return {"logits": logits_that_choose(rng, token_ids, 8), "token_ids": token_ids, "spans": [[4, 5]]}


class NoAnswersCheck(Check):
    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        return {"logits": randn(rng, 5, 9), "token_ids": draw_text(rng, 5, 9)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        try:
            returned = lab.answer_accuracy(inputs["logits"], inputs["token_ids"], [])
        except (ValueError, ZeroDivisionError) as error:
            return {"raised": type(error).__name__, "returned": None}
        return {"raised": None, "returned": returned}

    def judge(self, inputs: Values, outputs: Values) -> None:
        if outputs["raised"] != "ValueError":
            did = f"raised {outputs['raised']}" if outputs["raised"] else f"returned {outputs['returned']}"
            raise Mismatch(f"an empty list of answers: {did}, want a ValueError")


EXERCISE = Exercise("00.2", "The answer meter", "answer_accuracy", minutes=10, difficulty=2,
                    refused=("common.model.evaluate.exact", "common.model.evaluate.answer_accuracy"), checks=(
    PerfectModelCheck("gives 1.0 where the model is always right", 1, wrong_places=nowhere,
        advice="A model that chooses every token right has accuracy 1.0: right answers over answers, as a plain "
               "float."),
    AccuracyCheck("marks token i by row i - 1", 2, draws=3, longest=1, wrong_places=half_of_the_starts,
        advice="Row i scores the token after token i, so the token at position i is judged by logits[i - 1]."),
    AccuracyCheck("counts an answer only if all its tokens are right", 2, draws=5, wrong_places=one_token_in_most,
        advice="One wrong token spoils its whole answer, however long: all() within an answer, the mean over answers."),
    AccuracyCheck("ignores tokens outside the answers", 1, draws=3, wrong_places=everywhere_else,
        advice="An answer is token_ids[start:end] with `end` excluded; no other token counts."),
    NoAnswersCheck("raises ValueError when there is no answer to mark", 1,
        advice="With an empty `spans` there is nothing to average: raise ValueError, as the docstring says."),
))
