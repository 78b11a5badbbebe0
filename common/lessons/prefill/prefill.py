"""04.4: prefill of a padded rectangle."""
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from common import STORY_LLAMA
from common.checking.compare import expect_close, expect_equal, expect_like
from common.checking.exercise import Check, Exercise, Values
from common.checking.watch import watched
from common.device import DEVICE
from common.lessons.prefill.shared import Lengths, Rng, draw_prompts, ragged
from common.model.attention import CausalAttention
from common.model.checkpoint import load_model
from common.model.llama import Llama
from common.oracles.generation import CPU, story_model

LOGITS_ATOL = 3e-4  # largest error 2.5e-5, with logits up to about 20


@cache
def exact_model() -> Llama:
    """The story model in float64."""
    return load_model(STORY_LLAMA, torch.float64, CPU)


def logits_alone(prompt_ids: list[int]) -> Tensor:
    """What the model says after a prompt by itself, in float64: (V,)."""
    model, ids = exact_model(), torch.tensor(prompt_ids)
    with torch.inference_mode():
        return model.logits(model(ids, torch.arange(len(ids)), CausalAttention())[-1:])[0].clone()


def expect_logits(inputs: Values, outputs: Values) -> None:
    want = torch.stack([logits_alone(prompt) for prompt in inputs["prompts"]])
    lengths = [len(prompt) for prompt in inputs["prompts"]]
    expect_like("logits", outputs["logits"], want.float())
    for row, (got, alone) in enumerate(zip(outputs["logits"], want, strict=True)):
        expect_close(f"logits of row {row}, prompts of {lengths} tokens padded on the {inputs['side']}", got, alone,
                     LOGITS_ATOL)


def expect_one_pass(inputs: Values, outputs: Values) -> None:
    prompts, longest = inputs["prompts"], max(map(len, inputs["prompts"]))
    expect_equal("calls of the model", len(outputs["sent"]), 1)
    expect_equal("rows given to model.logits, call by call", outputs["rows"], [len(prompts)])
    [token_ids], [positions] = outputs["sent"], outputs["positions"]
    expect_equal("tokens that went through the model", len(token_ids), len(prompts) * longest)
    for row, prompt in enumerate(prompts):
        own = slice((row + 1) * longest - len(prompt), (row + 1) * longest)
        expect_equal(f"ids of prompt {row}", token_ids[own], prompt)
        expect_equal(f"positions of prompt {row}, which has {len(prompt)} of {longest} tokens", positions[own],
                     list(range(len(prompt))))


@dataclass(frozen=True, kw_only=True)
class PrefillCheck(Check):
    judged: Callable[[Values, Values], None] = expect_logits
    # Padding can be the begin token too, and beside a prompt of that alone nothing would show: so there is a third.
    lengths: Lengths = ragged(batch=(3, 4), longest=(100, 299), between=True)
    side: str = "right"
    draws: int = 2

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        return {"prompts": draw_prompts(rng, self.lengths(rng)), "side": self.side}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        with watched(story_model(DEVICE)) as calls:
            logits = lab.padded_prefill(story_model(DEVICE), inputs["prompts"], inputs["side"])
        return {"logits": logits, "sent": calls.sent, "positions": calls.positions, "rows": calls.rows}

    def judge(self, inputs: Values, outputs: Values) -> None:
        self.judged(inputs, outputs)


EXERCISE = Exercise("04.4", "Prefill, padded", "padded_prefill", minutes=10, difficulty=2, checks=(
    PrefillCheck("says what follows prompts of equal length", 1, draws=1, lengths=lambda rng: [32] * 4,
        advice="Flatten ids and positions, run the model, and take hidden row i * T + T - 1 for prompt i."),
    PrefillCheck("finds each prompt's last token before its padding", 2,
        advice="Padded on the right, prompt i ends in column len(prompt) - 1: its row is i * T + len(prompt) - 1."),
    PrefillCheck("finds each prompt's last token behind its padding", 2, side="left",
        advice="Padded on the left, every prompt ends in the last column: its row is i * T + T - 1."),
    PrefillCheck("spends one pass, and logits for one row per prompt", 2, side="left", judged=expect_one_pass,
        lengths=ragged(batch=(2, 6), longest=(10, 39)),
        advice="One call with all B * T tokens at the positions of `pad`, then model.logits(hidden[last]) with B "
               "rows."),
))
