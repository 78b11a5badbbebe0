"""04.8: a cache of slots, one for each request of a batch."""
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from common.checking.compare import expect_equal
from common.checking.draw import as_slices, draw_config, integer
from common.checking.exercise import Check, Exercise, Mismatch, Values
from common.checking.lab import raised_by
from common.checking.watch import Operations
from common.device import DEVICE
from common.lessons.prefill.shared import Lengths, Rng, attend, describe, draw_call, draw_calls, expect_alone, ragged
from common.model.llama import Config

SMALL = {"vocab_size": 8, "dim": 8, "n_layers": 1, "n_heads": 2, "n_kv_heads": 2, "head_dim": 4, "ffn_dim": 8}
STRANGE = 30.0  # what the memory is full of to begin with, so that it shows wherever it is seen


@dataclass(frozen=True, kw_only=True)
class SlotCheck(Check):
    """Prompts and then single tokens on a SlotCache. `judged` looks at one side of what it did."""

    judged: Callable[[Values, Values], None] = expect_alone
    lengths: Lengths = ragged(batch=(1, 6), longest=(2, 24))
    config: Callable[[Rng], Values] = draw_config
    steps: int = 4
    spare: int = 5  # places that the longest request leaves
    attends: bool = True  # if not, its calls are announced and no more
    draws: int = 3

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        config, lengths = self.config(rng), self.lengths(rng)
        return {"config": config, "capacity": max(lengths) + self.steps + self.spare,
                "calls": draw_calls(rng, config, lengths, self.steps, dtype)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        slots = new_slots(lab, inputs)
        reserved = slots.keys, slots.values  # while these live, no other tensor can lie where they do
        outputs = {"out": [], "positions": [], "lengths": [], "moved": 0}
        for call in inputs["calls"]:
            if call["keep"] is not None:
                slots.keep(call["keep"])
            outputs["positions"].append(slots.begin(call["counts"]))
            outputs["lengths"].append(list(slots.lengths))
            if self.attends:
                outputs["out"].append(self.attend(slots, call))
            outputs["moved"] += [x.data_ptr() for x in reserved] != [slots.keys.data_ptr(), slots.values.data_ptr()]
        return outputs | {"shapes": [list(slots.keys.shape), list(slots.values.shape)]}

    def attend(self, slots: Any, call: Values) -> Tensor:
        return attend(slots, call)

    def judge(self, inputs: Values, outputs: Values) -> None:
        self.judged(inputs, outputs)


def new_slots(lab: ModuleType, inputs: Values) -> Any:
    config, prompts = Config(**inputs["config"]), inputs["calls"][0]
    slots = lab.SlotCache(config, len(prompts["counts"]), inputs["capacity"], prompts["q"].dtype, DEVICE)
    slots.keys.fill_(STRANGE)
    slots.values.fill_(STRANGE)
    return slots


def expect_numbers(inputs: Values, outputs: Values) -> None:
    before = [0] * len(inputs["calls"][0]["counts"])
    for number, call in enumerate(inputs["calls"]):
        after = [length + count for length, count in zip(before, call["counts"], strict=True)]
        want = [position for span in zip(before, after, strict=True) for position in range(*span)]
        what = f"in call {number} ({describe(call)}) after {before}"
        expect_equal(f"positions {what}", outputs["positions"][number], torch.tensor(want))
        expect_equal(f"lengths {what}", outputs["lengths"][number], after)
        before = after


def expect_reserved_memory(inputs: Values, outputs: Values) -> None:
    config, batch = inputs["config"], len(inputs["calls"][0]["counts"])
    shape = [config["n_layers"], batch, config["n_kv_heads"], inputs["capacity"], config["head_dim"]]
    expect_equal("shapes of keys and values", outputs["shapes"], [shape, shape])
    expect_equal("calls after which keys or values lay elsewhere", outputs["moved"], 0)


def all_different(rng: Rng) -> list[int]:
    """No two requests alike, so that a length shows which does not move up with its request."""
    return (1 + rng.permutation(24)[:integer(rng, 4, 7)]).tolist()


def longest_inside(rng: Rng) -> list[int]:
    """The longest request, which is the first that finds no room, is neither the first of the batch nor the last."""
    longest = integer(rng, 2, 24)
    first, last, *others = rng.integers(1, longest, integer(rng, 2, 5)).tolist()
    return [first, *rng.permutation([longest, *others]).tolist(), last]


class UsedPartCheck(SlotCheck):
    """Behind the longest request stands nan: a product with it shows, even one that is masked."""

    def attend(self, slots: Any, call: Values) -> Tensor:
        for memory in (slots.keys, slots.values):
            memory.nan_to_num_(nan=STRANGE)
            memory[..., max(slots.lengths):, :] = torch.nan
        return attend(slots, call)


class LeavingCheck(SlotCheck):
    """Requests leave after every second call, until one is left."""

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        config, lengths = self.config(rng), self.lengths(rng)
        calls, left = draw_calls(rng, config, lengths, 1, dtype), len(lengths)
        rows = range(1, left)  # the first row leaves at once, so that all others move up
        while left > 1:
            stay = integer(rng, 1, left - 1)
            keep = sorted(rng.permutation(rows)[:stay].tolist())
            calls += [draw_call(rng, config, [1] * stay, dtype, kept) for kept in (keep, None)]
            left, rows = stay, range(stay)
        return {"config": config, "capacity": max(lengths) + len(calls) + self.spare, "calls": calls}


class RefusalCheck(SlotCheck):
    """In each case [capacity, number] the call of this number is the first that does not fit."""

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        longest = max(inputs["calls"][0]["counts"])
        return inputs | {"cases": [[longest - 1, 0], [longest + 2, 3]]}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"refusals": [self.refusal(lab, inputs | {"capacity": capacity}, number)
                             for capacity, number in inputs["cases"]]}

    def refusal(self, lab: ModuleType, inputs: Values, number: int) -> Values:
        slots, too_much = new_slots(lab, inputs), inputs["calls"][number]
        for call in inputs["calls"][:number]:
            slots.begin(call["counts"])
            attend(slots, call)
        keys, values, lengths = slots.keys.clone(), slots.values.clone(), list(slots.lengths)
        raised, message = raised_by(lambda: (slots.begin(too_much["counts"]), attend(slots, too_much)))
        return {"raised": raised, "message": message, "lengths": [lengths, list(slots.lengths)],
                "written": int((slots.keys != keys).sum() + (slots.values != values).sum())}

    def judge(self, inputs: Values, outputs: Values) -> None:
        for (capacity, number), refusal in zip(inputs["cases"], outputs["refusals"], strict=True):
            before, after = refusal["lengths"]
            counts = inputs["calls"][number]["counts"]
            what = f"{counts} more after {before}, capacity {capacity}"
            expect_equal(f"error for {what}", refusal["raised"], "ValueError")
            expect_equal(f"lengths after the error, {what}", after, before)
            expect_equal(f"elements of keys and values that have changed, {what}", refusal["written"], 0)
            named = set(map(int, re.findall(r"\d+", refusal["message"])))
            if not any({row, length, capacity} <= named for row, length in enumerate(before)
                       if length + counts[row] > capacity):
                raise Mismatch(f"the error for {what} should name row, length and capacity: "
                               f"{refusal['message'][:120]!r}")


class OperationsCheck(Check):
    """One layer of one step, for a small batch and a large one."""

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        config = draw_config(rng)
        return {"config": config, "batches": [
            {"config": config, "capacity": 40, "calls": draw_calls(rng, config, [7] * batch, 1, dtype)}
            for batch in (2, 19)]}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return {"counts": [self.operations(lab, batch) for batch in inputs["batches"]]}

    def operations(self, lab: ModuleType, inputs: Values) -> int:
        slots, (prompts, step) = new_slots(lab, inputs), inputs["calls"]
        slots.begin(prompts["counts"])
        attend(slots, prompts)
        slots.begin(step["counts"])
        heads = as_slices(*(step[name][0] for name in "qkv"))
        with Operations() as operations:
            slots(0, *heads)
        return operations.count

    def judge(self, inputs: Values, outputs: Values) -> None:
        small, large = outputs["counts"]
        if large != small:
            raise Mismatch(f"torch operations in one layer of one step: {small} for 2 requests, {large} for 19")


EXERCISE = Exercise("04.8", "Slots", "SlotCache", minutes=25, difficulty=4, checks=(
    SlotCheck("decodes after two prompts of four tokens", 1, draws=1, config=lambda rng: SMALL,
        lengths=lambda rng: [4, 4], steps=2, spare=2,
        advice="Write k to keys[layer][rows, :, positions], v likewise; then a token sees its slot up to its length."),
    SlotCheck("gives new tokens their positions, and counts them", 2, attends=False, judged=expect_numbers,
        lengths=ragged(batch=(2, 6), longest=(2, 24)),
        advice="New tokens of request i are at lengths[i], lengths[i] + 1, ... as lengths was before; then it grows."),
    SlotCheck("lets each request see its own tokens alone, whatever the lengths", 3,
        lengths=ragged(batch=(3, 6), longest=(2, 24)),
        advice="Row b of the mask hides places from lengths[b] on, and no place before; the new token is already "
               "there."),
    SlotCheck("fills a slot to its last place", 1, spare=0,
        advice="A request whose length becomes exactly the capacity fits: only more is too much."),
    LeavingCheck("goes on with those that stay when others leave, in any order", 2, lengths=all_different,
        advice="After keep(rows) row i is what rows[i] was: its keys, its values and its length."),
    RefusalCheck("refuses what does not fit before anything is written", 2, draws=8, steps=3, lengths=longest_inside,
        advice="In `begin`, before anything else: lengths[i] + counts[i] > capacity for any i is a ValueError."),
    SlotCheck("stays in the memory that it reserved", 1, judged=expect_reserved_memory,
        advice="Write into self.keys and self.values in place, keys[layer][rows, :, positions] = k; assign no new "
               "ones."),
    OperationsCheck("decodes a large batch in as many operations as a small one", 2,
        advice="One attention for the whole batch: q (B, KH, H/KH, D), keys (B, KH, longest, D), mask (B, 1, 1, "
               "longest)."),
    UsedPartCheck("reads nothing behind the longest request", 1, spare=20,
        advice="Cut keys and values to the longest request, keys[layer, :, :, :longest], before you attend."),
))
