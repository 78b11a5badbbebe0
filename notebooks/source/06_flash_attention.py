# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 06 · Flash attention
#
# **You will build** the kernel on which every large model spends its long texts: attention that is exact, and whose
# scores never reach memory. First as a sum over partial softmaxes, then tile by tile in torch, then in Triton: grouped
# heads, packed batches, windows, and at last the backward pass. The story model speaks through your kernel in the end.
#
# 120 minutes · difficulty 2–5 of 5 · you need: what queries, keys and values are (lesson 01), and to have seen a Triton
# kernel with a mask (00.3 will do). No GPU: Triton's interpreter runs it all, about 8 ms for each tile.
#
# ```
#   plain                                    in tiles
#
#   q k^T  -> scores (Nq x Nk) -> memory     for each tile of queries:
#   memory -> softmax -> p     -> memory         for each tile of keys:
#   memory -> p v -> out                             scores, p, acc += p v
#                                                out = acc / sum of p
#
#   three kernels, and four trips of         one kernel; the scores of a tile
#   Nq x Nk numbers between them             live and die on the chip
# ```
#
# **Shapes and names**
#
# | letter | meaning |
# |---|---|
# | `Nq`, `Nk` | queries and keys: packed, sequence after sequence |
# | `H`, `KH` | query heads, key/value heads; query head `h` reads key/value head `h // (H // KH)` |
# | `D` | width of one head |
# | `scores`, `p` | $q k^\top \cdot$ `scale`, and its exponentials: never whole, only a tile of `Q_TILE` × `K_TILE` |
# | `lse` | natural logarithm of the sum of $e^{\text{score}}$ of a row, (Nq, H) |
#
# You write `labs/flash_attention.py`.

# %%
import torch

from common import model_folder
from common.device import DEVICE
from common.model.checkpoint import load_model
from common.model.tokenizer import Tokenizer
from common.notebook import attempt, check, load_lab, part
from common.oracles.attention import causal_mod, plain_attention, segments

model, tokenizer = load_model(model_folder(), device=DEVICE), Tokenizer(model_folder())

# %% [markdown]
# ## What attention waits for
#
# Attention over $N_q$ queries and $N_k$ keys takes $4\, N_q N_k D H$ operations (lesson 02). On an H100, at some 775
# TFLOP/s, that is soon done. What takes time is the matrix in the middle. The plain formula, one torch operation after
# the other, writes `scores` to memory, reads it for the softmax, writes `p`, and reads that for the product with `v`: four
# trips of $H N_q N_k$ numbers, while `q`, `k`, `v` and `out` together are only about $4 H N D$.
#
# A GPU has a small, fast memory on the chip (an H100 has 228 KB of shared memory and 256 KB of registers on each of its 132
# multiprocessors). If a *tile* of scores is made there, used there and forgotten there, none of these trips happens. The
# price: each tile of queries reads all keys and values again.
#
# ### 06.1 The bytes of attention
#
# *10 minutes · difficulty 2 · `attention_bytes` in `labs/flash_attention.py` · `check("06.1")`*
#
# Write both counts down, as the docstring defines them.
#
# <details><summary>Hint 1</summary>Plain, in elements: (q + k + scores) + (scores + p) + (p + v + out). With grouped heads
# <code>q</code>, <code>out</code> and <code>scores</code> have <code>heads</code> heads, <code>k</code> and
# <code>v</code> only <code>kv_heads</code>.</details>
# <details><summary>Hint 2</summary>Tiled: <code>heads * ceil(nq / q_tile)</code> programs, each of which loads all
# <code>nk</code> keys and values of one head. Together they read <code>q</code> once and write <code>out</code>
# once.</details>
# <details><summary>Passing the first check but failing the second?</summary>The first has one head and one tile, so that
# keys and values are read once.</details>

# %%
check("06.1")

# %% [markdown]
# What would that mean on an H100 (3.0 TB/s of memory bandwidth, 775 TFLOP/s, Llama-3-8B's 32 heads of 128 and 8 key/value
# heads, bf16, tiles of 128 queries)?

# %%
with attempt("06.1"):
    lab = load_lab("flash_attention")
    for n in (512, 2048, 8192, 32_768):
        plain, tiled = lab.attention_bytes(n, n, 32, 8, 128, element_bytes=2, q_tile=128)
        computing = 4 * n * n * 128 * 32 / 775e12
        print(f"{n:6,}: plain {plain / 1e9:6.2f} GB, {1e3 * plain / 3e12:5.2f} ms; "
              f"tiled {tiled / 1e9:5.2f} GB, {1e3 * tiled / 3e12:5.2f} ms; computing {1e3 * computing:5.2f} ms")

# %% [markdown]
# Plain attention waits for memory about four times as long as it computes, at any length: both grow with $N^2$. In
# tiles of 128 queries the bytes are half of that. It would still be more than the arithmetic takes, if nothing were ever
# found in a cache. But it is: an H100 keeps 50 MB of what was read last, and programs that run side by side read the same
# keys. The last figures of this lesson show what is left of both predictions.
#
# ## Softmax in parts
#
# Can a softmax be computed without seeing all scores at once? Split the keys into two sets, $a$ and $b$, and let each have
# attended alone:
#
# $$\text{lse}_a = \log \sum_{j \in a} e^{s_j}, \qquad \text{out}_a = \sum_{j \in a} e^{s_j - \text{lse}_a}\, v_j,$$
#
# and the same for $b$. The softmax over both has the denominator $e^{\text{lse}_a} + e^{\text{lse}_b}$, so
#
# $$\text{lse} = \log\left(e^{\text{lse}_a} + e^{\text{lse}_b}\right), \qquad
# \text{out} = e^{\text{lse}_a - \text{lse}}\, \text{out}_a + e^{\text{lse}_b - \text{lse}}\, \text{out}_b .$$
#
# Nothing is approximate here. And since the merge of two is again an (`out`, `lse`), any number of parts can be merged in
# any order. That is why every attention kernel worth its name returns `lse`.
#
# ### 06.2 Merge two partial softmaxes
#
# *10 minutes · difficulty 2 · `merge` in `labs/flash_attention.py` · `check("06.2")`*
#
# <details><summary>Hint 1</summary><code>torch.logaddexp</code> is log(exp(a) + exp(b)) without ever computing exp(a). The
# weights are <code>(lse_a - lse).exp()[..., None]</code> and likewise for b.</details>
# <details><summary>Hint 2</summary>A query that saw no key has <code>lse = -inf</code>. Where that is so in both sets,
# -inf - -inf is NaN: subtract 0 there instead.</details>
# <details><summary>Passing the first check but failing the second?</summary>exp ends at 88 in float32, and an lse may be
# 500.</details>

# %%
check("06.2")

# %%
import itertools

torch.manual_seed(0)
q, k, v = (torch.randn(40, 2, 16) for _ in range(3))
whole, _ = plain_attention(q, k, v)
parts = [plain_attention(q, k[keys], v[keys]) for keys in (slice(0, 7), slice(7, 30), slice(30, 40))]
parts = [(out.float(), lse.float()) for out, lse in parts]
with attempt("06.2"):
    lab = load_lab("flash_attention")
    for order in itertools.permutations(range(3)):
        first, second, third = (parts[index] for index in order)
        out, lse = lab.merge(*lab.merge(*first, *second), *third)
        print(f"parts merged in the order {order}: as all keys at once: {torch.allclose(out.double(), whole, atol=1e-6)}")

# %% [markdown]
# Three uses of this formula in engines: *split-K decoding* (one new query and 100,000 keys leave a GPU idle, unless many
# programs take some of the keys each), *shared prefixes* (the system prompt's keys are attended to once for all requests,
# and merged with each one's own), and *ring attention* (keys spread over several GPUs).
#
# ## The online softmax
#
# A kernel that walks over the tiles of keys could merge after each one. It saves a division per tile by keeping the sum
# undivided, and relative to the largest score so far. Three things are carried from tile to tile, for each row:
#
# | name | what it is | new value |
# |---|---|---|
# | `row_max` | largest score so far | `new_max = max(row_max, max(scores))` |
# | `row_sum` | sum of `exp(score - row_max)` so far | `row_sum * rescale + sum(p)` |
# | `acc` | sum of `exp(score - row_max) * v` so far | `acc * rescale + p @ v` |
#
# with `p = exp(scores - new_max)` and `rescale = exp(row_max - new_max)`: what was added up under the old maximum is too
# large by that factor. No exponent is ever positive, so nothing overflows, however large the scores. At the end
# `out = acc / row_sum` and `lse = row_max + log(row_sum)`.
#
# A row that has seen no key yet would have `row_max = -inf`, and then `-inf - -inf` is NaN. Begin with a finite number below
# all scores instead, such as `-1e30`: hidden keys get `exp(-inf) = 0`, and a row that never sees a key ends with
# `row_sum = 0`. For such a row we define `out = 0` and `lse = -inf`, which is what `merge` needs.
#
# ### Masks and biases: `score_mod`
#
# Most variants of attention change a score by where its query and key are:
#
# | variant | score of query $i$ and key $j$ becomes |
# |---|---|
# | causal | $-\infty$ if $j > i + N_k - N_q$: the last query sees the last key |
# | sliding window of $w$ | also $-\infty$ if $j \le i + N_k - N_q - w$ |
# | ALiBi | $s - \text{slope}_h \cdot \lvert i - j \rvert$ |
# | relative position bias | $s + \text{table}_h[j - i]$ |
# | prefix mask | causal, but all see the first keys |
#
# A function of (scores of a tile, numbers of its queries, numbers of its keys) expresses all of them, and no matrix of all
# pairs is needed.
#
# ### 06.3 Attention in tiles, in torch
#
# *25 minutes · difficulty 3 · `tiled_attention` in `labs/flash_attention.py` · `check("06.3")`*
#
# <details><summary>Hint 1</summary>Two loops: <code>for queries in torch.arange(nq).split(q_tile)</code>, and inside one
# over the keys. <code>q[queries].transpose(0, 1)</code> is (H, q_tile, D), so that <code>@</code> multiplies head by
# head.</details>
# <details><summary>Hint 2</summary><code>k[keys].transpose(0, 1).repeat_interleave(H // KH, 0)</code> gives each query
# head its key head: <code>repeat</code> would give them in another order.</details>
# <details><summary>Hint 3</summary><code>score_mod</code> comes after the scale and before the maximum.</details>
# <details><summary>Passing the first check but failing the second?</summary>The first has a single tile: <code>rescale</code>
# is never used.</details>

# %%
check("06.3")

# %% [markdown]
# How much memory does it take? Counted are numbers that are alive at the same time, beside `q`, `k` and `v`:

# %%
from common.checking.watch import PeakMemory

with attempt("06.3"):
    lab = load_lab("flash_attention")
    for n in (256, 512, 1024):
        q, k, v = (torch.randn(n, 1, 16) for _ in range(3))
        with PeakMemory() as plain:
            torch.softmax(q[:, 0] @ k[:, 0].T / 4, -1) @ v[:, 0]
        with PeakMemory() as tiled:
            lab.tiled_attention(q, k, v, causal_mod(n, n))
        allowed = 8 * (16 * n + 32 * 32)
        print(f"{n:5} tokens: plain {plain.peak:9,} numbers; tiled at most {allowed:7,}: {tiled.peak <= allowed}")

# %% [markdown]
# The plain way quadruples with every doubling of the text. Yours grows as `out` does, which has to be somewhere.
#
# ## The kernel
#
# In Triton a *program* takes the place of the outer loop: one tile of `Q_TILE` queries of one head. The inner loop is the
# one that you have just written, in another dialect:
#
# | torch | Triton |
# |---|---|
# | `for queries in ...split(q_tile)`, all heads | `tl.program_id(...)`: which tile, which head |
# | `q[queries]` | `q_desc.load([first, head, 0]).reshape(Q_TILE, D_PAD)` |
# | `q_rows @ k_rows.mT` | `tl.dot(q, tl.trans(k), input_precision="ieee")`, float32 out of half-precision factors |
# | `torch.maximum`, `.amax(-1)`, `.sum(-1)` | `tl.maximum`, `tl.max(x, 1)`, `tl.sum(x, 1)` |
# | `.exp()` | `tl.math.exp2`, on scores times `scale * log2(e)` |
# | `acc * rescale + p @ v` | `tl.dot(p.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")` |
#
# `input_precision="ieee"` is for GPUs, which would otherwise multiply float32 as TF32, with 10 bits of mantissa. The
# interpreter does not mind.
#
# Six things make it a kernel and not a translation:
#
# 1. **exp2.** A GPU computes $2^x$, not $e^x$. Since $e^{s} = 2^{s \log_2 e}$, multiply `scale` by $\log_2 e$ outside. Then
#    `scores * scale_log2 - new_max` is one fused multiply-add, and the maximum is kept in these units too. `lse` is to be
#    natural: multiply by `LN_2` at the end.
# 2. **float32 where sums grow.** The factors of a product may be half precision; `acc`, `row_sum` and `row_max` may not. In
#    float16, 65,504 is the end; in bfloat16, $256 + 1 = 256$.
# 3. **Tiles by descriptor.** A *descriptor* says once where a tensor lies: its address, shape and strides, and the size of a
#    tile. `desc.load([row, head, 0])` fetches the tile that begins there, with 0 where the tensor ends. So no load needs
#    strides or a mask; a head dim of 80 arrives as `D_PAD` = 128, the power of two that `tl.dot` wants. On a Hopper GPU a
#    copy engine (TMA) does the work, and no thread spends registers on addresses. `describe` (given) makes a descriptor.
#    Blocks of pointers with masks, as in lesson 00, are as right, and slower there.
# 4. **Edges.** A descriptor knows where the tensor ends, not where a sequence in it does. Give scores of keys that are not
#    there $-\infty$. If their `v` may be anything, it has to become 0 as well: $0 \cdot \text{NaN}$ is NaN. Stores go by
#    pointers, with a mask: what follows your rows belongs to another program.
# 5. **Strides.** `q` is often a slice of one large product with `k` and `v`. Descriptors know that; pointers have to be
#    computed from `stride(0)` and `stride(1)`.
# 6. **Grouped heads.** A program of query head `h` reads key/value head `h // group`.
#
# `tiles` (given) says how large a tile is: 32 × 32 on a CPU, since the interpreter takes about 8 ms for a tile of any size;
# larger on a GPU. bfloat16 works on a GPU only: the interpreter would multiply its bit patterns.
#
# ### 06.4 The kernel, for one sequence
#
# *35 minutes · difficulty 4 · `flash_attention_kernel` and `attention` in `labs/flash_attention.py` · `check("06.4")`*
#
# The kernel in the stub has the arguments that 06.5 will need. For now there is one sequence: `cu_seqlens` are (0, Nq) and
# (0, Nk), or you pass `nq` and `nk` in their place. Begin with a full square tile, and let the checks lead you on: they come in the order in
# which such kernels are written.
#
# <details><summary>Hint 1: tiles</summary><code>tile, head = tl.program_id(0), tl.program_id(1)</code>, and
# <code>heads = tl.num_programs(1)</code>, for the grid has one column per head.
# <code>q = q_desc.load([first, head, 0]).reshape(Q_TILE, D_PAD)</code> with <code>first = tile * Q_TILE</code>. To store,
# <code>queries = first + tl.arange(0, Q_TILE)</code>, <code>dims = tl.arange(0, D_PAD)</code>, the pointers
# <code>out_ptr + (queries[:, None] * heads + head) * D + dims[None, :]</code>, and the mask
# <code>(queries &lt; nq)[:, None] &amp; (dims &lt; D)[None, :]</code>.</details>
# <details><summary>Hint 2: the state</summary><code>acc = tl.zeros([Q_TILE, D_PAD], tl.float32)</code>,
# <code>row_sum = tl.zeros([Q_TILE], tl.float32)</code>, <code>row_max = tl.full([Q_TILE], -1e30, tl.float32)</code>; then
# <code>for start in range(0, nk, K_TILE)</code>.</details>
# <details><summary>Hint 3: the launch</summary><code>config = tiles(D, q.dtype, q.device)</code> has
# <code>Q_TILE</code> and <code>K_TILE</code>. Then
# <code>flash_attention_kernel[triton.cdiv(nq, config["Q_TILE"]), heads, 1](...)</code> with
# <code>describe(q, config["Q_TILE"])</code>, <code>describe(k, config["K_TILE"])</code> and so on, 0 for a window that is
# not there, <code>D_PAD=triton.next_power_of_2(D)</code> and <code>**config</code>. If you write the launch
# in <code>flash_attention</code> at once, <code>attention</code> is that with a batch of one.</details>
# <details><summary>Passing the first check but failing the second?</summary>One tile of keys needs no
# <code>rescale</code>.</details>

# %%
check("06.4")

# %% [markdown]
# ### What a wrong kernel looks like
#
# A largest error of 0.8 says little. *Where* it is says a lot. So give the kernel values that tell: `v[j]` is 0, with a 1 in
# column `j // 32`. Then column `c` of `out` is the weight that a query gave to the `c`-th tile of keys, and every tile can be
# held against the formula. Here are three famous mistakes, made on purpose in torch, at 160 queries that follow 90 earlier
# keys:

# %%
from IPython.display import Image, display

from common.lessons.flash_attention.tile_pictures import picture_of_errors, picture_of_loads
from common.lessons.flash_attention.tile_traces import loaded_blocks, loads_show, weights_show
from common.measure import style

torch.manual_seed(0)
nq, nk = 160, 250
q, k = 2 * torch.randn(nq, 1, 16), torch.randn(nk, 1, 16)
traces = weights_show(torch.zeros(nk, 1, 16))
exact = plain_attention(q, k, traces, causal_mod(nq, nk))[0][:, 0, :8]


def wrong(mistake: str) -> torch.Tensor:
    """The weights of the tiles, (nq, 8), with one mistake."""
    shift = 0 if mistake == "aligned top-left" else nk - nq
    hide = torch.arange(nk) > torch.arange(nq)[:, None] + shift
    scores = (q[:, 0] @ k[:, 0].T / 4).masked_fill(hide, -torch.inf)
    acc, row_sum, row_max = torch.zeros(nq, 16), torch.zeros(nq, 1), torch.full((nq, 1), -1e30)
    for start in range(0, nk // 32 * 32 if mistake == "tail dropped" else nk, 32):
        tile = scores[:, start : start + 32]
        new_max = torch.maximum(row_max, tile.amax(1, keepdim=True))
        p, rescale = (tile - new_max).exp(), (row_max - new_max).exp()
        row_sum, row_max = row_sum * rescale + p.sum(1, keepdim=True), new_max
        acc = acc * (1 if mistake == "acc not rescaled" else rescale) + p @ traces[start : start + 32, 0]
    return (acc / row_sum)[:, :8]


mistakes = ("aligned top-left", "tail dropped", "acc not rescaled")
display(Image(style.png(picture_of_errors([(mistake, (wrong(mistake) - exact).abs()) for mistake in mistakes])), alt=(
    "Three heat maps of the error of each tile of queries and keys. Aligned top-left: large errors in nearly all tiles up to "
    "the true diagonal. Tail dropped: errors in the last row of tiles only. Acc not rescaled: errors in the first tiles of "
    "keys, and none in the last ones.")))

# %% [markdown]
# *Aligned top-left*: wrong in all rows up to the true diagonal, since the keys that should be seen last get nothing. *Tail
# dropped*: only the rows that see the last keys are wrong; what the tail should have got is spread over the others. *Not
# rescaled*: what came before a row's largest score weighs too much; the last tiles, after it, are right. And yours:

# %%
with attempt("06.4"):
    lab = load_lab("flash_attention")
    out, _ = lab.attention(*(x.to(DEVICE) for x in (q, k, traces)), causal=True)
    error = (out[:, 0, :8].cpu() - exact).abs()
    print(f"largest error of any of {5 * 8} tiles below 1e-5: {bool(error.max() < 1e-5)}")
    if not error.max() < 1e-5:
        display(Image(style.png(picture_of_errors([("yours", error)])), alt="Where the lab's kernel is wrong."))

# %% [markdown]
# ## Packed batches, windows, and tiles that are never loaded
#
# An engine hands over many requests at once, in one row, without padding: sequence $s$ has the queries
# `cu_seqlens_q[s]` to `cu_seqlens_q[s + 1]`, and its own keys. The grid gets one more dimension, with room for the longest
# sequence; programs that begin beyond the end of theirs return at once.
#
# Under a causal mask half of all tiles are empty, and behind a window of $w$ nearly all. Masking them is right, and wastes
# the time. For queries `first` to `last`, and with `shift = nk - nq`,
#
# $$\text{begin} = \max(0,\ \text{first} + \text{shift} - w + 1), \qquad
# \text{end} = \min(nk,\ \text{last} + \text{shift} + 1)$$
#
# is all that a tile of queries needs. Most of the tiles in between need no mask at all, since each of their queries sees each
# of their keys. Only those that the diagonal, the window's edge or the end of the sequence cuts do. The reference walks
# over three ranges (cut by the window, whole, cut by the diagonal or the tail), with the mask compiled into the outer two
# only. You need not; on a GPU it is worth it.
#
# ### 06.5 Packed batches, windows, skipped tiles
#
# *20 minutes · difficulty 4 · `flash_attention` in `labs/flash_attention.py` · `check("06.5")`*
#
# How can a check know what your kernel loads? It lays a NaN into a tile of `v` that nobody should look at. A masked key has
# $p = 0$, but $0 \cdot \text{NaN}$ is NaN: whoever loads the tile has it in `out`. That works on a GPU as well.
#
# <details><summary>Hint 1</summary>In the kernel <code>q_start = tl.load(cu_seqlens_q_ptr + sequence)</code> and
# <code>nq = tl.load(cu_seqlens_q_ptr + sequence + 1) - q_start</code>, likewise <code>k_start</code> and <code>nk</code>. Add
# them to the rows that you load and store, and to nothing else: the mask counts from the sequence's own beginning. The
# coordinates of a descriptor are 32-bit integers.</details>
# <details><summary>Hint 2</summary>Round <code>begin</code> down to a multiple of K_TILE, so that tiles lie alike for all queries. Where <code>end &lt;= begin</code>
# the loop does not run, and rows that see nothing come out as 0 and -inf by themselves.</details>
# <details><summary>Hint 3</summary>Integer division rounds towards zero on a GPU: take <code>max(..., 0)</code> before
# <code>//</code>.</details>
# <details><summary>Passing the first check but failing the second?</summary>In the first both sequences have 32 queries and
# 32 keys.</details>

# %%
check("06.5")

# %% [markdown]
# The same NaN, one column for each tile, draws a map of everything that your kernel loads in one launch:

# %%
def cu_seqlens(*lengths: int) -> torch.Tensor:
    return torch.tensor([0, *lengths], device=DEVICE).cumsum(0).int()


def loads_of(lab, queries: list[int], keys: list[int], window: int | None = None):
    """What each query has to see, (Nq, Nk), and which tiles of keys its program loads, (Nq, tiles)."""
    q, k = (torch.randn(sum(lengths), 1, 16, device=DEVICE) for lengths in (queries, keys))
    starts = cu_seqlens(*queries), cu_seqlens(*keys)
    out, _ = lab.flash_attention(q, k, loads_show(k), *starts, max(queries), causal=True, window=window)
    seen = torch.zeros(len(q), len(k), dtype=torch.bool)
    for rows, columns in zip(*map(segments, starts), strict=True):
        block = torch.zeros_like(seen[rows, columns], dtype=torch.float)
        numbers = torch.arange(block.shape[0]), torch.arange(block.shape[1])
        seen[rows, columns] = causal_mod(*block.shape, window)(block, *numbers) == 0
    return seen, loaded_blocks(out, len(k)).cpu()


with attempt("06.5"):
    lab = load_lab("flash_attention")
    panels = [("causal", *loads_of(lab, [256], [256])),
              ("96 new queries", *loads_of(lab, [96], [256])),
              ("window of 64", *loads_of(lab, [256], [256], window=64)),
              ("three sequences", *loads_of(lab, [96, 32, 128], [96, 32, 128]))]
    for title, seen, loaded in panels:
        needed = torch.stack([torch.stack([tile.any() for tile in row.split(32, 1)]) for row in seen.split(32)])
        print(f"{title}: {int(needed.sum())} of {needed.numel()} tiles hold a key that is seen; all of them loaded: "
              f"{bool(loaded[::32][needed].all())}")
    display(Image(style.png(picture_of_loads(panels)), alt=(
        "Four maps of queries against keys in tiles of 32. Causal: the tiles up to the diagonal are loaded, those above are "
        "not. 96 new queries: all keys up to a diagonal that ends in the last key. Window of 64: a band of two to three "
        "tiles. Three sequences: three triangles on the diagonal. Parts of the tiles on the edges are loaded and hidden.")))

# %% [markdown]
# Blue is what has to be seen, amber what is loaded and masked, because tiles are square and masks are not. White costs
# nothing. Black would be a mistake: seen, but not loaded.
#
# ## The story model speaks through your kernel
#
# An attention backend of the course owns the mask and the cache (`common/model/attention.py`). This one remembers keys and
# values, and leaves everything else to your kernel: first the whole prompt (Nq = Nk), then one query against all keys
# (Nq = 1), which is where the alignment at the last key pays.

# %%
class FlashBackend:
    """One sequence: each call's queries are its newest tokens."""

    def __init__(self, flash_attention, window: int | None = None):
        self.flash_attention, self.window, self.cache = flash_attention, window, {}

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if layer in self.cache:
            k, v = (torch.cat(pair) for pair in zip(self.cache[layer], (k, v), strict=True))
        self.cache[layer] = k, v
        out, _ = self.flash_attention(q, k, v, cu_seqlens(len(q)), cu_seqlens(len(k)), len(q), True, self.window)
        return out


@torch.inference_mode()
def speak(backend, text: str, new_tokens: int) -> list[int]:
    """Greedy tokens after `text`, up to the end of the line."""
    ids, position, answer = tokenizer.encode(text), 0, []
    while len(answer) < new_tokens:
        positions = torch.arange(position, position + len(ids), device=DEVICE)
        hidden = model(torch.tensor(ids, device=DEVICE), positions, backend)
        position += len(ids)
        ids = [int(model.logits(hidden[-1:]).argmax())]
        if tokenizer.decode(ids) == "\n" or ids[0] in tokenizer.stop_ids:
            break
        answer += ids
    return answer


# %%
from textwrap import fill

from common.model.generate import generate

opening = "On Tuesday the bakery smelled of"
with attempt("06.5"):
    ids = speak(FlashBackend(part("06.5")), opening, 12)
    oracle = list(generate(model, tokenizer.encode(opening), 12))
    print(fill(opening + tokenizer.decode(ids), 84))
    print("The same tokens as the oracle's:", ids == oracle)

# %% [markdown]
# That backend keeps its keys and values in a dictionary and joins them anew at every step. Lesson 03 has a better cache.
# Lessons add up: here is the one of `part("03.1")`, yours if you wrote it, under your kernel.

# %% tags=["live"]
class CachedFlash:
    """One sequence on the cache of lesson 03."""

    def __init__(self, cache, flash_attention):
        self.cache, self.flash_attention = cache, flash_attention

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        k, v = self.cache.append(layer, k, v)
        out, _ = self.flash_attention(q, k, v, cu_seqlens(len(q)), cu_seqlens(len(k)), len(q), True, None)
        return out


with attempt("03.1", "06.5"):
    cache = part("03.1")(model.config, 64, torch.float32, DEVICE)
    ids = speak(CachedFlash(cache, part("06.5")), opening, 12)
    print(fill(opening + tokenizer.decode(ids), 84))
    print(f"{cache.length} tokens in the cache")

# %% [markdown]
# A window makes long texts cheap: each token attends to `window` keys at most, however long the story is. It also forgets,
# and here is what that sounds like. (Six layers pass information on, so that a window of 24 is not the end of memory after
# 24 tokens; but the model was never trained with one.)

# %%
import random

from common.model.storyworld import story

told = story(random.Random(48), tokens=95)
question = told.questions[0]
with attempt("06.5"):
    flash_attention = part("06.5")
    print("\n".join(fill(line, 84) for line in told.text[: question.position].splitlines()))
    for window in (None, 24):
        answer = tokenizer.decode(speak(FlashBackend(flash_attention, window), told.text[: question.position], 8))
        print(f"  {'all keys' if window is None else f'window of {window}'}:{answer}")
    print(f"  the story: {question.answer}")

# %% [markdown]
# ## Backward: compute it again
#
# Training needs gradients. With $S = q k^\top \cdot \text{scale}$, $P = e^{S - \text{lse}}$ and $\text{out} = P v$, and with
# $\text{d\_out}$ the gradient that comes from above,
#
# $$dv = P^\top \text{d\_out}, \qquad dP = \text{d\_out}\, v^\top, \qquad
# dS_{ij} = P_{ij}\,\Big(dP_{ij} - \sum_l P_{il}\, dP_{il}\Big),$$
# $$dq = dS\, k \cdot \text{scale}, \qquad dk = dS^\top q \cdot \text{scale}.$$
#
# The sum in $dS$ (it comes from the softmax, whose weights sum to 1) seems to need a whole row of $P$ and $dP$. It does
# not:
#
# $$\sum_l P_{il}\, dP_{il} = \sum_l P_{il} \sum_d \text{d\_out}_{id}\, v_{ld} = \sum_d \text{d\_out}_{id}\, \text{out}_{id}
# =: \delta_i .$$
#
# One number for each row, from what is at hand. And $P$ itself? Nobody kept it. But one tile of it is `exp(scores - lse)`:
# a product computed for the second time, and no memory. This is the other reason why the forward pass returns `lse`, and
# why computing again is *faster* than remembering.
#
# Two kernels share the work. In `dk_dv_kernel` a program owns a tile of keys and walks over the queries that see them; in
# `dq_kernel` it owns a tile of queries and walks over keys, as in the forward pass. So no two programs write to the same
# place. Query heads of a group add up in the `dk` and `dv` that they share: the owner walks over all of them.
#
# ### 06.6 The backward pass
#
# *30 minutes · difficulty 5 · `dk_dv_kernel`, `dq_kernel` and `flash_attention_backward` in `labs/flash_attention.py` ·
# `check("06.6")`*
#
# <details><summary>Hint 1</summary><code>delta</code> may be computed in the launcher, in torch:
# <code>(d_out.float() * out.float()).sum(-1)</code>, (Nq, H). The reference leaves that to <code>dq_kernel</code>, which has
# these rows at hand and is launched first.</details>
# <details><summary>Hint 2</summary>Write <code>dq_kernel</code> first: it is the forward loop without a maximum. Then
# <code>p</code> is <code>exp2(scores * scale_log2 - lse_log2)</code>, with <code>lse_log2 = lse / LN_2</code> in the
# kernel, or <code>lse * LOG2_E</code> in the launcher.</details>
# <details><summary>Hint 3</summary>A row that saw no key has <code>lse = -inf</code>, and exp2(-inf + inf) is NaN. If the
# launcher turns it into +inf, every p of that row is exp2(-inf) = 0.</details>
# <details><summary>Hint 4</summary>In <code>dk_dv_kernel</code> compute the scores on their side:
# <code>tl.dot(k, tl.trans(q))</code> is (K_TILE, Q_TILE), and then <code>dv += tl.dot(p.to(d_out.dtype), d_out)</code>
# needs no transposed p. Key <code>j</code> is seen by the queries from <code>j - shift</code> on.</details>
# <details><summary>Passing the first check but failing the second?</summary><code>dk</code> and <code>dv</code> are sums
# over all tiles of queries, <code>dq</code> over all tiles of keys.</details>

# %%
check("06.6")

# %% [markdown]
# With both directions, your kernel is an operation that torch can differentiate through. One line of story, its loss, and
# the gradient of the first layer's query weights, through your kernel and through the course's own attention:

# %%
import copy

from common.model.attention import CausalAttention


class Flash(torch.autograd.Function):
    @staticmethod
    def forward(ctx, lab, q, k, v):
        starts = cu_seqlens(len(q))
        out, lse = lab.flash_attention(q, k, v, starts, starts, len(q), True)
        ctx.lab, ctx.starts = lab, starts
        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    def backward(ctx, d_out):
        q, k, v, out, lse = ctx.saved_tensors
        n, starts = len(q), ctx.starts
        return None, *ctx.lab.flash_attention_backward(d_out, q, k, v, out, lse, starts, starts, n, n, True)


def gradient(attention) -> torch.Tensor:
    learner = copy.deepcopy(model).requires_grad_(True)
    ids = torch.tensor(tokenizer.encode("The red kite was in the orchard all morning."), device=DEVICE)
    logits = learner.logits(learner(ids, torch.arange(len(ids), device=DEVICE), attention))
    torch.nn.functional.cross_entropy(logits[:-1], ids[1:]).backward()
    return learner.layers[0].self_attn.q_proj.weight.grad


with attempt("06.5", "06.6"):
    lab = load_lab("flash_attention")
    yours = gradient(lambda layer, q, k, v: Flash.apply(lab, q, k, v))
    theirs = gradient(CausalAttention())
    print("largest gradient above 1e-3:", bool(theirs.abs().max() > 1e-3))
    print("largest difference below 1e-6:", bool((yours - theirs).abs().max() < 1e-6))

# %% [markdown]
# ## Predict, then measure
#
# On a CPU there is nothing to time: the interpreter takes milliseconds for what a GPU does in a microsecond. The figures
# below come from an H100. Write your prediction down first: at 16,384 tokens in all, in sequences of 512 to 16,384, what
# share of the matmul rate will your kernel reach, with heads of 64 and of 128? And plain attention, given the bytes of 06.1?
# (`make timings` on a machine with a GPU measures your own file: the CSV holds what `labs/flash_attention.py` did.)

# %%
from common.lessons.flash_attention import attention_timings, figures
from common.measure import TIMINGS, plots, tables

folder = TIMINGS / "h100"
if attention_timings.TABLE.file(folder).exists():
    for name, says in (("attention_performance_seq", "forward against the length of the sequences"),
                       ("attention_performance_batch", "forward against the batch size, and with Llama-3-8B's heads"),
                       ("attention_performance_backward", "backward against the length of the sequences")):
        figure = plots.find(name, figures.FIGURES)
        display(Image(style.png(plots.draw(figure, folder)), alt=(
            f"TFLOP/s of attention on an H100, {says}, for several implementations, with the measured rate of a matrix "
            "product as the limit above them all.")))
    print(attention_timings.summary(tables.read(attention_timings.TABLE, folder)))
else:
    print("No H100 has measured this lesson yet: `make timings` on one, then `make plots`.")

# %% [markdown]
# How to read it: the dashed line on top is what a plain matrix product of the same dtype reached in the same run, and no
# attention can be faster, for it consists of two products, and exponentials between them. Those are the trouble: for a head
# of 128, each score costs 512 operations on the tensor cores, and one exponential on a unit that is hundreds of times
# slower. With heads of 64 there is an exponential for every 256 operations, and the gap is wider. Causal lines lie lower,
# most of all for short sequences, because the tiles on the diagonal are computed whole and counted half.
#
# The dotted predictions are those of 06.1. Plain attention stays below its own: its bytes really move, and torch's softmax and
# products do not move them at the full rate. The tiled kernel lies far above its own, since programs that run side by side find
# each other's keys in the cache. Heads of 64 gain nothing from the second version, and lose in short sequences; heads of 128
# gain, most in long ones. (Why plain attention is slowest at 8k, and less so at 16k, has not been looked into.)
#
# ### What each step is worth
#
# The reference's kernel took a few steps that change no result. Below each of them is undone by itself, and timed in the same
# run. What stands in its place:
#
# - **Heads first in the grid.** The reference counts tiles first, so that programs that run at the same time read the same keys,
#   and find them in the cache. With the heads first, each of them reads other keys.
# - **First queries first.** Under a causal mask the last queries see most. Long work that begins last leaves a GPU idle at the
#   end. (Next to nothing here: with 4 sequences of 16 heads there is always something short left to begin.)
# - **A mask in every tile**, also in those that are seen whole. It costs a comparison and a choice for each score, and takes the
#   values on a detour through registers: the dearest of these steps.
# - **Pointers for descriptors.** Every thread keeps addresses in registers and issues its own loads. (The backward pass, not
#   shown here, needs its registers even more.)
#
# ### The second version
#
# Plain Triton says *what* a program computes; the compiler decides when. `common/kernels/flash_attention_2.py` is written in
# Gluon, Triton's lower level, where the *when* is yours, after FlashAttention-3. It is for Hopper GPUs only, and forward
# only. Read it beside your own; what it does otherwise is listed on top of the file:
#
# - **One warp only loads**, two groups of four only compute, and barriers in shared memory tell them when a tile is there or
#   may be replaced. (This is its frame, and cannot be undone by itself.)
# - The product of one tile's `p` with its values is under way on the tensor cores while the exponentials of the next tile are
#   computed. Undone: **values added up at once**.
# - The assembler would move these exponentials behind the wait that follows, where nothing overlaps any more. A jump that
#   depends on them, and is never taken, keeps them in place. Undone: **exponentials after the wait**. (Worth nothing here.)
# - One program for each multiprocessor takes a long piece of work, then a short one, and goes on. Undone: **a program for each
#   piece**, or rather for each pair.
# - The output changes its layout in shared memory, so that each thread stores 16 bytes at a time. Undone: **narrow stores**.

# %%
from common.lessons.flash_attention import step_timings

if step_timings.TABLE.file(folder).exists():
    steps = tables.read(step_timings.TABLE, folder)
    figure = plots.find("attention_steps", figures.FIGURES)
    display(Image(style.png(plots.draw(figure, folder)), alt=(
        "Bars of TFLOP/s on an H100, without a mask and causal: lesson 06's kernel and the second version with all steps, and "
        "with each of them undone.")))
    print(step_timings.summary(steps))
else:
    print("No H100 has measured the steps yet: `make timings` on one, then `make plots`.")

# %% [markdown]
# ## Where this loses
#
# - **One new token.** With `Nq = 1` a tile of queries holds one row that is real, and 16 requests keep no GPU busy with one
#   program per head. Decoding wants the keys split over programs, their results merged as in 06.2, and the query heads of a
#   group side by side in one tile. Lesson 07 does this, on pages.
# - **Very short sequences.** A launch takes longer than the work, and padding to a tile is most of it.
# - **Odd head dims.** D = 80 is computed as 128: 38 % of each product is zeros.
# - **Masks without a shape.** A document mask or a tree of drafts (lesson 13) empties tiles too, but not as two bounds can
#   say it. FlexAttention takes a `score_mod` like yours, compiles it into the kernel, and a `block_mask` that lists the
#   tiles to visit.
#
# In production, vLLM and SGLang call FlashAttention-3 or FlashInfer for packed prompts, the way you call
# `flash_attention`: `q`, `k`, `v`, two `cu_seqlens`, a maximum, a scale, causal or a window. And they keep the `lse` where a
# prefix is shared.
#
# **Next**: run `make grade LAB=06` in a terminal.
#
# **Sources**: the online softmax, Milakov and Gimelshein 2018, *Online normalizer calculation for softmax*; tiles and
# recomputation, Dao, Fu, Ermon, Rudra and Ré 2022, *FlashAttention*; the order of the loops and the two backward kernels, Dao
# 2023, *FlashAttention-2*, section 3; copies, specialised warps and ping-pong, Shah et al. 2024, *FlashAttention-3*, section
# 3; memory that does not grow with the square, Rabe and Staats 2021, *Self-attention Does Not Need O(n²) Memory*; keys over
# many devices, Liu, Zaharia and Abbeel 2023, *Ring Attention*; grouped heads, Ainslie et al. 2023, *GQA*; ALiBi, Press,
# Smith and Lewis 2022, *Train Short, Test Long*; relative position bias and prefix masks, Raffel et al. 2020, *T5*; sliding
# windows, Beltagy, Peters and Cohan 2020, *Longformer*; `score_mod`, Dong et al. 2024, *Flex Attention*; Triton, Tillet, Kung
# and Cox 2019.
