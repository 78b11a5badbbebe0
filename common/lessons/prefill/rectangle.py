"""04.3: attention in a padded rectangle."""
from dataclasses import dataclass
from types import ModuleType

import torch

from common.checking.compare import expect_close, expect_equal, expect_like
from common.checking.draw import as_slices, draw_qkv
from common.checking.exercise import Check, Exercise, Values
from common.lessons.prefill.shared import ATTENTION_ATOL, Lengths, Rng, ragged
from common.oracles.decoder import causal_attention


@dataclass(frozen=True, kw_only=True)
class PaddedCheck(Check):
    """A rectangle of heads. What stands in padding is large, so that it shows wherever it is seen."""

    lengths: Lengths = ragged(batch=(2, 5), longest=(5, 39))
    side: str = "left"
    heads: tuple[int, int, int] = (2, 2, 8)  # query heads, key heads and head dim
    draws: int = 4

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        lengths = self.lengths(rng)
        column = torch.arange(max(lengths))
        short = torch.tensor(lengths)[:, None]
        mask = column < short if self.side == "right" else column >= max(lengths) - short
        inputs = draw_qkv(rng, (mask.numel(),), self.heads, dtype)
        scale = torch.where(mask.flatten(), 1, 20)[:, None, None].to(dtype)
        return {"mask": mask, "side": self.side} | {name: heads * scale for name, heads in inputs.items()}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        attention = lab.PaddedAttention(inputs["mask"])
        return {"out": attention(0, *as_slices(*(inputs[name] for name in "qkv")))}

    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_like("attention", outputs["out"], inputs["q"])
        for row, mask in enumerate(inputs["mask"]):
            real = mask.nonzero()[:, 0] + row * len(mask)
            want = causal_attention(*(inputs[name][real].double() for name in "qkv"))
            expect_close(f"row {row}, {len(real)} of {len(mask)} tokens real, padding on the {inputs['side']}",
                         outputs["out"][real], want, ATTENTION_ATOL)


class FiniteCheck(PaddedCheck):
    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_like("attention", outputs["out"], inputs["q"])
        strange = (~outputs["out"].isfinite()).flatten(1).any(dim=1).sum().item()
        expect_equal(f"rows that are not finite, of {len(outputs['out'])}", strange, 0)
        super().judge(inputs, outputs)


EXERCISE = Exercise("04.3", "Attention in a padded rectangle", "PaddedAttention", minutes=15, difficulty=3, checks=(
    PaddedCheck("attends in a rectangle that has no padding", 2, draws=1, lengths=lambda rng: [8] * 4, side="right",
        advice="N = B * T rows become (B, heads, T, D): unflatten(0, (B, T)), transpose(1, 2); then causal, row by "
               "row."),
    PaddedCheck("hides padding on the right", 1, side="right",
        advice="Behind the last real token stands padding: no real token may see it, and causal order forbids it "
               "already."),
    PaddedCheck("hides padding on the left", 2,
        advice="A key counts where mask[b, key] is True and key <= query: (B, 1, T, T), from mask[:, None, :] and "
               "tril."),
    FiniteCheck("leaves no nan in the rows of padding", 2,
        advice="A token of padding that may see nothing gets 0 / 0: let it see itself, or replace nan by numbers."),
    PaddedCheck("lets query heads share key heads", 1, heads=(6, 2, 8),
        advice="Query head h reads key head h // (H // KH): enable_gqa=True, or keys repeated with repeat_interleave."),
))
