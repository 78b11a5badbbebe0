"""06.6: the gradients of q, k and v."""
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from common.checking.compare import expect_equal
from common.checking.draw import integer, randn
from common.checking.exercise import BF16, F16, F32, KERNEL_ON_CPU, KERNEL_ON_GPU, Check, DTypes, Exercise, Values
from common.checking.guard import guarded_input
from common.checking.watch import GuardedMemory, Launches
from common.lessons.flash_attention import shared
from common.lessons.flash_attention.shared import Lengths, off_tile, ragged, shuffled
from common.lessons.flash_attention.tile_traces import loads_show
from common.oracles.attention import packed_attention

GRADIENTS = ("dq", "dk", "dv")
GRADIENT = {F32: 2e-5, F16: 2.5e-2, BF16: 2e-1}  # of the largest gradient, or of 1; as OUT; seen: 2.2e-6, 2.5e-3


@dataclass(frozen=True, kw_only=True)
class BackwardCheck(Check):
    """`flash_attention_backward` of a packed batch, against the gradients that autograd finds in float64."""

    lengths: Callable[[np.random.Generator], Lengths]
    heads: Callable[[np.random.Generator], tuple[int, int, int]] = lambda rng: (1, 1, 32)  # H, KH, D
    q_size: float = 1
    causal: bool = False
    window: Callable[[np.random.Generator], int | None] = lambda rng: None
    scale: float | None = None
    layout: Callable[[Values], list[Tensor]] = shared.guarded
    tolerance: dict[torch.dtype, float] = field(default_factory=lambda: GRADIENT)
    seconds: float = shared.COMPILING
    cuda: DTypes = KERNEL_ON_GPU

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = shared.draw_packed(rng, dtype, self.lengths(rng), *self.heads(rng), self.q_size)
        inputs |= {"d_out": randn(rng, *inputs["q"].shape).to(dtype), "window": self.window(rng)}
        out, lse = self.forward(inputs)
        return inputs | {"out": out.to(dtype), "lse": lse.float()}

    def forward(self, inputs: Values) -> tuple[Tensor, Tensor]:
        packed = (inputs[name] for name in ("q", "k", "v", "cu_seqlens_q", "cu_seqlens_k"))
        return packed_attention(*packed, self.causal, inputs["window"], self.scale)

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        qkv = self.layout(inputs)
        d_out, out, lse = (guarded_input(inputs[name], margin=shared.MARGIN) for name in ("d_out", "out", "lse"))
        sizes = (inputs[name] for name in ("cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k"))
        with ExitStack() as stack:
            launches = [stack.enter_context(Launches(lab, name)) for name in ("dk_dv_kernel", "dq_kernel")]
            memory = stack.enter_context(GuardedMemory(shared.MARGIN))
            returned = lab.flash_attention_backward(d_out, *qkv, out, lse, *sizes, self.causal, inputs["window"],
                                                    self.scale)
            gradients = shared.items("flash_attention_backward", returned, GRADIENTS)
        seen = {"stray": memory.stray_writes(), "allocated": memory.allocated,
                "launches": [kernel.count for kernel in launches]}
        return dict(zip(GRADIENTS, gradients, strict=True)) | seen

    def expected(self, inputs: Values) -> Values:
        leaves = {name: inputs[name].double().requires_grad_() for name in "qkv"}
        out, _ = self.forward(inputs | leaves)
        gradients = torch.autograd.grad(out, list(leaves.values()), inputs["d_out"].double())
        return dict(zip(GRADIENTS, gradients, strict=True))

    def judge(self, inputs: Values, outputs: Values) -> None:
        dtype = inputs["q"].dtype
        for name, want in self.expected(inputs).items():
            largest = float(want.abs().amax()) if want.numel() else 1.0
            atol = self.tolerance[dtype] * max(1.0, largest)
            shared.expect_values(name, outputs[name], want, dtype, atol, "q, k and v are")


class SharedKeysCheck(BackwardCheck):
    """The keys are spread over two calls, each of which gets the `out` and `lse` of all keys."""

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        return super().draw(rng, dtype) | {"at": integer(rng, 10, 39)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        at, nk = inputs["at"], len(inputs["k"])
        shares = []
        for keys, n in ((slice(at), at), (slice(at, nk), nk - at)):
            cu_seqlens_k = torch.tensor([0, n], dtype=torch.int32, device=inputs["k"].device)
            shares.append(super().drive(lab, inputs | {"k": inputs["k"][keys], "v": inputs["v"][keys],
                                                       "cu_seqlens_k": cu_seqlens_k, "max_seqlen_k": n}))
        first, second = shares
        return {"dq": first["dq"] + second["dq"], "dk": torch.cat((first["dk"], second["dk"])),
                "dv": torch.cat((first["dv"], second["dv"]))}


class StridesCheck(BackwardCheck):
    def judge(self, inputs: Values, outputs: Values) -> None:
        super().judge(inputs, outputs)
        shared.expect_no_stray_write(outputs)


class SkippedTilesCheck(BackwardCheck):
    """NaN in d_out shows, in dv, which queries each program loaded."""

    def draw(self, rng: np.random.Generator, dtype: torch.dtype) -> Values:
        inputs = super().draw(rng, dtype)
        return inputs | {"d_out": loads_show(inputs["d_out"])}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        return super().drive(lab, inputs) | {"tile": shared.TILE}

    def judge(self, inputs: Values, outputs: Values) -> None:
        n = len(inputs["q"])
        seen_by = torch.ones(n, n, dtype=torch.bool).triu()
        shared.expect_no_needless_loads("keys", "queries", outputs["dv"], seen_by, outputs["tile"])


class CostCheck(BackwardCheck):
    def judge(self, inputs: Values, outputs: Values) -> None:
        expect_equal("launches of dk_dv_kernel and of dq_kernel", outputs["launches"], [1, 1])
        shared.expect_thrift(inputs, outputs, 3)


def more_and_fewer_keys(rng: np.random.Generator) -> Lengths:
    """The second sequence begins with a tile in which some queries see a key, and some do not."""
    more, fewer = integer(rng, 33, 69), integer(rng, 33, 69)
    return [(more, more + integer(rng, 1, 39)), (fewer, fewer - off_tile(rng, 1, 29))]


def empty_ones(rng: np.random.Generator) -> Lengths:
    """Two sequences of which every query sees a key, side by side but perhaps for one without queries.

    4 n + 1 queries each: wherever a sequence's numbers are laid out from a multiple of 4 on, the next one's overlap
    with them unless they are moved out of the way.
    """
    nq, without_keys = 4 * integer(rng, 0, 12) + 1, (4 * integer(rng, 0, 9) + 1, 0)
    batch = shuffled(rng, [(0, ragged(rng, 40)), (nq, nq + integer(rng, 0, 30)), (5, 40)])
    return [without_keys, *batch] if rng.integers(2) else [*batch, without_keys]


EXERCISE = Exercise("06.6", "The backward pass", "flash_attention_backward", minutes=30, difficulty=5,
                    refused=shared.FUSED, checks=(
    BackwardCheck("gives the gradients of one tile", 3, cpu=KERNEL_ON_CPU, lengths=lambda rng: [(32, 32)],
        advice="dv = p^T d_out; dp = d_out v^T; ds = p * (dp - delta); dq = ds k * scale; dk = ds^T q * scale."),
    BackwardCheck("adds up over tiles, and takes lengths that are no multiple of one", 2,
        lengths=lambda rng: [(off_tile(rng, 97, 144), off_tile(rng, 97, 144))],
        advice="dk and dv add up over all tiles of queries, dq over all tiles of keys; what is not there counts as p "
               "= 0."),
    BackwardCheck("uses the scale that it is given, and any head dim", 1, draws=2, scale=0.13,
        lengths=lambda rng: [(20, 30)], heads=lambda rng: (1, 1, int(rng.choice([16, 24, 40, 80, 128]))),
        advice="scores = q k^T * scale, so dq and dk each carry one factor `scale`, and dv none."),
    BackwardCheck("hides what causal hid in the forward pass", 2, causal=True, lengths=more_and_fewer_keys,
        advice="The same mask as forward, at i + nk - nq; rows with lse = -inf have p = 0, not exp(-inf - -inf)."),
    BackwardCheck("hides what the window hid in the forward pass", 1, causal=True, lengths=more_and_fewer_keys,
                  window=lambda rng: integer(rng, 1, 32),  # fewer than the keys of the first sequence
                  advice="The same window as forward: query i saw the keys j with i + nk - nq - window < j <= i + nk - "
                         "nq."),
    BackwardCheck("adds up dk and dv over the query heads of a group", 2, lengths=lambda rng: [(20, 30)],
        heads=lambda rng: (6, 2, 32),
        advice="Query heads h with the same h // (H // KH) share k and v, so their shares of dk and dv add up."),
    BackwardCheck("takes packed batches, with empty sequences in them", 2, causal=True, lengths=empty_ones,
        advice="Rows and keys of a sequence begin at its own cu_seqlens; keys without a query get 0, and are written."),
    BackwardCheck("stays right for scores of more than 100", 1, lengths=lambda rng: [(32, 64)], q_size=40,
                  tolerance={F32: 3e-4, F16: 0.08, BF16: 0.6},  # seen: 2.5e-5, 7.8e-3 of the largest, which is up to 66
                  advice="p = exp(scores - lse): subtract before exp, and the largest p is 1."),
    SharedKeysCheck("gives its keys' share where out and lse stem from more keys", 2,
        lengths=lambda rng: [(40, integer(rng, 50, 63))],
        advice="p = exp(scores - lse) with the lse that was given, and delta = sum of d_out * out: no second softmax."),
    StridesCheck("takes strides, and writes nothing outside of what it returns", 1, layout=shared.strided,
        lengths=lambda rng: [(integer(rng, 2, 30), integer(rng, 2, 30))], heads=lambda rng: (2, 2, 24),
        advice="q, k and v may be slices of larger tensors (.contiguous() is one way); mask the stores of dq, dk and "
               "dv."),
    SkippedTilesCheck("loads no tile that causal empties", 1, causal=True, heads=lambda rng: (1, 1, 16),
                      lengths=lambda rng: [(288, 288)],  # the last tile of 128 needs no query near the first block
                      advice="A tile of keys needs the queries from its first key's on only: begin the loop there (0 * "
                             "NaN showed it)."),
    CostCheck("computes in one launch of each kernel, and allocates no scores", 1, causal=True,
        lengths=lambda rng: [(1, 5), (200, 200)], heads=lambda rng: (1, 1, 16),
        advice="One launch of dk_dv_kernel and one of dq_kernel for the whole batch; p is computed anew in each tile."),
))
