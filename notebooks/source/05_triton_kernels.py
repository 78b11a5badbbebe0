# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 05 · Triton kernels
#
# **You will build** the small kernels that stand between the matrix products of a decoder: a row reduction, RMSNorm with
# and without the residual addition, SiLU-and-multiply, the rotation in place, and a softmax for rows of any length. Each is
# predicted, written, checked and measured. In the end they speak.
#
# 90 minutes · difficulty 1–4 of 5 · you need: lesson 00's kernel (programs, offsets, masks) and lesson 01's formulas, at
# least to have seen them. No GPU: Triton's interpreter runs the same code, and figures from an H100 are at hand.
#
# ```
#   plain torch: a kernel per operation       fused: one kernel
#
#   x      ──> square ──────> x²              x, w ──> registers:
#   x²     ──> mean ────────> m                        square, mean,
#   m      ──> + eps, root ─> r                        + eps, root,
#   x, r   ──> multiply ────> x·r                      multiply, scale
#   x·r, w ──> multiply ────> out             out  <── registers
#
#   What stands at an arrow crosses the memory bus: twelve tensors
#   on the left, three on the right.
# ```
#
# **Shapes and names**
#
# | letter | meaning |
# |---|---|
# | `N` | tokens, which are rows here |
# | `C` | columns of a row |
# | `F` | width of the feed-forward part |
# | `heads` | query heads and key heads together |
# | `D` | head dim; `half` = D / 2 |
# | `BLOCK`, `TILE` | elements that a program holds at one time, a power of two |
#
# All functions of this lesson write into tensors that they are given, and return nothing. Production kernels do the same:
# an engine then uses its memory again and again, and so it never has to ask for any.

# %%
import torch
from torch import Tensor

from common import STORY_LLAMA
from common.checking.draw import randn
from common.checking.watch import Launches, Loads
from common.device import DEVICE
from common.lessons.triton_kernels import row_formulas
from common.model.checkpoint import load_model
from common.model.tokenizer import Tokenizer
from common.notebook import attempt, check, load_lab, part

model, tokenizer = load_model(STORY_LLAMA, device=DEVICE), Tokenizer(STORY_LLAMA)
config = model.config
print(f"{config.n_layers} layers, width {config.dim}, F = {config.ffn_dim}, {config.n_heads} + {config.n_kv_heads} heads "
      f"to rotate, D = {config.head_dim}")

# %% [markdown]
# ## What a kernel costs
#
# A kernel loads numbers from the GPU's memory into registers, computes, and stores. Computing hides behind loading, or the
# other way round, so whichever takes longer decides. RMSNorm in bfloat16 loads 2 bytes and stores 2 for each element, and
# does about four operations in between: 1 FLOP a byte. An H100 copies 3.0 TB/s and multiplies matrices at 775 TFLOP/s (measured
# for lesson 02's figure), some 260 FLOPs for each byte. So RMSNorm waits for memory nearly all the time, as does everything in
# this lesson. (The product of two 8192 × 8192 matrices does 2,731 FLOPs a byte. There it is the memory that waits.)
#
# Two consequences. The time of such a kernel can be told before it is written:
#
# $$\text{seconds} = \max\left(\frac{\text{bytes read} + \text{bytes written}}{\text{bytes per second}},\;
# \text{launch seconds}\right)$$
#
# and there is only one way to make it faster: move fewer bytes.
#
# ### 05.1 Predict a kernel's time
#
# *5 minutes · difficulty 1 · `predict_seconds` in `labs/triton_kernels.py` · `check("05.1")`*
#
# <details><summary>Hint 1</summary><code>tensor.numel() * tensor.element_size()</code> are the bytes of a tensor's own
# elements.</details>
# <details><summary>Hint 2</summary>Sum over <code>[*reads, *writes]</code>. A tensor that stands in both moves
# twice.</details>
# <details><summary>Passing the first check but failing the second?</summary>In the first everything is float32.</details>

# %%
check("05.1")

# %% [markdown]
# How much is there to gain? The next cell runs the plain formulas on tensors of the `meta` device, which have shapes and no
# memory, and listens in on torch: each operation is a kernel that reads its arguments and writes its result. Beside it
# stands your prediction for a kernel that does it all at once. Before you run it: by how much is RMSNorm too slow?

# %%
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

H100 = 3.0e12  # bytes per second of a large copy, as measured


class Moved(TorchDispatchMode):
    """Counts the kernels that torch runs, and the bytes that they read and write."""

    def __init__(self):
        super().__init__()
        self.kernels = self.bytes = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if operation._schema.returns[0].alias_info is None:  # else it is a view, which moves nothing
            self.kernels += 1
            self.bytes += sum(leaf.nbytes for leaf in tree_leaves((args, result)) if isinstance(leaf, Tensor))
        return result


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


x, residual, gate_up, out, weight = (meta(*shape) for shape in
                                     ((8192, 8192), (8192, 8192), (8192, 16_384), (8192, 8192), (8192,)))
qk, cos, sin = meta(8192, 64, 128), *(meta(8192, 64, dtype=torch.float32) for _ in range(2))
PLANS = {  # kernel: the formula in plain torch, what it reads, what it writes
    "row_mean_square": (row_formulas.mean_square, [x], [meta(8192, dtype=torch.float32)]),
    "rms_norm": (row_formulas.normed, [x, weight], [out]),
    "add_rms_norm": (row_formulas.add_normed, [x, residual, weight], [residual, out]),
    "silu_and_mul": (row_formulas.gated, [gate_up], [out]),
    "rotate_in_place": (row_formulas.turned, [qk, cos, sin], [qk]),
    "online_softmax": (row_formulas.softmax, [x], [out]),
}
with attempt("05.1"):
    lab = load_lab("triton_kernels")
    for name, (formula, reads, writes) in PLANS.items():
        with Moved() as moved:
            formula(*reads)
        fused = lab.predict_seconds(reads, writes, H100, 0.0)
        print(f"{name:16} one kernel: {1e6 * fused:4.0f} µs;  kernels in plain torch: {moved.kernels:2}, together "
              f"{1e6 * moved.bytes / H100:4.0f} µs")

# %% [markdown]
# Widening to float32 makes it worse, for the intermediate results are then twice as large. By its bytes softmax has nothing to
# gain: torch has one kernel for it. It is here because its trick, told in 05.7, is what lesson 06 rests on.
#
# Does a prediction of this kind hold on your machine? The plain RMSNorm again, kernel by kernel, against the copy rate that
# is measured beside it. (Times differ from machine to machine, so nothing compares this output.)

# %% tags=["live"]
from common.measure.timing import time_one

x, weight = torch.randn(4096, 4096, device=DEVICE), torch.randn(4096, device=DEVICE)
copying = 2 * x.nbytes / time_one(x.clone, DEVICE).median  # into new memory, as each operation of torch has it
with Moved() as moved:
    row_formulas.normed(x, weight)
seconds = time_one(lambda: row_formulas.normed(x, weight), DEVICE).median
print(f"a copy: {copying / 1e9:.1f} GB/s; {moved.kernels} kernels, {moved.bytes / 1e6:.0f} MB: predicted "
      f"{1e3 * moved.bytes / copying:.1f} ms, measured {1e3 * seconds:.1f} ms")
with attempt("05.1"):
    fused = load_lab("triton_kernels").predict_seconds([x, weight], [x], copying, 0.0)
    print(f"one kernel, by 05.1: {1e3 * fused:.1f} ms")

# %% [markdown]
# ## A row, a program
#
# A row of a decoder has some thousand columns, which fit into the registers of one program. So the plan of the next three
# kernels is: a program takes a row, whole, in one block. A block is a power of two wide, and a row need not be:
#
# ```
#  C = 5, BLOCK = 8        columns      block
#                        0 1 2 3 4    5 6 7
#  row 0, program 0      x x x x x  | . . .      . is masked off: not loaded,
#  row 1, program 1      x x x x x  | . . .      `other` stands in its place
#       ^                         ^
#       x_ptr + n * x_stride      here the next row may begin, or not
# ```
#
# - *What is not there.* `tl.load(pointers, mask=..., other=0.0)` gives 0 where the mask is off, and a sum does not mind zeros.
#   Without `other` a GPU gives whatever it likes. (The interpreter gives 0, so that no check on a CPU notices.)
# - *Strides.* In a slice such as `whole[:, :C]` rows lie further apart than `C`. So the launcher passes `x.stride(0)`, and
#   program `n` begins at `x_ptr + n * x_stride`.
# - *Precision.* `.to(tl.float32)` right after the load costs no bandwidth, since it happens in registers; `tl.store` rounds to
#   the dtype of its pointer by itself.
# - *Threads.* A GPU shares a block among `num_warps` × 32 threads. The file gives you `warps(block)`, which hands 16 elements to
#   each: pass `num_warps=warps(block)` at the launch. The interpreter ignores it.
#
# ### 05.2 Reduce each row to a number
#
# *10 minutes · difficulty 2 · `row_mean_square_kernel` and `row_mean_square` in `labs/triton_kernels.py` · `check("05.2")`*
#
# Predict: what does it cost compared with a copy of x?
# <details><summary>Answer</summary>Half. It reads as much and writes next to nothing.</details>
#
# The signature of the kernel is a proposal: what a launcher passes to its own kernel is your business. Its name is not, for
# launches are counted by it.
#
# <details><summary>Hint 1</summary><code>tl.sum(block)</code> is one number, and <code>tl.store(out_ptr + row, number)</code>
# stores it.</details>
# <details><summary>Hint 2</summary><code>BLOCK = triton.next_power_of_2(columns)</code>, and the grid is
# <code>(rows,)</code>.</details>
# <details><summary>Passing the first check but failing the second?</summary>64 is a power of two. Which rows does a load
# without a mask reach, and what do you divide by?</details>

# %%
check("05.2")

# %% [markdown]
# The last check, *loads each element once*, is about the only thing that matters here. Triton's interpreter runs your kernel
# as Python, so every address that it loads can be written down:

# %%
import numpy as np

with attempt("05.2"):
    lab = load_lab("triton_kernels")
    whole = randn(np.random.default_rng(5), 4, 300).to(DEVICE)
    x, out = whole[:, :200], torch.empty(4, device=DEVICE)
    with Launches(lab, "row_mean_square_kernel") as launches, Loads() as loads:
        lab.row_mean_square(x, out)
    print(f"right: {torch.allclose(out, x.square().mean(dim=1))}, with {launches.count} launch")
    if DEVICE.type == "cpu":  # on a GPU nobody keeps a list
        print(f"{len(loads.all_addresses())} loads of {x.numel()} elements; of any one at most {loads.most_of(x)}; "
              f"from around them {loads.stray_of(x)}")

# %% [markdown]
# ## Norm without a second look
#
# $$\text{out}[n, i] = \text{weight}[i] \cdot x[n, i] \cdot \frac{1}{\sqrt{\text{mean}_j\, x[n, j]^2 + \text{eps}}}$$
#
# needs each `x` twice: for the mean, and for the product. Since the row is still in registers after the sum, the second use is
# free. That is all there is to fusion.
#
# ### 05.3 RMSNorm in one kernel
#
# *10 minutes · difficulty 2 · `rms_norm_kernel` and `rms_norm` in `labs/triton_kernels.py` · `check("05.3")`*
#
# Predict: how many times as long as a copy of x?
# <details><summary>Answer</summary>As long as a copy: x once in, out once out. The weight is read once, 16 KB, and then comes
# out of the cache for all other rows.</details>
#
# <details><summary>Hint 1</summary>Your 05.2, with <code>tl.rsqrt(mean_square + eps)</code> and a store of the whole
# block.</details>
# <details><summary>Hint 2</summary>Three pointers, two row strides (x and out), one mask. The weight is loaded at
# <code>weight_ptr + offsets</code>.</details>
# <details><summary>Passing the first check but failing the second?</summary>In the first all weights are 1.</details>

# %%
check("05.3")

# %% [markdown]
# A decoder adds before it norms: `residual = residual + x`, then `norm(residual)`. As two kernels these move five rows: x and
# the residual in, the sum out, the sum in again, the norm out. The fourth of them is silly.
#
# ### 05.4 Add to the stream, and norm it
#
# *10 minutes · difficulty 2 · `add_rms_norm_kernel` and `add_rms_norm` in `labs/triton_kernels.py` · `check("05.4")`*
#
# Predict: how much is saved?
# <details><summary>Answer</summary>One row of five, 20 %, and a launch. Small models feel the launch more.</details>
#
# <details><summary>Hint 1</summary>Load both, widen both, add. Store the sum where the residual was loaded; go on with the sum
# in registers, as in 05.3.</details>
# <details><summary>Passing the first check but failing the second?</summary>The first begins with a residual of zeros, to
# which x can be added by overwriting it.</details>

# %%
check("05.4")

# %% [markdown]
# ## Elements without neighbours
#
# The feed-forward part computes `silu(gate) * up`, where `gate` and `up` are two products of the same input. Engines stack the
# two matrices and multiply once, so that each token's row holds both:
#
# ```
#  gate_up[n]:   | gate 0 ... gate F-1 | up 0 ... up F-1 |
#  out[n]:       |    0   ...      F-1 |
# ```
#
# No element needs another one, so a program need not hold a row. That is just as well: F = 14,336 in Llama-3-8B, and a block
# that grows with its row ends up with more numbers than there are registers. Instead a row takes several programs, and the
# grid has two dimensions: `tl.program_id(0)` is the row, `tl.program_id(1)` the block within it.
#
# ### 05.5 SiLU and multiply
#
# *10 minutes · difficulty 2 · `silu_and_mul_kernel` and `silu_and_mul` in `labs/triton_kernels.py` · `check("05.5")`*
#
# Predict: as two kernels, `F.silu` and the product move five rows of F. As one?
# <details><summary>Answer</summary>Three: gate and up in, out out. 40 % saved.</details>
#
# <details><summary>Hint 1</summary>The <code>up</code> of an element lies <code>width</code> elements behind its gate: the same
# pointers, plus <code>width</code>, and the same mask.</details>
# <details><summary>Hint 2</summary><code>BLOCK = min(triton.next_power_of_2(width), MAX_BLOCK)</code> and a grid of
# <code>(rows, triton.cdiv(width, BLOCK))</code>.</details>
# <details><summary>Passing the first check but failing the second?</summary>In the first, gate and up are the same
# numbers.</details>

# %%
check("05.5")

# %% [markdown]
# ## Turning in place
#
# The rotation of lesson 01 turns the pair `(x[i], x[i + D/2])` of every query and key head by an angle of its token. Queries,
# keys and values come from one product too, so a token's row looks like this:
#
# ```
#  qkv[n]:   | q 0 | ... | q H-1 | k 0 | ... | k KH-1 | v 0 | ... |
#            |<----------- qk[n]: heads * D --------->|
#            |<------------------ qk.stride(0) ------------------>|
#
#  one head: | first half: i = 0 ... D/2 - 1 | second half: i + D/2 |
# ```
#
# To the rotation q and k are only heads. `qk` is a view of the front of these rows, and what lies behind it, the values, is
# nobody's business here. A program takes a token and a block of its heads, as a tile of two dimensions, heads by pairs:
# `tl.arange(0, HEADS_BLOCK)[:, None]` and `tl.arange(0, HALF_BLOCK)[None, :]` broadcast as they do in torch.
#
# In place means that the result overwrites its input. That is safe as long as each program loads what it needs before it
# stores, and no other program needs it.
#
# ### 05.6 Rotate queries and keys in place
#
# *15 minutes · difficulty 3 · `rotate_in_place_kernel` and `rotate_in_place` in `labs/triton_kernels.py` · `check("05.6")`*
#
# Predict: q and k in, q and k out. What do cos and sin add, with D = 128, bfloat16 and 64 heads?
# <details><summary>Answer</summary>A token's heads are 16 KB in and 16 KB out; 64 cosines and 64 sines in float32 are 512
# bytes: 1.6 %. Computing them from the position instead would save that, and cost a sine in each of thousands of
# programs.</details>
#
# <details><summary>Hint 1</summary>Pointers of the first halves: <code>qk_ptr + token * token_stride + head * D + pair</code>.
# The second halves lie D/2 further on. cos and sin lie at <code>token * HALF + pair</code>.</details>
# <details><summary>Hint 2</summary>Load <code>first</code> and <code>second</code>, then store
# <code>first * cos - second * sin</code> and <code>second * cos + first * sin</code>, all with
# <code>mask=(head &lt; heads) &amp; (pair &lt; HALF)</code>.</details>
# <details><summary>Hint 3</summary>Pass <code>HALF</code> and both block sizes as <code>tl.constexpr</code>. With many heads,
# <code>HEADS_BLOCK = MAX_BLOCK // (2 * HALF_BLOCK)</code> and a second dimension of the grid.</details>
# <details><summary>Passing the first check but failing the second?</summary>The first has D = 2, where neighbours and halves
# are the same.</details>

# %%
check("05.6")

# %% [markdown]
# ## A row too long for a block
#
# Softmax needs its row three times: for the maximum $m$, so that `exp` stays finite; for the sum $s$ of $e^{x - m}$; and
# to write $e^{x - m} / s$. A row in one block is loaded once, as before. A vocabulary of 128,256 is no such row. Three passes
# over memory? Two are enough, because a sum that was taken from an old maximum can be mended when a larger one turns up:
#
# $$e^{x - m_\text{new}} = e^{x - m_\text{old}} \cdot e^{m_\text{old} - m_\text{new}}
# \quad\Rightarrow\quad
# s_\text{new} = s_\text{old} \cdot e^{m_\text{old} - m_\text{new}} + \sum_{x \in \text{tile}} e^{x - m_\text{new}},
# \qquad m_\text{new} = \max(m_\text{old}, \max_{x \in \text{tile}} x)$$
#
# So one pass, tile after tile, keeps both up to date, and a second pass writes. In numbers, with tiles of two:
#
# | tile | $m$ | $s$ |
# |---|---|---|
# | 1, 3 | 3 | $e^{-2} + 1$ |
# | 2, 5 | 5 | $(e^{-2} + 1) \cdot e^{3 - 5} + e^{-3} + 1$ |
# | 4, 0 | 5 | that $\cdot\, e^{0} + e^{-1} + e^{-5}$ |
#
# **Where does $m$ start?** Mathematics says $-\infty$. Scores that are masked off are $-\infty$ too, and there are tiles of
# nothing else:

# %%
minus_infinity = torch.tensor(-float("inf"))
lowest = torch.tensor(torch.finfo(torch.float32).min)
print("exp(-inf - -inf):", (minus_infinity - minus_infinity).exp().item())
print("exp(-inf - lowest):", (minus_infinity - lowest).exp().item())

# %% [markdown]
# ### 05.7 Softmax of rows that fit nowhere
#
# *20 minutes · difficulty 4 · `online_softmax_kernel` and `online_softmax` in `labs/triton_kernels.py` · `check("05.7")`*
#
# Predict: how much longer than a copy?
# <details><summary>Answer</summary>x goes in twice and out once: half as long again, if the row has left the cache by the time
# of the second pass. The cache of an H100 has 50 MB. 8192 columns of bfloat16 are 16 KB, so the rows that are being worked on
# stay there, and the second pass costs little; 131,072 columns in hundreds of programs do not.</details>
#
# <details><summary>Hint 1</summary>A loop in a kernel is <code>for start in range(0, columns, TILE):</code>. What it carries
# from round to round are scalars such as <code>tl.full((), 0.0, tl.float32)</code>.</details>
# <details><summary>Hint 2</summary>Masked-off lanes must not count: <code>other=-float("inf")</code>, for exp(-inf) is
# 0.</details>
# <details><summary>Hint 3</summary>On a GPU a kernel sees numbers of the module only as <code>tl.constexpr</code>:
# <code>LOWEST = tl.constexpr(torch.finfo(torch.float32).min)</code> above it. (The interpreter does not mind.)</details>
# <details><summary>Passing the first check but failing the second?</summary>The first has one tile, and it is
# full.</details>

# %%
check("05.7")

# %% [markdown]
# Partial sums that can be brought to a common maximum can also be computed apart and merged afterwards, in any order. Keep that
# in mind: attention is a softmax times a matrix, and lesson 06 does exactly this with it.
#
# ## Measured
#
# Everything here was about bandwidth, so that is what the figure shows: the bytes that must move, each once, over the time
# taken, for bfloat16 and 8192 × 8192 elements. `copy` is torch's own copy of such a matrix; the dashed line is a copy of 1 GiB in
# the same run. Beside this lesson's kernels stand the same formulas in plain torch and under `torch.compile`, which writes
# Triton kernels itself, and the kernels of two libraries: Liger (Triton) and FlashInfer (CUDA). `make timings` on a GPU
# measures yours.

# %%
from IPython.display import Image, display

from common.lessons.triton_kernels import copy_timings, figures, row_timings
from common.lessons.triton_kernels.row_cases import LESSON
from common.measure import TIMINGS, plots, style, tables

folder = TIMINGS / "h100"
if row_timings.TABLE.file(folder).exists():
    rows = tables.read(row_timings.TABLE, folder)
    figure = plots.find("row_kernels", figures.FIGURES)
    display(Image(style.png(plots.draw(figure, folder)), alt=(
        "Left: terabytes per second of each row kernel of this lesson and of its peers on an H100, with the rate of a copy as "
        "limit. Right: the time of rms_norm from 1 to 8192 rows, measured, predicted, and at the limit.")))
    large = rows[rows.time.notna() & (rows.bytes >= 1e8)].set_index(["kernel", "columns", "implementation"])
    rates = large.bytes_per_second.unstack(sort=False).rename_axis(columns="TB/s")
    print((rates / 1e12).rename(columns={LESSON: "ours"}).to_string(float_format="{:.2f}".format, na_rep=""), "", sep="\n")
    ours = rows[(rows.implementation == LESSON) & rows.time.notna()]
    print("this lesson's:", ours[["kernel", "rows", "columns"]].assign(
        predicted_us=1e6 * ours.predicted, measured_us=1e6 * ours.time, of_a_copy=ours.share_of_copy.map("{:.0%}".format)
    ).to_string(index=False, float_format="{:.1f}".format), "", sep="\n")
    for reason, gone in rows[rows.time.isna()].groupby("absent"):
        print("absent:", ", ".join(f"{one.implementation} ({one.kernel})" for one in gone.itertuples()), "-", reason)
else:
    print("No row kernels have been measured on an H100 yet: `make timings` on one does it.")

# %% [markdown]
# How to read it. A kernel near the dashed line is done: nothing that it could do better would show. For the norms and the
# rotation the distance to plain torch is about what the count of bytes foretold. For `silu_and_mul` (2.7 times, foretold 1.7)
# and softmax (2.8, foretold 1) torch's kernels also move their bytes slowly, which a count does not show.
#
# `row_mean_square`, which writes next to nothing, stays at 82 % of a copy's rate, and the loop that `torch.compile` makes of it
# reaches 91 %. Two of this lesson's kernels were improved after this measurement: `silu_and_mul` takes larger blocks, and
# `online_softmax` no longer loads a row again that fits into one block.
#
# The right-hand panel shows the other end of the formula: with few rows a kernel takes as long as a launch, whatever it moves,
# and there fusing pays by saving launches. In between the formula says too little (by 44 % at 128 rows, 30 % at 1024): a kernel's
# start and its bytes overlap less than the maximum of both assumes. A decoder that generates one
# token for one request lives at that end.
#
# ## The model speaks
#
# `Parts` puts your kernels into the decoder of `common/model/llama.py`. Three small classes adapt them: the decoder expects
# new tensors, so they make the `out`; and it calls the rotation for q and for k apart, which your kernel does not mind.

# %%
from types import SimpleNamespace

import torch.nn.functional as F

from common.model.attention import CausalAttention
from common.model.generate import generate
from common.model.llama import Llama, Parts, RMSNorm, Rotary, SwiGLU
from common.oracles.generation import CPU, oracle, story_model


class YourNorm(RMSNorm):
    def forward(self, x):
        out = torch.empty_like(x)
        lab.rms_norm(x, self.weight, self.eps, out)
        return out


class YourRotary(Rotary):
    def forward(self, positions):
        angle = torch.outer(positions.float(), self.frequency)
        return angle.cos(), angle.sin()  # (N, half); the decoder hands both on to `rotate`

    @staticmethod
    def rotate(x, cos, sin):
        lab.rotate_in_place(x, cos, sin)
        return x


class YourSwiGLU(SwiGLU):
    def forward(self, x):
        weights = torch.cat((self.gate_proj.weight, self.up_proj.weight))  # an engine does this once, at loading
        gate_up = F.linear(x, weights)
        out = torch.empty_like(gate_up[:, :gate_up.shape[1] // 2])
        lab.silu_and_mul(gate_up, out)
        return self.down_proj(out)


prompt = tokenizer.encode("The red kite was in the")
with attempt("05.3", "05.5", "05.6"):
    lab = SimpleNamespace(rms_norm=part("05.3"), silu_and_mul=part("05.5"), rotate_in_place=part("05.6"))
    yours = load_model(STORY_LLAMA, device=DEVICE, parts=Parts(norm=YourNorm, rotary=YourRotary, mlp=YourSwiGLU))
    spoken = list(generate(yours, prompt, 6))
    expected, _ = oracle(story_model(CPU), prompt, 6)
    print(tokenizer.decode(prompt) + "|" + tokenizer.decode(spoken))
    print(f"the same tokens as the course's decoder: {spoken == expected}")

# %% [markdown]
# How many kernels does a token take?

# %%
with attempt("05.3", "05.5", "05.6"):
    lab = load_lab("triton_kernels")
    with Launches(lab, "rms_norm_kernel") as norms, Launches(lab, "silu_and_mul_kernel") as gates, \
            Launches(lab, "rotate_in_place_kernel") as turns:
        list(generate(yours, prompt, 6))
    print(f"launches for each token: {norms.count // 6} norms, {gates.count // 6} gates, {turns.count // 6} rotations")

# %% [markdown]
# Where is 05.4? `DecoderLayer` adds by itself, so the sum and the norm stay two kernels there. An engine writes its decoder
# around the kernels instead. This one is the same model with the same weights: one product gives q, k and v, one gives
# gate and up, and the residual stream is only ever touched by `add_rms_norm`, which hands each part its normed input.

# %%
from contextlib import ExitStack


class PackedLlama(Llama):
    def forward(self, token_ids, positions, attention):
        config, (cos, sin) = self.config, self.rotary(positions)
        rotated = config.n_heads + config.n_kv_heads
        residual = self.embed_tokens(token_ids)
        x, gated = torch.empty_like(residual), residual.new_empty(len(residual), config.ffn_dim)
        lab.rms_norm(residual, self.layers[0].input_layernorm.weight, config.norm_eps, x)
        next_norms = [*(layer.input_layernorm for layer in self.layers[1:]), self.norm]
        for index, (layer, next_norm) in enumerate(zip(self.layers, next_norms, strict=True)):
            attn, mlp = layer.self_attn, layer.mlp
            qkv = F.linear(x, torch.cat([part.weight for part in (attn.q_proj, attn.k_proj, attn.v_proj)]))
            qkv = qkv.unflatten(-1, (-1, config.head_dim))
            lab.rotate_in_place(qkv[:, :rotated], cos, sin)
            q, k, v = qkv.split((config.n_heads, config.n_kv_heads, config.n_kv_heads), dim=1)
            attended = attn.o_proj(attention(index, q, k, v).flatten(-2))
            lab.add_rms_norm(attended, residual, layer.post_attention_layernorm.weight, config.norm_eps, x)
            lab.silu_and_mul(F.linear(x, torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight))), gated)
            lab.add_rms_norm(mlp.down_proj(gated), residual, next_norm.weight, config.norm_eps, x)
        return x


with attempt("05.3", "05.4", "05.5", "05.6"):
    lab = load_lab("triton_kernels")
    packed = PackedLlama(config, Parts(rotary=YourRotary)).to(DEVICE)
    packed.load_state_dict(model.state_dict())
    ids = torch.tensor(tokenizer.encode("The red kite was in the orchard."), device=DEVICE)
    inputs = ids, torch.arange(len(ids), device=DEVICE), CausalAttention()
    kernels = ("rms_norm", "add_rms_norm", "silu_and_mul", "rotate_in_place")
    with ExitStack() as stack, torch.inference_mode():
        counters = [stack.enter_context(Launches(lab, f"{name}_kernel")) for name in kernels]
        your_logits, logits = (one.logits(one(*inputs)) for one in (packed, model))
    print(f"logits agree to 1e-3: {torch.allclose(your_logits, logits, atol=1e-3)}")
    print(", ".join(f"{counter.count} x {name}" for counter, name in zip(counters, kernels, strict=True)))

# %% [markdown]
# 25 launches, where the decoder above needs 31 and twelve additions besides. That counts for small models: a call of this one
# takes milliseconds on an H100 (lesson 02), in which the GPU mostly waits for the CPU to launch the next thing.
#
# ## The same in CUDA C++
#
# Triton thinks in blocks, CUDA in threads. Here is RMSNorm for bfloat16 once more, from `common/kernels/row_kernels.cu`. A block
# of 512 threads takes a row, as a Triton program does. What Triton decided by itself is now spelt out:

# %%
from common import ROOT

source = (ROOT / "common" / "kernels" / "row_kernels.cu").read_text()
print(source[source.index("// The sum over all"):source.index("__device__ float silu")].rstrip())

# %% [markdown]
# - *Which thread loads what.* Thread t takes pack t, t + 512, ... of 16 bytes. Neighbours load neighbours, so that the 32
#   loads of a warp are one request of 512 bytes. Triton derives this from your `tl.arange`.
# - *How wide a load is.* `uint4` asks for 16 bytes. With a struct of eight bfloat16 in its place the compiler made four loads of
#   4 bytes out of it, quietly. Triton looks at what it knows of pointers and strides (`x.stride(0)` is a multiple of 16? then
#   yes) and takes the widest load that is allowed.
# - *How a sum is made.* `tl.sum` is `block_sum`: shuffles within a warp, shared memory and a barrier between the warps.
# - *What is missing.* Masks for widths that are no multiple of 8, strides, other dtypes. In Triton these were a mask and an
#   argument; here each is another kernel, or a template parameter. `check_packs` in `cuda_row_kernels.py` refuses them.
#
# The launcher compiles the file by `torch.utils.cpp_extension.load_inline`. On a GPU the next cell does so, and compares:

# %% tags=["live"]
if DEVICE.type == "cpu":
    print("Skipped: CUDA C++ runs on a GPU alone, and this process computes on the CPU.")
else:
    from common.kernels import cuda_row_kernels
    x, weight, gate_up = (torch.randn(shape, device=DEVICE).bfloat16()
                          for shape in ((1000, 4104), (4104,), (1000, 8208)))
    norm, gated = torch.empty_like(x), torch.empty_like(x)
    cuda_row_kernels.rms_norm(x, weight, row_formulas.EPS, norm)
    cuda_row_kernels.silu_and_mul(gate_up, gated)
    for name, out, (formula,) in (("rms_norm", norm, row_formulas.normed(x, weight)),
                                  ("silu_and_mul", gated, row_formulas.gated(gate_up))):
        error = (out.float() - formula.float()).abs().max().item()
        print(f"{name}: largest difference from plain torch {error:.2g}, of {formula.abs().max().item():.2g}")

# %% [markdown]
# ## Getting there and back
#
# All this assumes that the data is on the GPU already. Between the host's memory and the GPU's lies a bus that is many times
# slower than the GPU's memory, and how the data lies in the host's memory makes a large difference:
#
# - *Pageable* memory is what `torch.empty` gives. The operating system may move it, so the driver first copies it into a buffer
#   of its own, and the GPU fetches it from there.
# - *Pinned* memory (`pin_memory=True`) stays where it is: the GPU fetches it without help, while the CPU does something else.
# - A *column* is not adjacent. Here it is every 64th number of a float32 matrix. Memory moves in pieces of 32 bytes on the GPU and
#   64 on the CPU, so most of every piece is thrown away.

# %%
if copy_timings.TABLE.file(folder).exists():
    rows = tables.read(copy_timings.TABLE, folder)
    figure = plots.find("copies", figures.FIGURES)
    display(Image(style.png(plots.draw(figure, folder)), alt=(
        "Left: the time of copies between host and GPU against their size, from pageable and from pinned memory, both axes "
        "logarithmic: flat while they are small, then proportional. Right: gigabytes per second of whole tensors and of "
        "one column of 64, from the host and within the GPU.")))
    rows = rows.assign(bytes=rows.bytes.astype(int)).sort_values("bytes")
    for names, of in rows.groupby(["direction", "host_memory", "layout"], sort=False):
        first, last = of.iloc[0], of.iloc[-1]
        print(f"{', '.join(name for name in names if name != 'none'):32} {1e6 * first.time:5.1f} µs for {first.bytes} B, "
              f"{last.bytes / last.time / 1e9:6.1f} GB/s for {last.bytes >> 20} MiB")
    print("Bytes count once here, though a copy within the GPU reads and writes them.")
else:
    print("No copies have been measured on an H100 yet: `make timings` on one does it.")

# %% [markdown]
# For a few bytes pageable memory is no slower than pinned memory. From some 64 KiB on it is, in the end by a factor of 4. A
# column reaches a small share of either rate.
#
# Every copy pays for its start, however small it is: a thousand small copies cost a thousand starts, one large one costs one.
# That is why an engine moves token ids for all requests together, and keeps the sampled ones on the GPU while it can.
#
# ## Where this loses
#
# - A row in one block ends at 65,536 columns, and long before that the registers run out. Then it takes tiles, as in 05.7, or
#   several programs a row with a second launch.
# - Small shapes: one row of 256 numbers keeps a single warp busy, and all others idle. Several rows a program help the
#   bandwidth, and nothing helps the launch but fewer launches: CUDA graphs record a whole pass and launch it once.
# - The best fusion is into the matrix products themselves: a product that applies SiLU to its result before it stores it saves
#   gate and up the trip altogether. Attention, lesson 06, is that idea at its best.
#
# Production engines have exactly these kernels. vLLM's `rms_norm`, `fused_add_rms_norm`, `silu_and_mul` and
# `rotary_embedding` are CUDA C++ with these very contracts (packed inputs, `out` from the caller, the residual in place), and
# newer variants quantise to 8 bits in the same pass, or write the rotated keys straight into the cache. FlashInfer has them as a
# library, Liger has them for training, with the backward pass.
#
# **Next**: run `make grade LAB=05` in a terminal. Then lesson 06: attention that never writes its scores to memory.
#
# **Sources**: Triton, Tillet, Kung and Cox 2019, *Triton: An Intermediate Language and Compiler for Tiled Neural Network
# Computations*; the roofline, Williams, Waterman and Patterson 2009, *Roofline: An Insightful Visual Performance Model for
# Multicore Architectures*; RMSNorm, Zhang and Sennrich 2019, *Root Mean Square Layer Normalization*; SwiGLU, Shazeer 2020, *GLU
# Variants Improve Transformer*; rotary, Su et al. 2021, *RoFormer: Enhanced Transformer with Rotary Position Embedding*; the
# online softmax, Milakov and Gimelshein 2018, *Online normalizer calculation for softmax*; Liger, Hsu et al. 2024, *Liger Kernel:
# Efficient Triton Kernels for LLM Training*; FlashInfer, Ye et al. 2025, *FlashInfer: Efficient and Customizable Attention Engine
# for LLM Inference Serving*; CUDA's memory, NVIDIA, *CUDA C++ Best Practices Guide*, chapter on memory optimizations.
