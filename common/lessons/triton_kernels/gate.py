"""05.5: silu of the first half of each row, times the second."""
import torch
from torch import Tensor

from common.checking.draw import integer, randn
from common.checking.exercise import Exercise, Rng, Values
from common.lessons.triton_kernels import shared


class GateCheck(shared.KernelCheck):
    launcher, arguments, loads = "silu_and_mul", ("gate_up", "out"), {"gate_up": 1}
    # 3.2e-7 and 1.8e-3; 1.2e-11 and 1.8e-7
    rtol, atol = shared.tolerances(4e-6, 2e-2), shared.tolerances(2e-10, 2e-6)

    def out(self, inputs: Values) -> Tensor:
        return inputs["gate_up"].chunk(2, dim=-1)[0]

    def want(self, inputs: Values) -> dict[str, Tensor]:
        gate, up = inputs["gate_up"].double().chunk(2, dim=-1)
        return {"out": gate / (1 + torch.exp(-gate)) * up}


def rows(rng: Rng, n: int, width: int) -> Values:
    return {"gate_up": 2 * randn(rng, n, 2 * width)}


def rows_apart(rng: Rng) -> Values:
    return rows(rng, *shared.ragged(rng)) | {"gaps": shared.draw_gaps(rng, "gate_up", "out")}


def several_ragged_blocks(rng: Rng) -> Values:
    """Wider than MAX_BLOCK, and odd, so a multiple of no block."""
    return rows(rng, shared.choose(rng, 1, 2), shared.choose(rng, 8193, 16_383, 2 * integer(rng, 4097, 4950) + 1))


def large_gates(rng: Rng) -> Values:
    gate = shared.draw_large(rng, 3, 64) * torch.tensor([0.1, 0.5, 1.0])[:, None]
    return {"gate_up": torch.cat((gate, randn(rng, 3, 64)), dim=-1)}


EXERCISE = Exercise("05.5", "SiLU and multiply", "silu_and_mul", minutes=10, difficulty=2, checks=(
    GateCheck("gives silu(x) * x where gate and up are both x", 1,
        drawn=lambda rng: {"gate_up": randn(rng, 4, 64).repeat(1, 2)},
        advice="silu(gate) * up with silu(gate) = gate * tl.sigmoid(gate); `up` lies F elements behind its gate. Is "
               "row 0 alone right? Then out.stride(0), which is out's own."),
    GateCheck("takes the first half of a row as gate and the second as up", 1, draws=2,
        drawn=lambda rng: {"gate_up": randn(rng, 4, 128)},
        advice="The two halves are not alike: silu belongs on the first F columns."),
    shared.stays_inside(GateCheck, rows_apart),
    GateCheck("handles rows of several blocks, the last of them ragged", 2, draws=3, drawn=several_ragged_blocks,
        advice="A row of F elements takes triton.cdiv(F, BLOCK) programs; program_id(1) can say which block it is "
               "about."),
    GateCheck("finds the rows of gate_up and of out by their own strides", 1, draws=2, drawn=rows_apart,
        advice="Pass gate_up.stride(0) and out.stride(0): either may be more than the row is wide."),
    GateCheck("stays finite for gates of several hundred", 1, draws=2, drawn=large_gates,
        advice="exp(300) is infinite: gate / (1 + exp(-gate)) survives that, gate * exp(gate) / (1 + exp(gate)) does "
               "not."),
    shared.launches_once(GateCheck, rows_apart),
    shared.loads_once(GateCheck, lambda rng: {"gate_up": randn(rng, 2, 2 * integer(rng, 8193, 10_000))},
        name="loads each element once, in blocks of at most MAX_BLOCK",
        advice="Load gate and up once each, and cut wide rows into blocks of at most MAX_BLOCK elements."),
))
