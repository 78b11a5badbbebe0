"""04.2: prompts as a rectangle, padded on either side."""
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from common.checking.compare import expect_equal, expect_like
from common.checking.draw import integer
from common.checking.exercise import Check, Exercise, Mismatch, Values
from common.lessons.prefill.shared import Lengths, Rng, draw_ids

Prompts = list[list[int]]

SIDES = "right", "left"


@dataclass(frozen=True, kw_only=True)
class PadCheck(Check):
    """`pad` with padding on one side. `judged` looks at some of the three tensors."""

    judged: Callable[[Values, Values], None]
    lengths: Lengths = lambda rng: rng.permutation([1, 30, *rng.integers(1, 30, integer(rng, 0, 4))]).tolist()
    side: str = "right"
    pad_id: Callable[[Rng, Prompts], int] = lambda rng, prompts: 900 + integer(rng, 0, 98)  # an id of no prompt
    draws: int = 4

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        prompts = draw_ids(rng, self.lengths(rng))
        return {"prompts": prompts, "side": self.side, "pad_id": self.pad_id(rng, prompts)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return dict(zip(("token_ids", "positions", "mask"), lab.pad(**inputs), strict=True))

    def judge(self, inputs: Values, outputs: Values) -> None:
        self.judged(inputs, outputs)


class EitherSideCheck(PadCheck):
    """The same prompts padded on the right, where columns and positions agree, and on the left, where they do not."""

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {side: super(EitherSideCheck, self).drive(lab, inputs | {"side": side}) for side in SIDES}

    def judge(self, inputs: Values, outputs: Values) -> None:
        for side in SIDES:
            self.judged(inputs | {"side": side}, outputs[side])


def rectangle(inputs: Values, rows: list[list[int]], fill: int) -> Tensor:
    longest = max(map(len, rows))
    fills = [[fill] * (longest - len(row)) for row in rows]
    return torch.tensor([row + more if inputs["side"] == "right" else more + row
                         for row, more in zip(rows, fills, strict=True)])


def expect_ids(inputs: Values, outputs: Values) -> None:
    expect_equal("token_ids", outputs["token_ids"], rectangle(inputs, inputs["prompts"], inputs["pad_id"]))


def expect_a_stack_of_four(inputs: Values, outputs: Values) -> None:
    expect_ids(inputs, outputs)
    expect_equal("positions", outputs["positions"], torch.arange(4).repeat(4, 1))
    expect_equal("mask", outputs["mask"], torch.ones(4, 4, dtype=torch.bool))


def expect_positions(inputs: Values, outputs: Values) -> None:
    want = rectangle(inputs, [list(range(len(prompt))) for prompt in inputs["prompts"]], fill=-1)
    got, longest = outputs["positions"], want.shape[1]
    expect_like("positions", got, want)
    if not ((got >= 0) & (got < longest)).all():
        raise Mismatch(f"positions: {got.min()} to {got.max()}, and all should lie from 0 to {longest - 1}, those of "
                       f"padding too")
    expect_equal(f"positions of the prompts' tokens, padded on the {inputs['side']} (padding shown as -1)",
                 got.where(want >= 0, -1), want)


def expect_mask(inputs: Values, outputs: Values) -> None:
    want = rectangle(inputs, [[1] * len(prompt) for prompt in inputs["prompts"]], fill=0)
    expect_equal(f"mask, padded on the {inputs['side']}", outputs["mask"], want.bool())


EXERCISE = Exercise("04.2", "Pad on either side", "pad", minutes=10, difficulty=1,
                    refused=("torch.nn.utils.rnn.pad_sequence",), checks=(
    PadCheck("stacks prompts of equal length", 1, draws=1, lengths=lambda rng: [4] * 4, pad_id=lambda rng, prompts: 900,
        judged=expect_a_stack_of_four,
        advice="Three (B, T) tensors: ids int64, positions int64 from 0 in each row, and a bool mask, all True here."),
    PadCheck("fills up behind the prompts", 1, judged=expect_ids,
        advice="side='right': row i begins with prompt i, and pad_id follows up to the longest prompt's length."),
    PadCheck("fills up before the prompts", 1, side="left", judged=expect_ids,
        advice="side='left': row i ends with prompt i, and pad_id stands before it."),
    EitherSideCheck("numbers each prompt's tokens from 0, on either side", 2, judged=expect_positions,
        advice="Positions count a prompt's own tokens, 0 to its length - 1, wherever in its row they stand."),
    EitherSideCheck("masks the padding and nothing else", 2, judged=expect_mask,
        pad_id=lambda rng, prompts: int(rng.choice(max(prompts, key=len))),
        advice="A prompt may hold pad_id itself (a stop token, say): the mask follows from lengths, not from ids."),
))
