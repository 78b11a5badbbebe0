"""The yardsticks of the attention lessons: the plain formula, what is allocated, and what traces in the values show."""
import pytest
import torch
import torch.nn.functional as F

from common.checking.watch import GuardedMemory, PeakMemory
from common.lessons.flash_attention.tile_traces import BLOCK, loaded_blocks, loads_show, weights_show
from common.oracles.attention import causal_mod, packed_attention, plain_attention


@pytest.fixture
def heads(seed: int) -> tuple[torch.Tensor, ...]:
    """q with 6 heads, k and v with 2, of 70 queries and 100 keys."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, heads, 16, generator=generator) for n, heads in ((70, 6), (100, 2), (100, 2)))


@pytest.mark.parametrize("window", [None, 30])
def test_the_formula_agrees_with_torch(heads, window):
    out, lse = plain_attention(*heads, causal_mod(70, 100, window))
    distance = torch.arange(100) - (torch.arange(70)[:, None] + 30)
    mask = (distance <= 0) & (distance > -(window or 1000))
    q, k, v = (x.double().transpose(0, 1) for x in heads)
    torch.testing.assert_close(out.transpose(0, 1), F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True))
    scores = (q @ k.repeat_interleave(3, 0).mT / 4).masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(lse.T, scores.logsumexp(-1))


def test_rows_without_keys_are_zero_and_have_no_gradient(heads):
    q, k, v = (x.requires_grad_() for x in heads)
    out, lse = plain_attention(q, k[:40], v[:40], causal_mod(70, 40))
    out.sum().backward()
    assert (out[:30] == 0).all() and (lse[:30] == -torch.inf).all() and (lse[30:] > -torch.inf).all()
    assert (q.grad[:30] == 0).all() and not any(x.grad.isnan().any() for x in (q, k, v))


def test_packed_sequences_do_not_meet(heads):
    starts_q, starts_k = torch.tensor([0, 20, 20, 70]), torch.tensor([0, 10, 60, 100])
    out, _ = packed_attention(*heads, starts_q, starts_k, causal=False)
    q, k, v = heads
    torch.testing.assert_close(out[20:], plain_attention(q[20:], k[60:], v[60:])[0])


def test_the_peak_is_what_is_alive_at_one_time():
    with PeakMemory() as memory:
        kept = torch.zeros(10, 10)
        for _ in range(5):
            kept = kept + kept.T.reshape(100).view(10, 10)
    assert memory.alive == 100 and 300 <= memory.peak <= 400  # two sums and a reshaped copy, but never all five
    with PeakMemory() as memory:
        held = [torch.zeros(100) for _ in range(5)]
    assert memory.peak == 100 * len(held)


def test_a_write_beside_an_allocation_is_seen():
    with GuardedMemory(margin=50) as memory:
        made = torch.empty(4, 6)
        both = torch.ones(8).split(3)
    assert made.isnan().all() and [len(part) for part in both] == [3, 3, 2]
    assert memory.stray_writes() == 0 and memory.allocated == 32
    made.as_strided((3,), (1,), made.storage_offset() + made.numel()).fill_(torch.nan)
    made.as_strided((1,), (1,), made.storage_offset() - 1).fill_(7)
    assert memory.stray_writes() == 4


def test_traces_tell_loads_and_weights(heads):
    q, k, v = heads
    p = (q[:, :1].transpose(0, 1) @ k[:, :1].transpose(0, 1).mT).softmax(-1).clone()
    p[..., 40:] = 0  # hidden, but loaded
    out = (p[..., :64] @ loads_show(v[:, :1]).transpose(0, 1)[:, :64]).transpose(0, 1)
    assert loaded_blocks(out, 100).all(0).tolist() == [True, True, False, False]
    shares = (p @ weights_show(v[:, :1]).transpose(0, 1)).transpose(0, 1)[:, 0]
    torch.testing.assert_close(shares[:, 1], p[0, :, BLOCK:2 * BLOCK].sum(-1))
