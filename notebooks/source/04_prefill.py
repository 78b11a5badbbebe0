# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 04 · Prefill
#
# **You will build** an engine that serves many prompts at once. First the usual way, padded to a rectangle; then packed,
# with no padding at all; then slots, in which all requests decode together and each stops on its own. On the way you hunt
# a bug that a published engine had: it is right for the first token.
#
# 120 minutes · difficulty 1–4 of 5 · you need: what attention does with queries, keys and values (lesson 01), and why they
# are cached (lesson 03; you do not need your code of it). No GPU.
#
# ```
#  padded: B x T = 4 x 7 = 28 tokens
#
#   The  red  kite  ·    ·    ·    ·
#   It   was  a     fine Mon  day  ,
#   Once ·    ·     ·    ·    ·    ·
#   Who  is   in    the  mill ·    ·
#
#   12 tokens say nothing, and cost as much as others
#
#  packed: N = 16 tokens in one row
#
#   tokens     The red kite It was a fine Mon day , Once Who is in the mill
#   positions  0   1   2    0  1   2 3    4   5   6 0    0   1  2  3   4
#   request    0   0   0    1  1   1 1    1   1   1 2    3   3  3  3   3
#              |            |                       |    |                  |
#   cu_seqlens 0            3                       10   11                 16
#
#   nothing is wasted
# ```
#
# **Shapes and names**
#
# | letter | meaning | in `Config` |
# |---|---|---|
# | `B` | requests in the batch | |
# | `T` | tokens of the longest prompt: the rectangle is `B` × `T` | |
# | `N` | tokens in one row, whichever requests they belong to | |
# | `cu_seqlens` | cumulative lengths, `B + 1` numbers: prompt `i` is `cu_seqlens[i] : cu_seqlens[i + 1]` | |
# | `H`, `KH` | query heads, key/value heads; `G = H / KH` query heads share one | `n_heads`, `n_kv_heads` |
# | `D` | width of one head | `head_dim` |
# | `V` | vocabulary | `vocab_size` |
#
# You write `labs/prefill.py`.

# %%
import torch

from common import model_folder
from common.model.checkpoint import load_model
from common.model.generate import generate as plain_generate
from common.model.tokenizer import Tokenizer
from common.notebook import attempt, check, load_lab, part

model, tokenizer = load_model(model_folder()), Tokenizer(model_folder())
config = model.config

# %% [markdown]
# ## Why a batch
#
# To decode one token, a processor reads every weight of the model and uses it once. For 64 requests it still reads every
# weight once, and uses it 64 times. As long as reading is what takes the time, 63 of them ride for free. (Keys and values
# are another matter: each request has its own.) Prefill computes enough to be busy with a single long prompt; there a
# batch saves little, but it can lose a lot, if the prompts differ in length.
#
# Tensors are rectangles and prompts are not. The usual way out is *padding*: fill up every prompt to the length of the
# longest. Each token of padding costs as much as a real one.
#
# ### 04.1 Count what padding wastes
#
# *5 minutes · difficulty 1 · `count_tokens` in `labs/prefill.py` · `check("04.1")`*
#
# <details><summary>Hint</summary>A batch of lengths <code>batch</code> is a rectangle of
# <code>len(batch) * max(batch)</code> tokens.</details>
# <details><summary>Passing the first check but failing the second?</summary>The first has one batch. A batch of short
# prompts is padded to <em>its</em> longest.</details>

# %%
check("04.1")

# %% [markdown]
# How much is that? Sixty-four real stories, in the order in which they come, and sorted by length. Guess before you run
# the cell: what share of the tokens is padding if all 64 share one batch?

# %%
from common.model.evaluate import fresh_stories

stories = fresh_stories(64, seed="lesson 04", shortest=60, longest=900)
lengths = [len(tokenizer.encode(told.text)) for told in stories]
with attempt("04.1"):
    lab = load_lab("prefill")
    print(f"{len(lengths)} stories of {min(lengths)} to {max(lengths)} tokens, {sum(lengths)} in all\n")
    print("batch size   padding, as they come   padding, sorted")
    for batch_size in (1, 2, 4, 8, 16, 32, 64):
        share = []
        for order in (lengths, sorted(lengths)):
            real, padding = lab.count_tokens(order, batch_size)
            share.append(f"{padding:6} tokens {padding / (real + padding):4.0%}")
        print(f"{batch_size:10} {share[0]:>23} {share[1]:>17}")

# %% [markdown]
# Sorting helps, and some engines of the past did it. It makes a request wait until others of its length come along.
#
# ## A rectangle
#
# Padding may stand behind a prompt or before it:
#
# ```
#               padded on the right         padded on the left
#
#  ids          The red kite  ·   ·          ·   ·  The red kite
#  mask          x   x   x                           x   x   x
#  positions     0   1   2                           0   1   2
#  last token            ^                                   ^
#               another column in           the last column
#               every row                   in every row
# ```
#
# Positions belong to the prompt and not to the column: token 0 of a prompt is at position 0 on either side. And the mask
# follows from the lengths. It cannot be told from the ids, since whatever `pad_id` is, a prompt may contain it.
#
# ### 04.2 Pad on either side
#
# *10 minutes · difficulty 1 · `pad` in `labs/prefill.py` · `check("04.2")`*
#
# <details><summary>Hint 1</summary>Start from three full tensors (<code>torch.full</code>, <code>torch.zeros</code>) and
# write each prompt into its row.</details>
# <details><summary>Hint 2</summary>A prompt of <code>n</code> tokens stands in columns <code>0 : n</code>, or in
# <code>T - n : T</code>.</details>
# <details><summary>Passing the first check but failing the second?</summary>Equal prompts need no padding, so they cannot
# show which side it is on.</details>

# %%
check("04.2")

# %% [markdown]
# ## Attention in a rectangle
#
# The model of this course takes tokens in one row, here all `B * T` of them, and hands `q`, `k`, `v` of shape `(N, H, D)`
# and `(N, KH, D)` to an *attention backend*: `attention(layer, q, k, v)`. Everything but attention treats each token by
# itself. So the backend alone has to know which rows belong together. In a rectangle that is easy: `(N, H, D)` is
# `(B, T, H, D)`, and attention works along `T`. What may token $i$ of row $b$ see?
#
# $$\text{sees}[b, i, j] = (j \le i) \land \text{mask}[b, j]$$
#
# Two things are worth a thought before you write it.
#
# - Padded on the right, the second half of this is idle: whatever token $i$ of the prompt sees stands before it, and there
#   is no padding before it. The causal mask is enough, and a kernel that knows it by name (`is_causal=True`) is faster than
#   one that reads a mask.
# - Padded on the left, the first tokens of a row see *nothing*. A softmax over nothing is 0 / 0. That row is padding, and
#   who cares? The next layer does: it computes keys and values from it, and $0 \cdot \text{nan} = \text{nan}$.

# %%
nothing = torch.full((1, 3), -torch.inf)
weights, values = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([1.0, 2.0, torch.nan])
print("softmax over nothing:      ", nothing.softmax(dim=-1).tolist())
print("a nan with weight 0 counts:", (weights * values).sum().item())

# %% [markdown]
# ### 04.3 Attention in a padded rectangle
#
# *15 minutes · difficulty 3 · `PaddedAttention` in `labs/prefill.py` · `check("04.3")`*
#
# `torch.nn.functional.scaled_dot_product_attention` wants `(B, heads, T, D)` and takes a boolean `attn_mask` (True: may
# look) that broadcasts to `(B, H, T, T)`. `common.model.attention.CausalAttention` shows the plainest backend there is.
#
# <details><summary>Hint 1</summary><code>x.unflatten(0, (B, T)).transpose(1, 2)</code> gives (B, heads, T, D);
# <code>out.transpose(1, 2).flatten(0, 1)</code> is the way back. <code>enable_gqa=True</code> shares key heads.</details>
# <details><summary>Hint 2</summary><code>torch.ones(T, T, dtype=torch.bool).tril()</code> is j &lt;= i, and
# <code>mask[:, None, :]</code> is mask[b, j]. <code>[:, None]</code> makes room for the heads.</details>
# <details><summary>Hint 3</summary>Let every token see itself as well (<code>torch.eye</code>): then no row of the mask is
# empty, and nothing changes for real tokens.</details>
# <details><summary>Passing the first check but failing the second?</summary>The first rectangle is full. What in your code
# depends on <code>mask</code>?</details>

# %%
check("04.3")

# %% [markdown]
# ## The first token of each request
#
# Prefill asks for one thing: the logits of each prompt's *last* token. `V` may be 128,256, so asking for the logits of all
# rows would take more memory than the rest of the pass together; pick the rows first.
#
# ### 04.4 Prefill, padded
#
# *10 minutes · difficulty 2 · `padded_prefill` in `labs/prefill.py` · `check("04.4")`*
#
# <details><summary>Hint 1</summary><code>pad</code>, flatten ids and positions, one call of the model with a
# <code>PaddedAttention</code>, then <code>model.logits(hidden[last])</code>.</details>
# <details><summary>Hint 2</summary>Row <code>i</code> of the rectangle begins at <code>i * T</code> of the flattened one.
# In which column of its row does prompt <code>i</code> end, on either side?</details>
# <details><summary>Passing the first check but failing the second?</summary>In a full rectangle every prompt ends in the
# last column.</details>

# %%
check("04.4")

# %%
from common.checking.watch import watched

prompts = [tokenizer.encode(told.text)[: 12 * (i + 1)] for i, told in enumerate(stories[:6])]
with attempt("04.2", "04.3", "04.4"):
    lab = load_lab("prefill")
    alone = [next(plain_generate(model, prompt, 1)) for prompt in prompts]
    for side in ("right", "left"):
        with watched(model) as calls:
            first = lab.padded_prefill(model, prompts, side).argmax(dim=-1).tolist()
        print(f"padded on the {side:5}: {calls.tokens} tokens in {calls.count} call for {sum(map(len, prompts))} that "
              f"say something\n    the first tokens are those of each prompt alone: {first == alone}")

# %% [markdown]
# (Would shifted positions have shown here? No: rotary embedding sees only the *distance* of two tokens, and all tokens of
# a row shift alike. A model with learned absolute positions would give other tokens, and so would yours as soon as decode
# goes on counting from another place. That is why the check looks at the positions themselves.)
#
# ## Packing
#
# Nothing but attention needs the rectangle. So put the prompts one behind the other into one row of
# $N = \sum_i \text{len}_i$ tokens, and tell attention where to cut: `cu_seqlens`. Norms, projections and the feed-forward
# part, which is nearly all the work, run once over `N` rows and waste nothing. Attention goes from cut to cut:
#
# ```
#            request 0    request 1
#           k0 k1 k2 | k0 k1 k2 k3
#   q0       x       |                     one block on the diagonal
#   q1       x  x    |                     for each request: only the
#   q2       x  x  x |                     blocks are computed, never
#          ----------+------------         the N x N square
#   q0               |  x
#   q1               |  x  x
#   q2               |  x  x  x
#   q3               |  x  x  x  x
# ```
#
# On a CPU a Python loop over the blocks is fine: each is a large piece of work. A GPU kernel takes `cu_seqlens` as an
# argument and does all blocks in one launch; lesson 06 gets there.
#
# ### 04.5 Pack instead of pad
#
# *15 minutes · difficulty 2 · `pack` and `RaggedAttention` in `labs/prefill.py` · `check("04.5")`*
#
# <details><summary>Hint 1</summary><code>itertools.accumulate</code> gives cumulative sums, <code>torch.arange(n)</code> the
# positions of one prompt, <code>torch.cat</code> joins.</details>
# <details><summary>Hint 2</summary><code>itertools.pairwise(cuts)</code> gives each prompt's start and end. What lies
# between them is one sequence without padding: <code>CausalAttention()</code> is all it needs.</details>
# <details><summary>Passing the first check but failing the second?</summary>With one prompt, positions of the row and of
# the prompt are the same, and so are lengths and cumulative lengths.</details>

# %%
check("04.5")

# %%
with attempt("04.5"):
    lab = load_lab("prefill")
    token_ids, positions, cu_seqlens = lab.pack(prompts)
    with watched(model) as calls, torch.inference_mode():
        hidden = model(token_ids, positions, lab.RaggedAttention(cu_seqlens))
        first = model.logits(hidden[cu_seqlens[1:] - 1]).argmax(dim=-1).tolist()
    print(f"cu_seqlens: {cu_seqlens.tolist()}")
    print(f"packed: {calls.tokens} tokens in {calls.count} call; the first tokens are the same: {first == alone}")

# %% [markdown]
# ## A bug hunt
#
# Somebody has gone on from here. Their `PackedCache` keeps the packed keys and values of the prefill; in each further step
# every request sends its newest token, whose key and value are appended to the row. `generate_packed` runs it. The first
# tokens are right. This is what comes after them:
#
# ```
#  in the smithy, planning| a surprise. A moment tell. A moment for Mabel was
#      a short pencil,
#  counting seagulls. There was| a squeaky cork in the library, proudly
#      holding a squeaky cork, proudly holding a
#  to read the newspaper|. A moment later everyone in the duck pond. In the
#      stables. In the
# ```
#
# No error, no nan, and every word is a word. Asked for the answer to one question about each of six stories, the same code
# gets five right: an answer has one to three tokens, and depends mostly on the prompt. It is a real bug, of a published
# engine.
#
# ### 04.6 Bug hunt: a cache that is right for one token
#
# *20 minutes · difficulty 3 · `PackedCache` in `labs/prefill.py` · `check("04.6")`*
#
# The broken code stands in your lab. Find what is wrong in `PackedCache.__call__` and mend it; `attend_one` and
# `generate_packed` are right. The witness is the oracle: each request, run alone without a cache, says what it should have
# said. You may mend one line or rewrite the class, and it need not be fast.
#
# <details><summary>Hint 1</summary>Do not read, experiment: which is the smallest batch, and the smallest number of new
# tokens, that goes wrong? Vary one thing at a time.</details>
# <details><summary>Hint 2</summary>Take two prompts of three and two tokens. Write down the rows of
# <code>self.keys[0]</code> after the prefill and after each of two steps: to which request and which position does each
# belong?</details>
# <details><summary>Hint 3</summary>Now print <code>own</code>, and compare.</details>
# <details><summary>Passing the first check but failing the second?</summary>Equal prompts let arithmetic on lengths come
# out right by accident.</details>

# %%
check("04.6")

# %%
from textwrap import fill

openings = [
    "It was raining in Much Yawning. Walter stood in the smithy, planning",
    "It was a quiet Monday in Drizzle Bay. As for Greta, she was in the library, counting seagulls. There was",
    "This is the story of Thistlewick and a Tuesday. There was Juno in the stables, pretending to read the newspaper",
]
with attempt("04.5", "04.6"):
    lab = load_lab("prefill")
    batch = [tokenizer.encode(opening) for opening in openings]
    for opening, ids, new in zip(openings, batch, lab.generate_packed(model, batch, 16, ()), strict=True):
        print(fill(f"{' '.join(opening.split()[-4:])}|{tokenizer.decode(new)}", 84))
        print(f"    as it does alone: {new == list(plain_generate(model, ids, 16))}")

# %% [markdown]
# ### 04.7 What exposes the bug
#
# *5 minutes · difficulty 2 · `exposes` in `labs/prefill.py` · `check("04.7")`*
#
# A test is only as good as the case it tries. Which batches would have exposed the code *as it was given*? Answer with a
# function of the prompts' lengths and the number of new tokens. The check replays which rows are read.
#
# <details><summary>Hint</summary><code>make reset LAB=04</code> keeps your file beside a fresh stub: the broken code is
# there whenever you want to try it. Or copy it into a cell of this notebook.</details>
# <details><summary>Passing the first check but failing the second?</summary>The first always has three prompts.</details>

# %%
check("04.7")

# %% [markdown]
# <details><summary>When you have passed: which property exposed it?</summary>
#
# Not "the first token is right", not "one request alone is right at any length", not "the shapes are right", and hardly "it
# answers questions": all of these hold for the broken code. It was exposed by *a request gives the same tokens in company as
# alone, beyond the first one*. A batch of two and two new tokens suffice, and their lengths do not matter. Whoever writes
# an engine tests it with one prompt first, and that is the one batch in which this bug cannot show.
#
# </details>
#
# ## Slots
#
# The mended cache is right, and slow: each step appends to a row (a copy of everything), gathers each request's rows
# (another copy), and loops over the requests. For decoding a rectangle is the better shape after all, if it is one of
# *memory* and not of computation. Give each request a slot, reserve all slots once, and let each grow into its own:
#
# ```
#   keys[layer]                    capacity
#   slot 0   k k k k k . . . . . . .        lengths[0] = 5
#   slot 1   k k . . . . . . . . . .        lengths[1] = 2
#   slot 2   k k k k k k k k . . . .        lengths[2] = 8 = longest
#            |<--- read --->|
# ```
#
# Prefill is the packed pass of 04.5, which also writes each token's key and value to its place: request `rows[n]`, position
# `positions[n]`. Decode sends one token per request and is *one* attention for all:
#
# $$\text{sees}[b, t] = t < \text{lengths}[b], \qquad 0 \le t < \text{longest}$$
#
# where `lengths` counts the newest token too. There is no loop over requests: on a GPU, 64 of them in 32 layers would be
# thousands of launches in each step. Query heads that share a key head become rows of one small matrix: `q` is seen as
# `(B, KH, G, D)`, keys are `(B, KH, longest, D)`, and no key is repeated or copied. For this a slot keeps each head's tokens
# side by side, `(KH, capacity, D)`.
#
# What is behind a request's length may hold anything, for it is masked. Anything but nan: see above. And a request that does
# not fit is refused *before* the first key is written. Otherwise half a step is in the cache when the error comes, and every
# request of the batch goes on from a damaged memory.
#
# ### 04.8 Slots
#
# *25 minutes · difficulty 4 · `SlotCache` in `labs/prefill.py` · `check("04.8")`*
#
# `begin` prepares a call of the model, once for all layers; `__call__` serves one layer; `keep` lets requests leave.
#
# <details><summary>Hint 1</summary>In <code>begin</code>: refuse what does not fit; then, for every new token, its row and
# its position. For <code>counts = [3, 1]</code> after <code>lengths = [0, 0]</code> rows are 0 0 0 1 and positions 0 1 2 0.
# <code>torch.arange(B).repeat_interleave(counts)</code> gives the rows.</details>
# <details><summary>Hint 2</summary><code>self.keys[layer][rows, :, positions] = k</code> writes all new keys at once: two
# index tensors of length N around a full slice select (N, KH, D).</details>
# <details><summary>Hint 3</summary>If any count is larger than 1, the slots were empty before: <code>RaggedAttention</code> on
# q, k and v is all there is to see. Otherwise N = B, and one masked attention does it.</details>
# <details><summary>Hint 4</summary>The mask is the same in all layers: make it in <code>begin</code>,
# <code>torch.arange(longest) &lt; lengths[:, None]</code> with room for heads and query rows, (B, 1, 1, longest).</details>
# <details><summary>Passing the first check but failing the second?</summary>Equal prompts have the same positions in the
# same step. Where is the newest token of a short prompt?</details>

# %%
check("04.8")

# %% [markdown]
# ## Each on its own
#
# Now put it together. Requests share every call of the model and nothing else; one may stop at its first token while
# another goes on for hundreds. A request that has ended leaves the batch, so that it costs nothing more:
#
# ```
#  step       0    1    2    3    4    5      rows of the batch
#  request 0  x    x    stop                  at first:     0 1 2
#  request 1  x    x    x    x    x    x      after step 2: 1 2   -> rows 0 1
#  request 2  x    x    x    stop             after step 3: 1     -> row 0
#
#  tokens     N    3    3    2    1    1      N: all prompts;
#                                             the stop tokens are never sent
# ```
#
# Rows move up. Keep a list that says which request each row belongs to, or their words end up in each other's mouths.
#
# ### 04.9 Generate for a whole batch
#
# *15 minutes · difficulty 3 · `generate_batch` in `labs/prefill.py` · `check("04.9")`*
#
# <details><summary>Hint 1</summary>Begin as <code>generate_packed</code> does, with <code>cache.begin</code> for the
# positions. After each step: which rows stay? If fewer than before, <code>cache.keep(stay)</code>, and cut the token ids and
# your list in the same way.</details>
# <details><summary>Hint 2</summary>Ask for the arg max of all rows at once and call <code>.tolist()</code> once: on a GPU
# each <code>int(...)</code> of a tensor waits for everything before it.</details>
# <details><summary>Passing the first check but failing the second?</summary>Equal prompts end at rows T - 1, 2 T - 1, ...;
# packed ones end at <code>cu_seqlens[1:] - 1</code>.</details>

# %%
check("04.9")

# %% [markdown]
# Six stories, and all their questions at once. The newline is the stop token, so each answer ends on its own.

# %%
import random

from common.model.storyworld import story

newline = tokenizer.encode("\n")[-1]
tales = [story(random.Random(f"lesson 04 {i}"), tokens=n) for i, n in enumerate((70, 420, 150, 230, 100, 320))]
asked = [(tale, question) for tale in tales for question in tale.questions]
prompts = [tokenizer.encode(tale.text[: question.position]) for tale, question in asked]

with attempt("04.5", "04.8", "04.9"):
    with watched(model) as calls:
        answers = part("04.9")(model, prompts, 12, {newline}, capacity=max(map(len, prompts)) + 11)
    right = 0
    for (_, question), prompt, answer in zip(asked, prompts, answers, strict=True):
        right += tokenizer.decode(answer).strip() == question.answer
        print(f"{len(prompt):3} tokens. {question.text}{tokenizer.decode(answer)}")
    with watched(model) as plain:
        alone = [list(plain_generate(model, prompt, 12, {newline})) for prompt in prompts]
    real, padding = part("04.1")(list(map(len, prompts)), len(prompts))
    print(f"\n{right} of {len(asked)} are what the stories say; as each alone: {answers == alone}")
    print(f"{calls.count} calls and {calls.tokens} tokens through the model, {real} of them the prompts'.")
    print(f"A padded batch would have sent {padding} more.")
    print(f"Plain generation, one by one: {plain.count} calls, {plain.tokens} tokens.")

# %% [markdown]
# ## Predict, then measure
#
# Everything but attention costs the same for each token, so a padded prefill should take longer than a packed one by the
# *padding ratio*, $(\text{real} + \text{padding}) / \text{real}$. Write down what the next cell should print in its last
# column; then run it. (Its output differs from machine to machine, so nothing compares it.)

# %% tags=["live"]
from functools import partial

import pandas as pd

from common.measure.timing import time_each

with attempt("04.1", "04.4", "04.9"):
    lab = load_lab("prefill")
    rows = []
    for batch_size in (1, 4, 16):
        batch = [tokenizer.encode(told.text)[:400] for told in stories[:batch_size]]
        real, padding = lab.count_tokens(list(map(len, batch)), batch_size)
        both = [partial(lab.padded_prefill, model, batch, "right"), partial(lab.generate_batch, model, batch, 1, (), 400)]
        padded, packed = time_each(both, torch.device("cpu"), budget=2.0, at_least=3)
        rows.append({"batch": batch_size, "tokens": real, "padding": padding, "packed (ms)": round(1e3 * packed.median),
                     "padded (ms)": round(1e3 * padded.median), "predicted ratio": round((real + padding) / real, 2),
                     "measured ratio": round(padded.median / packed.median, 2)})
    print(pd.DataFrame(rows).to_string(index=False))

# %% [markdown]
# The same over larger batches, from the committed measurements (`make timings` measures your machine, `make plots`
# redraws): prompts of 32 to 512 tokens, 128 new ones for each. Prefill is shown as prompt tokens per second, in which
# padding does not count; decode as new tokens per second. The limit is that of a machine that does nothing but compute what
# has to be computed and move what has to be moved, at rates measured in the same run. transformers' `generate` with its
# default cache, padded on the left, ran in the same rounds on the same weights.

# %%
from IPython.display import Image, display

from common.lessons.prefill import figures, timings
from common.measure import TIMINGS, plots, style, tables


def digits(x):
    return f"{x:.2g}" if x < 0.1 else f"{x:.2f}" if x < 100 else f"{x:.0f}"


def show_batches(table, name, alt):
    figure = plots.find(name, figures.FIGURES)
    for machine in ("epyc-2-cores", "h100"):
        folder = TIMINGS / machine
        if table.file(folder).exists():
            rows = tables.read(table, folder)
            display(Image(style.png(plots.draw(figure, folder)), alt=f"{alt} Machine: {machine}."))
            ratio = rows.padded_tokens / rows.prompt_tokens
            shown = {"batch": rows.batch_size, "tokens": rows.prompt_tokens, "ratio": ratio,
                     "measured": rows.padded_over_packed, "prefill": rows.prefill_s, "limit": rows.limit_prefill_s,
                     "decode": rows.decode_s, "limit ": rows.limit_decode_s,
                     "new/s": rows.tokens_per_s, "over peer's": rows.decode_ratio}
            print(f"{machine}, {rows.model[0]}, engine from {rows.code[0]}/, times in seconds:")
            print(pd.DataFrame(shown).to_string(index=False, float_format=digits), "\n")


show_batches(timings.DIFFERENT, "prefill_comparison", (
    "Two panels against the batch size, 1 to 64 requests of different lengths. Prefill: prompt tokens per second of the "
    "packed engine, of the padded rectangle, of transformers and of the limit; from a batch of 2 on the packed points "
    "lie above the padded ones, about where the padding ratio puts them. Decode, on a logarithmic axis: new tokens per "
    "second of the slots, above those of transformers at every batch size, and the limit."))

# %% [markdown]
# How to read it: `ratio` is the padding ratio, which `count_tokens` predicts for padded over packed time, `measured` what it
# was; the orange squares are the padded points raised by that ratio, and should lie on the black ones. On the H100 the black
# ones stay 6 to 20 % below: likely because attention is launched once per request and layer there, and because the padded
# side writes no slots. Each `limit` is that of the time before it, `new/s` counts new tokens per second, and `over peer's`
# is our decode time over transformers' (below 1: faster).
#
# With prompts that are all alike there is no padding, and packing has nothing to win. Does it lose?

# %%
show_batches(timings.UNIFORM, "uniform_prefill", (
    "Two panels against the batch size, 1 to 64 requests of 512 tokens each. Prefill: prompt tokens per second, packed, "
    "as a rectangle and by transformers lie near each other, with the limit above. Decode, on a logarithmic axis: new "
    "tokens per second of the slots, above those of transformers at every batch size, and the limit; all rise with the "
    "batch."))

# %% [markdown]
# A little. On the H100 the packed pass takes 3 to 10 % longer than the rectangle. It attends once per request, and it has
# written keys and values to their slots, which the rectangle leaves to somebody else. (On the CPU single runs scatter by
# more than that; large batches were timed once.)
#
# Prefill gains little from a batch, since one prompt of 512 tokens keeps a processor nearly busy. Decode gains a lot: the
# weights are read once for all. On the H100 a step of 64 requests takes 9 % longer than a step of one, although it does
# more; both lie far from their limits, so what they wait for is likely the launching of kernels. On the CPU the limit
# flattens where each request's keys and values, which nobody shares, take over from the weights.
#
# ## Where this loses
#
# - **Slots reserve for the longest.** Each has room for the longest prompt and for all tokens that might come. Most of it
#   stays empty, and memory is what limits the batch. Lesson 07 gives memory out in pages.
# - **Attention reads to the longest.** A request of 40 tokens beside one of 4,000 is masked for 3,960 places, and they are
#   read all the same. Kernels for decoding (FlashInfer, FlashAttention) go by each request's own length.
# - **The batch is closed.** Nobody joins until all have ended, and towards the end few rows are left. Lesson 08 lets
#   requests join at any step, and cuts long prompts into chunks so that others need not wait for them.
# - **Leaving copies.** `keep` moves every slot that stays. With pages it moves none.
# - **A loop in Python.** Ragged attention launches once per request and layer. Lesson 06 writes the kernel that takes
#   `cu_seqlens`.
#
# Production engines pack. vLLM and SGLang flatten each step into one row of tokens, prompts and single new tokens mixed,
# with `cu_seqlens` for the queries and a block table for the keys; FlashAttention's `varlen` functions and FlashInfer's
# ragged wrappers are the kernels for it. transformers' `generate` pads on the left, because its decode wants every row's
# newest token in the same column; its continuous batching packs as well. Training packs too: documents of all lengths in
# rows of one size, with masks so that none sees another.
#
# **Next**: run `make grade LAB=04` in a terminal.
#
# **Sources**: packing without letting sequences see each other, Krell et al. 2021, *Efficient Sequence Packing without
# Cross-contamination*; a transformer without padding, Zhai et al. 2023, *ByteTransformer*; batching where attention alone
# is done per request, and requests that leave at any step, Yu et al. 2022, *Orca: A Distributed Serving System for
# Transformer-Based Generative Models*; `cu_seqlens` in kernels, Dao 2023, *FlashAttention-2*; prefill and decode as two
# regimes, Pope et al. 2022, *Efficiently Scaling Transformer Inference*; memory that is reserved and not used, Kwon et al.
# 2023, *Efficient Memory Management for Large Language Model Serving with PagedAttention*; rotation by position, Su et al.
# 2021, *RoFormer*; shared key heads, Ainslie et al. 2023, *GQA*.
