"""Lesson 00: checks of the greedy choice, the answer meter and the first Triton kernel."""
from types import ModuleType

import numpy as np
import torch

from common.checks.compare import expect_close, expect_equal
from common.checks.counters import Launches
from common.checks.draw import randn
from common.checks.exercise import Check, Exercise, Lesson, Mismatch, Values
from common.checks.guard import guarded_input, guarded_output, stray_writes

HALF_TOO = {"cpu": (torch.float32, torch.float16), "cuda": (torch.float32, torch.float16, torch.bfloat16)}


# 00.1 -----------------------------------------------------------------------------------------------------------------


class GreedyCheck(Check):
    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"token": lab.greedy_token(inputs["logits"])}

    def judge(self, inputs: Values, outputs: Values) -> None:
        last = inputs["logits"][-1].tolist()
        expect_equal("token id", outputs["token"], last.index(max(last)))


class PicksTheLargest(GreedyCheck):
    name = "picks the largest of eight logits"
    points = 1
    mistake = "returns something other than the index of the maximum"
    advice = "The answer is the position of the largest logit, as a plain int: torch.argmax finds it, int() unwraps it."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"logits": randn(rng, 1, 8).to(dtype)}


class ReadsTheLastRow(GreedyCheck):
    name = "reads only the last of many rows"
    points = 2
    draws = 5
    mistake = "takes the maximum over another row, or over all rows"
    advice = "Row i scores the token after token i: only logits[-1] speaks about the next token."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        logits = 40 * randn(rng, rng.integers(2, 40), rng.integers(20, 900))
        logits[-1] = torch.where(logits[-1] == logits[-1].min(), 2 * logits[-1], logits[-1])  # large, but negative
        return {"logits": logits.to(dtype)}


class BreaksTiesLow(GreedyCheck):
    name = "takes the lowest id among equal logits"
    points = 1
    draws = 5
    cpu, cuda = HALF_TOO["cpu"], HALF_TOO["cuda"]
    mistake = "takes the last of several equal maxima"
    advice = "Where several logits are equally large the lowest id wins, as torch.argmax does."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {"logits": torch.from_numpy(rng.integers(-3, 4, (rng.integers(1, 5), rng.integers(50, 200)))).to(dtype)}


# 00.2 -----------------------------------------------------------------------------------------------------------------


def logits_that_choose(rng: np.random.Generator, choices: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Random logits whose row i is largest at choices[i]."""
    logits = randn(rng, len(choices), vocab_size)
    return logits.scatter(1, choices[:, None], 10.0)


def draw_text(rng: np.random.Generator, n: int, vocab_size: int) -> torch.Tensor:
    return torch.from_numpy(rng.integers(0, vocab_size, n))


def draw_spans(rng: np.random.Generator, n: int, longest: int) -> list[list[int]]:
    """Disjoint answers in a text of n tokens, the first at 1 at the earliest, the last ending at n."""
    spans, start = [], int(rng.integers(1, 4))
    while start < n:
        end = min(n, start + int(rng.integers(1, longest + 1)))
        spans.append([start, end])
        start = end + int(rng.integers(1, 6))
    return spans if spans[-1][1] == n else [*spans, [n - 1, n]]


class AccuracyCheck(Check):
    """A text with answers, and a model that is right on all of it but the tokens at `wrong_places`."""

    longest = 6  # tokens in an answer

    def wrong_places(self, rng: np.random.Generator, n: int, spans: list[list[int]]) -> list[int]:
        raise NotImplementedError

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        vocab_size, n = int(rng.integers(11, 300)), int(rng.integers(60, 120))
        token_ids, spans = draw_text(rng, n, vocab_size), draw_spans(rng, n, self.longest)
        choices = torch.cat((token_ids[1:], draw_text(rng, 1, vocab_size)))  # what follows the last token, nobody knows
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


class MarksAPerfectModel(AccuracyCheck):
    name = "gives 1.0 where the model is always right"
    points = 1
    mistake = "divides by something other than the number of answers, or returns a tensor"
    advice = "A model that chooses every token right has accuracy 1.0: right answers over answers, as a plain float."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        # One token over and over, so that a row that is read one place off still looks right.
        token_ids = draw_text(rng, 1, 8).repeat(8)
        return {"logits": logits_that_choose(rng, token_ids, 8), "token_ids": token_ids, "spans": [[4, 5]]}


class LooksOneRowBack(AccuracyCheck):
    name = "marks token i by row i - 1"
    points = 2
    draws = 3
    longest = 1
    mistake = "compares the logits of a position with the token at that same position"
    advice = "Row i scores the token after token i, so the token at position i is judged by logits[i - 1]."

    def wrong_places(self, rng: np.random.Generator, n: int, spans: list[list[int]]) -> list[int]:
        return [start for start, _ in spans if rng.random() < 0.5]


class WantsWholeAnswers(AccuracyCheck):
    name = "counts an answer only if all its tokens are right"
    points = 2
    draws = 5
    mistake = "averages over tokens, or looks at the first or the last token of an answer only"
    advice = "One wrong token spoils its whole answer, however long: all() within an answer, the mean over answers."

    def wrong_places(self, rng: np.random.Generator, n: int, spans: list[list[int]]) -> list[int]:
        return [int(rng.integers(*span)) for span in spans if rng.random() < 0.6]


class IgnoresTheRest(AccuracyCheck):
    name = "ignores tokens outside the answers"
    points = 1
    draws = 3
    mistake = "includes the token at `end`, or the one before `start`"
    advice = "An answer is token_ids[start:end] with `end` excluded; no other token counts."

    def wrong_places(self, rng: np.random.Generator, n: int, spans: list[list[int]]) -> list[int]:
        inside = {i for span in spans for i in range(*span)}
        return [i for i in range(1, n) if i not in inside]


class RefusesNoAnswers(Check):
    name = "raises ValueError when there is no answer to mark"
    points = 1
    mistake = "divides by zero, or invents an accuracy"
    advice = "With an empty `spans` there is nothing to average: raise ValueError, as the docstring says."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
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


# 00.3 -----------------------------------------------------------------------------------------------------------------


class AddCheck(Check):
    cpu, cuda = HALF_TOO["cpu"], HALF_TOO["cuda"]

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        x, y, out = guarded_input(inputs["x"]), guarded_input(inputs["y"]), guarded_output(inputs["x"])
        with Launches(lab, "vector_add_kernel") as launches:
            lab.vector_add(x, y, out)
        return {"out": out, "x": x, "y": y, "launches": launches.count, "stray": stray_writes(out)}


class AddsFullBlocks(AddCheck):
    name = "adds two full blocks"
    points = 1
    mistake = "the wrong elements, or no addition at all"
    advice = "Program p loads x and y at p * BLOCK + tl.arange(0, BLOCK), adds, and stores at the same places of out."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return {name: randn(rng, 2048).to(dtype) for name in ("x", "y")}

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_sum(inputs, outputs)


def expect_sum(inputs: Values, outputs: Values) -> None:
    # Adding two numbers is one correctly rounded operation, so the result is exact in every dtype.
    expect_equal("out", outputs["out"], (inputs["x"].double() + inputs["y"].double()).to(inputs["x"].dtype))


class AddsARaggedTail(AddsFullBlocks):
    name = "adds a length that is no multiple of the block"
    points = 2
    draws = 4
    mistake = "drops the elements after the last full block, or handles only the first block"
    advice = "Elements are missing at the end: the grid needs ceil(n / BLOCK) programs, which is triton.cdiv(n, BLOCK)."

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        n = int(rng.choice([1, 1025, 2047, 2049, rng.integers(1026, 2047)]))
        return {name: randn(rng, n).to(dtype) for name in ("x", "y")}


class StaysInside(AddsARaggedTail):
    name = "writes nothing outside `out` and leaves x and y alone"
    points = 2
    mistake = "a store without a mask, which silently overwrites what lies behind `out`"
    advice = "Memory behind `out` was overwritten, or an input was changed: give tl.store mask=offsets < n."

    def judge(self, inputs: Values, outputs: Values) -> None:
        if outputs["stray"]:
            raise Mismatch(f"{outputs['stray']} elements outside the {len(inputs['x'])} of `out` were overwritten")
        expect_equal("x after the call", outputs["x"], inputs["x"])
        expect_equal("y after the call", outputs["y"], inputs["y"])


class LaunchesOnce(AddsARaggedTail):
    name = "adds inside the kernel, with one launch"
    points = 1
    mistake = "adds with torch, or launches once per block"
    advice = "vector_add launches vector_add_kernel once, over a grid of programs, and adds nothing itself."

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_equal("launches of vector_add_kernel", outputs["launches"], 1)


LESSON = Lesson("00", "start_here", "Start here", minutes=30, exercises=(
    Exercise("00.1", "The greedy choice of the next token", "greedy_token", minutes=5, difficulty=1,
             checks=(PicksTheLargest(), ReadsTheLastRow(), BreaksTiesLow()),
             refused=("common.model.generate.greedy",)),
    Exercise("00.2", "The answer meter", "answer_accuracy", minutes=10, difficulty=2,
             checks=(MarksAPerfectModel(), LooksOneRowBack(), WantsWholeAnswers(), IgnoresTheRest(),
                     RefusesNoAnswers()),
             refused=("common.model.evaluate.exact", "common.model.evaluate.answer_accuracy")),
    Exercise("00.3", "A first Triton kernel", "vector_add", minutes=10, difficulty=2,
             checks=(AddsFullBlocks(), AddsARaggedTail(), StaysInside(), LaunchesOnce())),
))
