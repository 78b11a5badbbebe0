# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 03 · The KV cache
#
# **You will build** a cache for keys and values, attention that reads from it, and a generation that sends every token
# through the model once. It gives the tokens of lesson 02 and is faster the longer the text. Then you work out what it
# costs: bytes of memory for every token, and a processor that spends decoding waiting for that memory. You predict both
# prefill and decode before you measure them.
#
# 75 minutes · difficulty 1–3 of 5 · you need: lesson 02 or the like (generation token by token, counting operations), and
# to know what attention does with queries, keys and values (lesson 01). No GPU.
#
# ```
#          without a cache (lesson 02)         with one
#
#  call 1  [The red kite]            -> was    [The red kite] -> was   prefill
#  call 2  [The red kite was]        -> in              [was] -> in    decode
#  call 3  [The red kite was in]     -> the              [in] -> the   decode
#  call 4  [The red kite was in the] -> mill            [the] -> mill  decode
#
#  tokens  3 + 4 + 5 + 6 = 18                  3 + 1 + 1 + 1 = 6
# ```
#
# **Shapes and names**
#
# | letter | meaning | in `Config` |
# |---|---|---|
# | `N` | new tokens of one call: the prompt, one token, or any chunk | |
# | `T` | tokens that the cache holds after the call, the new ones among them | |
# | `H`, `KH` | query heads, key/value heads; `G = H / KH` query heads share one | `n_heads`, `n_kv_heads` |
# | `D` | width of one head | `head_dim` |
# | `V` | vocabulary | `vocab_size` |
#
# You write `labs/kv_cache.py`.

# %%
import torch

from common import model_folder
from common.model.attention import CausalAttention
from common.model.checkpoint import load_model
from common.model.generate import greedy
from common.model.tokenizer import Tokenizer
from common.notebook import attempt, check, load_lab, part

model, tokenizer = load_model(model_folder()), Tokenizer(model_folder())
config = model.config

# %% [markdown]
# ## What never changes
#
# A token sees itself and what stands before it, in every layer. So nothing that a layer computes for it depends on what
# comes later: its key and its value in each layer are settled as soon as it has been through the model once, whatever is
# written behind it. Its query is settled too, but nobody asks for it again: a query gathers for its own token, whose
# output only served to choose the next one.
#
# Hence the plan. Keep `k` and `v` of every token in every layer; send new tokens alone; let their queries meet the kept
# keys. This is exact, not an approximation. See for yourself: the same beginning, with two different ends.

# %%
class Recording(CausalAttention):
    """Keeps what every layer is given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __call__(self, layer, q, k, v):
        self.seen.append((k, v))
        return super().__call__(layer, q, k, v)


def keys_and_values(text):
    ids = torch.tensor(tokenizer.encode(text))
    attention = Recording()
    with torch.inference_mode():
        model(ids, torch.arange(len(ids)), attention)
    return attention.seen


begin = "On Tuesday the red kite was"
shared = len(tokenizer.encode(begin))
both = zip(keys_and_values(begin + " in the orchard."), keys_and_values(begin + " nowhere."), strict=True)
for layer, (one, two) in enumerate(both):
    same = all(torch.allclose(a[:shared], b[:shared], atol=1e-5) for a, b in zip(one, two, strict=True))
    print(f"layer {layer}: keys and values of the first {shared} tokens are the same: {same}")

# %% [markdown]
# (The same up to rounding: products of different sizes add up in different orders.)
#
# ## Memory that is reserved once
#
# The obvious cache is a tensor that `torch.cat` makes one token longer in each step. It asks for new memory and copies all
# that was there, for every token and in every layer: writing 2,000 tokens copies two million. So reserve what the
# generation can need at most, once, and write into it:
#
# ```
#  keys[layer]             | k0 | k1 | k2 | k3 | k4 |    |    |    |    |
#  holds 5, capacity 9
#
#  append N = 2                                     | k5 | k6 |
#  keys[layer, 5:7] = k
#
#  returned                | k0 | k1 | k2 | k3 | k4 | k5 | k6 |
#  keys[layer, :7], a view: no copy
# ```
#
# Two details decide whether it works. *Each layer counts for itself*: in the middle of a call layer 0 already has the new
# tokens and layer 5 does not. And *a full cache says no first*: if an overflow is noticed halfway through, some tokens are
# written, the counts are wrong, and the next answer comes out of a damaged memory.
#
# ### 03.1 Keys and values in memory reserved once
#
# *15 minutes · difficulty 2 · `KVCache` in `labs/kv_cache.py` · `check("03.1")`*
#
# <details><summary>Hint 1</summary>Three things to make in <code>__init__</code>: <code>torch.empty</code> of shape
# <code>(n_layers, capacity, KH, D)</code> for the keys, another for the values, and a list with one count for each
# layer.</details>
# <details><summary>Hint 2</summary><code>append</code> in order: compute <code>start</code> and <code>end</code>, compare
# with the capacity, write both, set the count, return two slices. A slice such as <code>x[layer, :end]</code> is a view;
# an index by a list or a mask is a copy.</details>
# <details><summary>Passing the first check but failing the second?</summary>The first appends once, to a single layer.
# Where does the second chunk go, and what is returned: the new tokens or all of them?</details>

# %%
check("03.1")

# %% [markdown]
# ## Attention on a cache
#
# The model calls `attention(layer, q, k, v)` in each layer, with the heads of the new tokens alone, already rotated to
# their positions. (That is why keys can be stored rotated: a token's position never changes either.) Attention owns the
# rest: it appends `k` and `v`, and lets the `N` queries look at `T` keys. Which ones? The new tokens are the *last* `N` of
# the `T`, so query `i` is token $T - N + i$ of the text and sees keys $0$ to $T - N + i$:
#
# ```
#  T = 6, N = 3    key 0 1 2 3 4 5                key 0 1 2 3 4 5
#          token 3     x x x x . .        token 3     x . . . . .
#          token 4     x x x x x .        token 4     x x . . . .
#          token 5     x x x x x x        token 5     x x x . . .
#
#          bottom right: right            top left: what is_causal=True does
# ```
#
# Both are "causal", and for `N = T` both are the same square. Three kinds of call come up:
#
# | call | `N` | `T` | mask |
# |---|---|---|---|
# | cold prefill | the prompt | `N` | the square one: `is_causal=True` |
# | decode | 1 | all so far | none: the last token sees everything. (`is_causal=True` would show it key 0 alone) |
# | chunk on a warm cache | any | more than `N` | bottom right: `tril(diagonal=T - N)` on a matrix of `N` rows, `T` columns |
#
# Query head `h` reads key/value head `h // G`. In decoding this can be had without copying keys: the `G` heads of a group
# are `G` rows that ask the same keys, so `q` of shape `(1, H, D)` is seen as `(1, KH, G, D)`, as if it were `G` tokens.
#
# ### 03.2 Attention on a cache
#
# *15 minutes · difficulty 3 · `CachedAttention` in `labs/kv_cache.py` · `check("03.2")`*
#
# `torch.nn.functional.scaled_dot_product_attention` may be used; it wants `(batch, heads, tokens, D)`. The checks bring a
# cache of their own, so a mistake in 03.1 cannot hide here.
#
# <details><summary>Hint 1</summary><code>keys, values = self.cache.append(layer, k, v)</code> gives <code>(T, KH, D)</code>
# each. <code>x.transpose(0, 1)[None]</code> turns that into <code>(1, KH, T, D)</code>. <code>enable_gqa=True</code> makes
# torch share key heads as wanted.</details>
# <details><summary>Hint 2</summary>One formula covers all three kinds: the boolean mask
# <code>torch.ones(N, T, dtype=torch.bool).tril(diagonal=T - N)</code>, in which true means "may look". Make it right with
# that first; then treat <code>N == 1</code> and <code>N == T</code> apart, because no mask is faster than any.</details>
# <details><summary>Passing the first check but failing the second?</summary>The first is a cold prefill. Do you pass
# <code>is_causal=True</code> for a single new token too?</details>

# %%
check("03.2")

# %% [markdown]
# ## Prefill, then decode
#
# A generation has two phases now. **Prefill** sends the whole prompt in one call, fills the cache, and gives the first
# token; how long that takes is the *time to first token* (TTFT). **Decode** sends one token per call; how long each takes
# is the *time per output token* (TPOT).
#
# ```
# make a KVCache and a CachedAttention on it
# unsent = the prompt
# repeat at most max_new_tokens times:
#     positions = cache.length, cache.length + 1, ...  # one per unsent token
#     hidden    = model(unsent, positions, attention)  # (N, dim)
#     token_id  = choose(model.logits(hidden[-1:]))
#     if token_id is a stop id: end
#     hand it over; it is what is unsent now
# ```
#
# Positions go on where the cache ends. If each call counted from 0, every generated token would take itself for the first
# of the text; rotary embedding would then turn its query and key by wrong angles, and no error would ever be raised.
#
# ### 03.3 Generate, sending each token once
#
# *15 minutes · difficulty 2 · `generate` in `labs/kv_cache.py` · `check("03.3")`*
#
# The docstring says how much may be sent and how much memory reserved: the token that is chosen last is never sent.
#
# <details><summary>Hint 1</summary>Dtype and device of the cache are those of
# <code>next(model.parameters())</code>.</details>
# <details><summary>Hint 2</summary>Ask for <code>cache.length</code> <em>before</em> the call: within it the cache
# grows.</details>
# <details><summary>Passing the first check but failing the second?</summary>The first wants one token, which the prefill
# alone gives. The second looks at what is sent afterwards: one token per call, the one chosen last, and none after the
# last choice.</details>

# %%
check("03.3")

# %% [markdown]
# Let it speak: the same questions to a story, once by plain generation and once with your cache. `part("03.3")` is your
# `generate` once it passes its checks. Until then it is borrowed from the reference, and says so: what you build in one
# lesson becomes a part of the engine that speaks in all later ones, and `make progress` lists which parts are yours.

# %%
import random

from common.model.generate import generate as plain_generate
from common.model.storyworld import story

told = story(random.Random(3), tokens=150)
newline = tokenizer.encode("\n")[-1]

with attempt("03.3"):
    cached_generate = part("03.3")
    for question in told.questions:
        prompt = tokenizer.encode(told.text[: question.position])
        answer = tokenizer.decode(cached_generate(model, prompt, 12, {newline}, greedy))
        plain = tokenizer.decode(plain_generate(model, prompt, 12, {newline}))
        print(f"{question.text}\n    with the cache:{answer}; without:{plain}\n    the story says: {question.answer}")

# %% [markdown]
# What did it save? Count what went through the model, as in lesson 02:

# %%
from common.checking.watch import watched

with attempt("03.3"):
    lab = load_lab("kv_cache")
    prompt = tokenizer.encode(told.text)[:64]
    print(f"new tokens after {len(prompt)}   calls   sent without a cache   sent with it   the same text")
    for new_tokens in (16, 32, 64):
        with watched(model) as without:
            plain = list(plain_generate(model, prompt, new_tokens))
        with watched(model) as calls:
            cached = list(lab.generate(model, prompt, new_tokens, set(), greedy))
        print(f"{new_tokens:19} {calls.count:7} {without.tokens:22} {calls.tokens:14} {plain == cached!s:>15}")

# %% [markdown]
# ### A chunk on a warm cache
#
# A conversation comes in pieces. The cache keeps all of it, so each piece is a chunk on what was there before, and nothing
# is read twice. Here the story is read on as it unfolds; at each question the model answers, and its own answer stays in
# the cache too. The bottom-right mask is what makes this work.

# %%
with attempt("03.1", "03.2"):
    cache = part("03.1")(config, 400, torch.float32, "cpu")
    attention = part("03.2")(cache)

    def read(ids):
        """Send a chunk of any length, and say which token comes next."""
        with torch.inference_mode():
            hidden = model(torch.tensor(ids), torch.arange(cache.length, cache.length + len(ids)), attention)
            return greedy(model.logits(hidden[-1:]))

    start, reread = 0, 0
    for question in told.questions:
        chunk = tokenizer.encode(told.text[start : question.position])[bool(start) :]  # one begin token is enough
        before, reread = cache.length, reread + len(tokenizer.encode(told.text[: question.position]))
        answer = [read(chunk)]
        while answer[-1] != newline:
            answer.append(read(answer[-1:]))
        print(f"{before:3} tokens in the cache, {len(chunk):2} more read\n    {question.text}",
              tokenizer.decode(answer[:-1]).strip())
        start = question.position + len(f" {question.answer}")
    print(f"{cache.length} tokens went through the model; reading all anew for each question takes {reread}.")

# %% [markdown]
# ## What it costs: memory
#
# Work that is not repeated has to be remembered. For each token every layer keeps a key and a value of `KH` heads of `D`
# elements:
#
# $$\text{bytes} = 2 \cdot \text{n\_layers} \cdot \text{tokens} \cdot KH \cdot D \cdot \text{bytes per element}$$
#
# Query heads are not in it. That is why models share key/value heads: *multi-head* attention (MHA) has one for each query
# head, *grouped-query* attention (GQA) one for each group, *multi-query* attention (MQA) one for all.
#
# ### 03.4 The bytes of a cache
#
# *5 minutes · difficulty 1 · `cache_bytes` in `labs/kv_cache.py` · `check("03.4")`*
#
# <details><summary>Passing the first check but failing the second?</summary>In the first model there is one layer, and
# every width is the same. A key is <code>n_kv_heads * head_dim</code> wide.</details>

# %%
check("03.4")

# %% [markdown]
# In bfloat16, and how many tokens fit into a GPU's 80 GB beside the weights. (Llama-3-8B as published is the one with GQA.)

# %%
from dataclasses import replace

import pandas as pd

from common.model.costs import forward_flops, weight_bytes
from common.model.shapes import LLAMA_3_8B

with attempt("03.4"):
    lab = load_lab("kv_cache")
    shapes = {"story model": config}
    for name, kv_heads in (("MHA", 32), ("GQA", 8), ("MQA", 1)):
        shapes[f"Llama-3-8B, {name}"] = replace(LLAMA_3_8B, n_kv_heads=kv_heads)
    rows = []
    for name, shape in shapes.items():
        table = 0 if shape.tie_embeddings else 2 * shape.vocab_size * shape.dim  # embeddings lie in memory as well
        weights = weight_bytes(shape, 2) + table
        per_token = lab.cache_bytes(shape, 1, 2)
        rows.append({"model": name, "KH": shape.n_kv_heads, "weights (MB)": weights // 10**6, "bytes per token": per_token,
                     "MB for 8192": lab.cache_bytes(shape, 8192, 2) // 10**6,
                     "tokens in 80 GB": (80 * 10**9 - weights) // per_token})
    print(pd.DataFrame(rows).to_string(index=False))

# %% [markdown]
# Every token of a Llama-3-8B is worth 128 KiB, so one full context of 8192 tokens takes about a GB, and a GPU that has
# room for the weights five times over still holds less than sixty such conversations. With MHA it would hold fourteen. Memory, not arithmetic,
# says how many users one GPU can serve: lessons 07 (pages) and 10 (fewer bits) are about that.
#
# ## What it costs: time
#
# A decode step computes little: each weight is used for one token, a multiplication and an addition. But each weight has to
# come out of memory for that, and so does the cache. The *arithmetic intensity* of a call says how often what was fetched
# is used:
#
# $$\text{intensity} = \frac{\text{operations}}{\text{bytes moved}}$$
#
# A machine has such a ratio as well, its operations per second over its bytes per second. A call whose intensity is below
# that waits for memory (*memory-bound*), above it for arithmetic (*compute-bound*).
#
# | for a call on `new` tokens after `held` | operations | bytes |
# |---|---|---|
# | weights | $2 \cdot \text{new}$ per weight | each weight once, however many tokens share it |
# | attention | each new token meets `held + new` keys: think of 02.3 | keys and values of `held + new` tokens |
# | logits | one row | (a weight like the others) |
#
# ### 03.5 What one call costs
#
# *10 minutes · difficulty 3 · `call_cost` in `labs/kv_cache.py` · `check("03.5")`*
#
# What you wrote in 02.3 may be used, as `forward_flops(config, n)`: the operations of `n` tokens on an empty cache. The
# bytes of the weights are `weight_bytes(config, bytes_per_element)`. Both are imported in the lab.
#
# <details><summary>Hint 1</summary>What do <code>held</code> tokens add to <code>forward_flops(config, new)</code>? They go
# through no weight. Each new query meets each of their keys and values: one query against one key is 2 D operations, and
# the values cost the same again, in every query head of every layer.</details>
# <details><summary>Passing the first check but failing the second?</summary>In the first the cache is
# empty.</details>

# %%
check("03.5")

# %% [markdown]
# Before you go on, guess the intensity of two calls of Llama-3-8B in bf16: prefill of 1024 tokens, and one token of decode
# after them. An H100 moves 3 TB/s and multiplies some 700 TFLOP/s, so it needs about 230 operations for each byte.

# %%
with attempt("03.5"):
    lab = load_lab("kv_cache")
    for what, new, held in (("prefill of 1024 tokens", 1024, 0), ("a chunk of 64 after 1024", 64, 1024),
                            ("decode after 1024 tokens", 1, 1024), ("decode after 100,000 tokens", 1, 100_000)):
        flops, moved = lab.call_cost(LLAMA_3_8B, new, held, 2)
        print(f"{what:27}: {flops / 1e12:8.4f} TFLOP, {moved / 1e9:5.2f} GB, {flops / moved:7.1f} operations per byte")

# %% [markdown]
# About one operation per byte: decoding keeps the arithmetic of an H100 busy for less than one per cent of the time. And it does not help to
# make the text longer, because the cache has a low intensity too: every new token reads all of it, and uses each key once
# for each of its `G` query heads.
#
# Now your own machine. The next cell measures its two ceilings, copy bandwidth and matmul rate, times calls of both
# kinds through your cache, and draws them under the roof: the slope is what memory allows, the flat part what arithmetic
# allows. (What it shows differs from machine to machine, so nothing compares it.)

# %% tags=["live"]
from IPython.display import Image, display

from common.measure import roofline, style
from common.measure.ceilings import measure_ceilings
from common.measure.timing import time_one

cpu = torch.device("cpu")
ceilings = measure_ceilings(cpu, torch.float32)


def call(cache, new):
    ids, positions = torch.zeros(new, dtype=torch.long), torch.arange(cache.length, cache.length + new)
    return greedy(model.logits(model(ids, positions, lab.CachedAttention(cache))[-1:]))


def time_prefill(n):
    return time_one(lambda: call(lab.KVCache(config, n, torch.float32, cpu), n), cpu, budget=0.5, at_least=3).median


def time_decode(held):
    cache = lab.KVCache(config, held + 101, torch.float32, cpu)  # one call warms up, and 100 are timed at most
    call(cache, held)
    return time_one(lambda: call(cache, 1), cpu, budget=0.5, at_most=100).median


with attempt("03.1", "03.2", "03.5"), torch.inference_mode():
    lab = load_lab("kv_cache")
    prefills = [roofline.Spot(f"n = {n}", *lab.call_cost(config, n, 0, 4), time_prefill(n))
                for n in (4, 16, 64, 256, 1024)]
    decodes = [roofline.Spot(f"T = {held}", *lab.call_cost(config, 1, held, 4), time_decode(held))
               for held in (16, 1500)]
    with style.in_style():
        figure = roofline.draw("Calls of the story model, float32, on this machine", ceilings,
                               {"prefill of n tokens": prefills, "decode of one token, T held": decodes})
    display(Image(style.png(figure), alt=(
        "Attained GFLOP/s against arithmetic intensity, both axes logarithmic: decode lies far to the left, under the "
        "slope of the memory bandwidth; prefills lie further right and higher the longer they are, towards the flat "
        "roof.")))
    print(f"this machine: {ceilings.flops_per_second / ceilings.bytes_per_second:.1f} operations per byte; "
          f"prefill of 256: {prefills[3].intensity:.0f}; decode: {decodes[0].intensity:.1f}")

# %% [markdown]
# How to read it: a spot on the slope could only be faster with fewer bytes, a spot on the flat part only with fewer
# operations. What lies below the roof has a third reason: on a small model the hundreds of small operations of a call
# each take some microseconds to start, whatever they compute. Prefill climbs to the right because all its tokens share one
# reading of the weights. Decode could climb the same way if tokens of *other* requests came along: lesson 08.
#
# ## Predict, then measure
#
# Three things bound a call, and the longest hides the others:
#
# $$\text{seconds of a call} = \max\left(\frac{\text{operations}}{\text{flops per second}},\;
# \frac{\text{bytes}}{\text{bytes per second}},\; \text{seconds per call}\right)$$
#
# Prefill is one call on the prompt. Each further token is a call on one token, on a cache that has grown by one.
#
# ### 03.6 Predict prefill and decode
#
# *5 minutes · difficulty 2 · `predict_seconds` in `labs/kv_cache.py` · `check("03.6")`*
#
# <details><summary>Hint 1</summary>An inner function <code>seconds(new, held)</code> with the <code>max</code> in it; then
# prefill is <code>seconds(prompt_length, 0)</code>.</details>
# <details><summary>Passing the first check but failing the second?</summary>The first asks for one new token: there is no
# decode at all. How many calls do <code>n</code> tokens need after the prefill, and how many tokens does each find in the
# cache?</details>

# %%
check("03.6")

# %% [markdown]
# Write down a guess before you run the next cell: prefill of 256 tokens does 256 times the work of a decode step. How many
# times as long does it take?

# %% tags=["live"]
with attempt("03.3", "03.6"):
    lab = load_lab("kv_cache")

    def time_generation(prompt_length, new_tokens):
        prompt = tokenizer.encode(told.text * 3)[:prompt_length]
        times = time_one(lambda: list(lab.generate(model, prompt, new_tokens, (), greedy)), cpu, budget=1.0, at_least=3)
        return times.median

    rates = forward_flops(config, 256) / time_prefill(256), ceilings.bytes_per_second, time_decode(1)
    rows = []
    for prompt_length in (16, 64, 256):
        predicted_prefill, predicted_decode = lab.predict_seconds(config, prompt_length, 64, *rates, 4)
        prefill = time_generation(prompt_length, 1)
        decode = time_generation(prompt_length, 64) - prefill
        rows.append({"prompt": prompt_length, "prefill (ms)": 1e3 * prefill, "predicted": 1e3 * predicted_prefill,
                     "decode, a token (ms)": 1e3 * decode / 63, "predicted ": 1e3 * predicted_decode / 63})
    print(pd.DataFrame(rows).round(2).to_string(index=False))

# %% [markdown]
# The same prompts and lengths as in lesson 02, from the committed measurements (`make timings` measures your machine,
# `make plots` redraws). The prediction uses two calls timed in lesson 02's way, a long one and one on a single token, and
# the copy bandwidth. The limit is that of a machine that does nothing but compute or move what has to be computed and
# moved. transformers' `generate` ran in the same rounds, on the same weights.

# %%
from common.lessons.kv_cache import figures, timings
from common.measure import TIMINGS, plots, tables
from common.measure.generation import NO_KV_TIMES

for machine in ("epyc-2-cores", "h100"):
    folder = TIMINGS / machine
    if timings.TABLE.file(folder).exists() and NO_KV_TIMES.file(folder).exists():
        cached, plain = (tables.read(table, folder) for table in (timings.TABLE, NO_KV_TIMES))
        comparison = plots.find("time_comparison", figures.FIGURES)
        display(Image(style.png(plots.draw(comparison, folder)), alt=(
            f"Seconds of a whole generation against output length on {machine}, both axes logarithmic: without a cache "
            "the curve bends upwards; with it the points rise more slowly, near the prediction. transformers' points "
            "and the limit below all are drawn as well.")))
        key = ["model", "dtype", "prompt_length", "output_length"]
        rows = cached.merge(plain[[*key, "time"]], on=key, how="left", suffixes=("", "_no_cache"))
        for name, one in rows.groupby("model", sort=False):
            shown = pd.DataFrame({
                "n": one.output_length, "no cache": one.time_no_cache, "cache": one.time,
                "gain": (one.time_no_cache / one.time).map("{:.1f}".format), "predicted": one.predicted,
                "limit": one.limit_seconds, "ms a token": 1e3 * one.decode_s / (one.output_length.astype(int) - 1),
                "peer": one.peer_time, "over peer's": one.decode_ratio})
            print(f"{machine}, {name}, seconds for n new tokens:")
            print(shown.to_string(index=False, float_format="{:.3g}".format, na_rep="-"), "\n")

# %% [markdown]
# How to read it: on double logarithmic axes a straight line with slope 1 is a time in proportion to the output. With the
# cache the points follow such a line; without it they bend upwards, since every token makes all later ones dearer. The
# gap is what the cache saves, and it grows with the length. `gain` is its size, `ms a token` a step of decode, `peer` the
# time of transformers, and `over peer's` our decode time over its (below 1: faster).
#
# ## Where this loses
#
# - **Small models on large GPUs.** Where a call waits for its kernels to be launched, a call on one token takes as long as
#   one on hundreds, and the cache saves no time at all until the texts are long.
# - **One sequence at a time.** Decode reads all weights for one token. It could serve dozens of requests in the same time:
#   lessons 04 and 08.
# - **Reserved is not used.** Room for `max_new_tokens` is taken even if the model stops after three. With many requests
#   most of the memory would be empty: lesson 07 gives it out in pages.
# - **Long texts.** The cache grows without end and every token reads all of it. Fewer heads (GQA), fewer bits (lesson 10)
#   or a window of recent tokens make it smaller, the last one at a price that the story model's questions can measure.
#
# Production engines all have this cache, and none of them in this form. vLLM and FlashInfer keep it in pages and share
# pages between requests that begin alike; SGLang keeps prefixes in a tree; transformers' default grows by concatenation and its
# static cache is reserved as yours is; FlashAttention and FlashInfer have decode kernels that split a long cache among the
# processors of a GPU. DeepSeek's models store a compressed vector per token from which keys and values are made again.
#
# **Next**: run `make grade LAB=03` in a terminal.
#
# **Sources**: keys and values kept between steps, and one head of them for all queries, Shazeer 2019, *Fast Transformer
# Decoding: One Write-Head is All You Need*; groups, Ainslie et al. 2023, *GQA*; prefill and decode as two regimes, Pope et
# al. 2022, *Efficiently Scaling Transformer Inference*; the roofline, Williams, Waterman and Patterson 2009; pages, Kwon et
# al. 2023, *Efficient Memory Management for Large Language Model Serving with PagedAttention*; prefixes in a tree, Zheng et
# al. 2024, *SGLang*; compressed keys and values, DeepSeek-AI 2024, *DeepSeek-V2*; rotation by position, Su et al. 2021,
# *RoFormer*.
