"""Flash attention for Hopper GPUs (H100, H200), second version: forward, in Gluon, Triton's lower level.

The first version is lesson 06's kernel, where the compiler decides who does what and when. Here that is written down,
after FlashAttention-3 (Shah et al. 2024):

1. One warp only loads. It hands whole tiles to the copy engine (TMA), as far ahead as there is room for them.
2. Two groups of four warps compute, each on 64 queries of its own, so that one may multiply while the other does not.
3. Within a group, the tensor cores multiply the last tile's probabilities with its values while the exponentials of the
   next tile's scores are computed.
4. A program stays, and takes a late tile of queries and then an early one: under a causal mask a long and a short piece
   of work, which together are as much as any other program's. Programs that run side by side share keys and values.
5. The output changes its layout before it is stored, from what the tensor cores leave to 16 bytes for each thread.

Shapes: as in lesson 06. Scores and `row_max` are in units of log2.
"""
import math

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

GROUPS = gl.constexpr(2)  # of four warps, each with a tile of 64 queries: the height of the tensor cores' product
Q_TILE = gl.constexpr(128)
K_TILE = gl.constexpr(128)
STAGES = gl.constexpr(2)  # tiles of keys, and of values, that shared memory has room for
LN_2 = gl.constexpr(math.log(2))


@gluon.jit
def piece(turn, n_tiles, n_pairs, heads, cu_seqlens_q, cu_seqlens_k, CAUSAL: gl.constexpr):
    """What this program does in its `turn`: (head, first query, where the sequences lie, tiles of keys to visit).

    All tiles of a pair (sequence, head) come one after the other. 0 tiles to visit: nothing to do.
    """
    half = (n_tiles + 1) // 2
    work = turn // 2 * gl.num_programs(0) + gl.program_id(0)
    early = work % half
    tile = early
    if turn % 2 == 0:
        tile = n_tiles - 1 - early
    pair = gl.minimum(work // half, n_pairs - 1)
    head, sequence = pair % heads, pair // heads
    q_start = gl.load(cu_seqlens_q + sequence)
    nq = gl.load(cu_seqlens_q + sequence + 1) - q_start
    k_start = gl.load(cu_seqlens_k + sequence)
    nk = gl.load(cu_seqlens_k + sequence + 1) - k_start

    end = nk
    if CAUSAL:
        end = gl.minimum(nk, (tile + 1) * Q_TILE + nk - nq)
    steps = gl.maximum(gl.cdiv(end, K_TILE), 1)  # one even where no key is seen, for there is a 0 to store
    middle_again = (turn % 2 == 1) & (n_tiles - 1 - early == early)
    if (work >= n_pairs * half) | (tile * Q_TILE >= nq) | middle_again:
        steps = 0
    return head, tile * Q_TILE, q_start, nq, k_start, nk, steps


@gluon.jit
def produce(memory, schedule, descriptors, group, CAUSAL: gl.constexpr):
    """The loading warp: queries, then keys and values from the last tile to the first."""
    q_smem, k_smem, v_smem, q_ready, q_free, k_ready, k_free, v_ready, v_free = memory
    n_turns, n_tiles, n_pairs, heads, cu_seqlens_q, cu_seqlens_k = schedule
    q_desc, k_desc, v_desc = descriptors
    D: gl.constexpr = q_desc.block_type.shape[1]
    Q_BYTES: gl.constexpr = GROUPS * q_desc.block_type.nbytes
    loaded, pieces = 0, 0
    for turn in range(n_turns):
        head, first, q_start, nq, k_start, nk, steps = piece(turn, n_tiles, n_pairs, heads, cu_seqlens_q, cu_seqlens_k,
                                                             CAUSAL)
        if steps > 0:
            mbarrier.wait(q_free, (pieces & 1) ^ 1)
            mbarrier.expect(q_ready, Q_BYTES)
            for g in gl.static_range(GROUPS):
                tma.async_copy_global_to_shared(q_desc, [q_start + first + 64 * g, head * D], q_ready, q_smem.index(g))
            pieces += 1
            for step in range(steps):
                row, column = k_start + (steps - 1 - step) * K_TILE, head // group * D
                stage, phase = loaded % STAGES, loaded // STAGES & 1 ^ 1
                mbarrier.wait(k_free.index(stage), phase)
                mbarrier.expect(k_ready.index(stage), k_desc.block_type.nbytes)
                tma.async_copy_global_to_shared(k_desc, [row, column], k_ready.index(stage), k_smem.index(stage))
                mbarrier.wait(v_free.index(stage), phase)
                mbarrier.expect(v_ready.index(stage), v_desc.block_type.nbytes)
                tma.async_copy_global_to_shared(v_desc, [row, column], v_ready.index(stage), v_smem.index(stage))
                loaded += 1


@gluon.jit
def online_softmax(scores, row_max, row_sum, first_key, last_key, scale_log2, MASKED: gl.constexpr,
                   LAYOUT: gl.constexpr):
    """(p, new row_max, new row_sum, factor by which what was added up so far shrinks) of a tile of scores."""
    if MASKED:
        keys = first_key + gl.arange(0, K_TILE, gl.SliceLayout(0, LAYOUT))
        scores = gl.where(keys[None, :] <= last_key[:, None], scores, float("-inf"))
    new_max = gl.maximum(row_max, gl.max(scores, 1) * scale_log2)
    base = new_max
    if MASKED:
        base = gl.where(new_max == float("-inf"), 0.0, new_max)  # -inf - -inf would be NaN
    p = gl.exp2(scores * scale_log2 - base[:, None])
    shrink = gl.exp2(row_max - base)
    return p, new_max, row_sum * shrink + gl.sum(p, 1), shrink


@gluon.jit
def computed_by_now(row_sums):
    """`row_sums`, and all that they are made from, before whatever comes next in the program.

    The assembler would put the exponentials off until after the wait that follows them, and the tensor cores would have
    nothing to do meanwhile. It cannot put them off past an exit that they may cause. Sums of exponentials are never
    negative, so nothing ever exits.
    """
    return gl.inline_asm_elementwise(
        "{ .reg .pred never; setp.lt.f32 never, $1, 0f00000000; @never exit; mov.b32 $0, $1; }", "=f,f", [row_sums],
        dtype=gl.float32, is_pure=False, pack=1)


@gluon.jit
def visit(step, visited, p, out, row_max, row_sum, q, memory, steps, last_key, scale_log2, MASKED: gl.constexpr,
          LAYOUT: gl.constexpr):
    """Scores of one more tile, while the values of the tile before are added up."""
    q_smem, k_smem, v_smem, q_ready, q_free, k_ready, k_free, v_ready, v_free = memory
    P_LAYOUT: gl.constexpr = gl.DotOperandLayout(0, out.type.layout, 2)
    stage, before = visited % STAGES, (visited - 1) % STAGES
    mbarrier.wait(k_ready.index(stage), visited // STAGES & 1)
    scores = warpgroup_mma(q, k_smem.index(stage).permute((1, 0)), gl.zeros([64, K_TILE], gl.float32, LAYOUT),
                           use_acc=False, is_async=True)
    mbarrier.wait(v_ready.index(before), (visited - 1) // STAGES & 1)
    out = warpgroup_mma(p, v_smem.index(before), out, is_async=True)
    scores = warpgroup_mma_wait(1, [scores])  # the older of the two products
    mbarrier.arrive(k_free.index(stage), count=1)

    p, row_max, row_sum, shrink = online_softmax(scores, row_max, row_sum, (steps - 1 - step) * K_TILE, last_key,
                                                 scale_log2, MASKED, LAYOUT)
    p = gl.convert_layout(p.to(q.dtype), P_LAYOUT)
    out, p, row_sum = warpgroup_mma_wait(0, [out, p, computed_by_now(row_sum)])
    mbarrier.arrive(v_free.index(before), count=1)
    return p, out * gl.convert_layout(shrink, gl.SliceLayout(1, out.type.layout))[:, None], row_max, row_sum


@gluon.jit
def consume(GROUP: gl.constexpr, memory, schedule, outputs, scale_log2, CAUSAL: gl.constexpr):
    """Four computing warps: 64 queries of every piece of this program's work."""
    q_smem, k_smem, v_smem, q_ready, q_free, k_ready, k_free, v_ready, v_free = memory
    n_turns, n_tiles, n_pairs, heads, cu_seqlens_q, cu_seqlens_k = schedule
    out_ptr, lse_ptr = outputs
    q = q_smem.index(GROUP)
    D: gl.constexpr = q.shape[1]
    S_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, K_TILE, 16])
    O_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    P_LAYOUT: gl.constexpr = gl.DotOperandLayout(0, O_LAYOUT, 2)
    WIDE: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [4, 1], [1, 0])

    visited, pieces = 0, 0
    head, first, q_start, nq, _, nk, steps = piece(0, n_tiles, n_pairs, heads, cu_seqlens_q, cu_seqlens_k, CAUSAL)
    for turn in range(n_turns):
        # Looked up now, so that it is here when it is needed.
        head_, first_, q_start_, nq_, _, nk_, steps_ = piece(turn + 1, n_tiles, n_pairs, heads, cu_seqlens_q,
                                                                    cu_seqlens_k, CAUSAL)
        if steps > 0:
            queries = first + 64 * GROUP + gl.arange(0, 64, gl.SliceLayout(1, S_LAYOUT))
            last_key = queries * 0 + nk - 1
            whole = nk  # keys before this one are seen by all queries
            if CAUSAL:
                last_key = gl.minimum(queries + nk - nq, nk - 1)
                whole = gl.maximum(gl.minimum(first + nk - nq + 1, nk), 0)
            masked = gl.maximum(steps - whole // K_TILE, 1)

            mbarrier.wait(q_ready, pieces & 1)
            mbarrier.wait(k_ready.index(visited % STAGES), visited // STAGES & 1)
            scores = warpgroup_mma(q, k_smem.index(visited % STAGES).permute((1, 0)),
                                   gl.zeros([64, K_TILE], gl.float32, S_LAYOUT), use_acc=False)
            mbarrier.arrive(k_free.index(visited % STAGES), count=1)
            row_max = gl.full([64], float("-inf"), gl.float32, gl.SliceLayout(1, S_LAYOUT))
            row_sum = gl.zeros([64], gl.float32, gl.SliceLayout(1, S_LAYOUT))
            p, row_max, row_sum, shrink = online_softmax(scores, row_max, row_sum, (steps - 1) * K_TILE, last_key,
                                                         scale_log2, True, S_LAYOUT)
            p = gl.convert_layout(p.to(q.dtype), P_LAYOUT)
            out = gl.zeros([64, D], gl.float32, O_LAYOUT)
            visited += 1
            for step in range(1, masked):
                p, out, row_max, row_sum = visit(step, visited, p, out, row_max, row_sum, q, memory, steps, last_key,
                                                 scale_log2, True, S_LAYOUT)
                visited += 1
            for step in range(masked, steps):
                p, out, row_max, row_sum = visit(step, visited, p, out, row_max, row_sum, q, memory, steps, last_key,
                                                 scale_log2, False, S_LAYOUT)
                visited += 1
            mbarrier.arrive(q_free, count=1)
            before = (visited - 1) % STAGES
            mbarrier.wait(v_ready.index(before), (visited - 1) // STAGES & 1)
            out = warpgroup_mma(p, v_smem.index(before), out)
            mbarrier.arrive(v_free.index(before), count=1)
            pieces += 1

            lse = (row_max + gl.log2(row_sum)) * LN_2
            gl.store(lse_ptr + (q_start + queries) * heads + head, lse, mask=queries < nq)
            factor = gl.convert_layout(gl.where(row_sum > 0, 1 / row_sum, 0.0), gl.SliceLayout(1, O_LAYOUT))
            rows = first + 64 * GROUP + gl.arange(0, 64, gl.SliceLayout(1, WIDE))
            columns = head * D + gl.arange(0, D, gl.SliceLayout(0, WIDE))
            gl.store(out_ptr + (q_start + rows).to(gl.int64)[:, None] * (heads * D) + columns[None, :],
                     gl.convert_layout((out * factor[:, None]).to(q.dtype), WIDE), mask=(rows < nq)[:, None])
        head, first, q_start, nq, nk, steps = head_, first_, q_start_, nq_, nk_, steps_


@gluon.jit
def flash_attention_2_kernel(q_desc, k_desc, v_desc, out_ptr, lse_ptr, cu_seqlens_q, cu_seqlens_k, scale_log2, n_turns,
                             n_tiles, n_pairs, heads, group, D: gl.constexpr, CAUSAL: gl.constexpr):
    """Shared memory, its barriers (a tile is there; a tile is read and may be replaced), and who does what."""
    q_smem = gl.allocate_shared_memory(q_desc.dtype, [GROUPS, 64, D], q_desc.layout)
    k_smem = gl.allocate_shared_memory(q_desc.dtype, [STAGES, K_TILE, D], k_desc.layout)
    v_smem = gl.allocate_shared_memory(q_desc.dtype, [STAGES, K_TILE, D], v_desc.layout)
    q_ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    q_free = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    k_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_ready, count=1)
    mbarrier.init(q_free, count=GROUPS)
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_ready.index(stage), count=1)
        mbarrier.init(k_free.index(stage), count=GROUPS)
        mbarrier.init(v_ready.index(stage), count=1)
        mbarrier.init(v_free.index(stage), count=GROUPS)
    memory = (q_smem, k_smem, v_smem, q_ready, q_free, k_ready, k_free, v_ready, v_free)
    schedule = (n_turns, n_tiles, n_pairs, heads, cu_seqlens_q, cu_seqlens_k)
    outputs = (out_ptr, lse_ptr)
    # Registers per thread: the loading warp needs few, and the computing ones take what it leaves.
    gl.warp_specialize([(consume, (gl.constexpr(0), memory, schedule, outputs, scale_log2, CAUSAL)),
                        (consume, (gl.constexpr(1), memory, schedule, outputs, scale_log2, CAUSAL)),
                        (produce, (memory, schedule, (q_desc, k_desc, v_desc), group, CAUSAL))], [4, 1], [240, 24])


def flash_attention_2(q: Float[Tensor, "Nq H D"], k: Float[Tensor, "Nk KH D"], v: Float[Tensor, "Nk KH D"],
                      cu_seqlens_q: Int[Tensor, "batch+1"], cu_seqlens_k: Int[Tensor, "batch+1"], max_seqlen_q: int,
                      causal: bool, scale: float | None = None,
                      ) -> tuple[Float[Tensor, "Nq H D"], Float[Tensor, "Nq H"]]:
    """(out, lse) of a packed batch, as lesson 06's `flash_attention` gives them.

    Args:
        q, k, v: contiguous float16 or bfloat16 on a Hopper GPU, D 64 or 128. They must be finite: the last tile of
            values of a sequence reaches into the next one, with the factor 0.
        cu_seqlens_q, cu_seqlens_k: int32 on the same device.

    Raises:
        ValueError: for other inputs.
    """
    nq, heads, head_dim = q.shape
    if not q.is_cuda or torch.cuda.get_device_capability(q.device)[0] != 9:
        raise ValueError("flash_attention_2 is written for Hopper GPUs (H100, H200): elsewhere use lesson 06's kernel.")
    if q.dtype not in (torch.float16, torch.bfloat16) or head_dim not in (64, 128):
        raise ValueError(f"flash_attention_2 takes float16 or bfloat16 and a head dim of 64 or 128, not {q.dtype} and "
                         f"{head_dim}: use lesson 06's kernel.")
    if not all(x.is_contiguous() for x in (q, k, v)):
        raise ValueError("flash_attention_2 takes contiguous q, k and v: call .contiguous() on them.")
    out = torch.empty_like(q)
    lse = torch.empty(nq, heads, dtype=torch.float32, device=q.device)
    n_tiles, n_pairs = triton.cdiv(max_seqlen_q, Q_TILE.value), (len(cu_seqlens_q) - 1) * heads
    work = triton.cdiv(n_tiles, 2) * n_pairs  # a late tile and an early one each
    programs = min(work, torch.cuda.get_device_properties(q.device).multi_processor_count)
    flash_attention_2_kernel[programs,](
        describe(q, 64), describe(k, K_TILE.value), describe(v, K_TILE.value), out, lse, cu_seqlens_q, cu_seqlens_k,
        (head_dim**-0.5 if scale is None else scale) * math.log2(math.e), 2 * triton.cdiv(work, programs), n_tiles,
        n_pairs, heads, heads // k.shape[1], D=head_dim, CAUSAL=causal, num_warps=4)
    return out, lse


def describe(x: Float[Tensor, "N heads D"], rows: int) -> TensorDescriptor:
    """For the copy engine: tiles of some rows of one head, swizzled as the tensor cores want them."""
    tile = [rows, x.shape[2]]
    layout = gl.NVMMASharedLayout.get_default_for(tile, gl.float16 if x.dtype == torch.float16 else gl.bfloat16)
    return TensorDescriptor.from_tensor(x.flatten(1), tile, layout)
