# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 02 · Generation without a cache
#
# **You will build** the plainest generation there is, text that streams while it is made, and a formula that tells how
# long it will take *before* it runs. This generation is the *oracle* of the course: every faster engine from lesson 03 on
# must give its tokens. It is also the slow thing that they are faster than, so you measure how slow.
#
# 60 minutes · difficulty 2–3 of 5 · you need: lesson 00 or the like (logits, arg max), and to know what a matrix product
# is. What is inside the model is lesson 01; here it is enough to know which matrices it holds. No GPU.
#
# ```
#  tokens   through the model                      next token
#
#    3      [The red kite]                         -> was
#    4      [The red kite was]                     -> in
#    5      [The red kite was in]                  -> the
#    6      [The red kite was in the]              -> mill
#            ^^^^^^^^^^^^ the prompt, four times
# ```
#
# **Shapes and names**
#
# | letter | meaning | in `Config` |
# |---|---|---|
# | `N` | tokens of the prefix: the prompt and what was generated so far | |
# | `V` | vocabulary | `vocab_size` |
# | `dim` | width of the model | `dim` |
# | `H`, `KH` | query heads, key/value heads | `n_heads`, `n_kv_heads` |
# | `D` | width of one head | `head_dim` |
#
# You write `labs/no_kv_generation.py`.

# %%
from common import model_folder
from common.model.checkpoint import load_model
from common.model.generate import greedy
from common.model.tokenizer import Tokenizer
from common.notebook import attempt, check, load_lab

model, tokenizer = load_model(model_folder()), Tokenizer(model_folder())
config = model.config

# %% [markdown]
# ## The loop
#
# A decoder has no memory. What it knows of the text it reads anew in each call, so each new token costs a call on the
# *whole* prefix:
#
# ```
# repeat at most max_new_tokens times:
#     hidden   = model(token_ids, positions, CausalAttention())  # (N, dim)
#     token_id = choose(model.logits(hidden[-1:]))               # from (1, V)
#     if token_id is a stop id: end
#     append token_id, and hand it over
# ```
#
# - `positions` are $0, 1, \dots, N-1$: the model does not count its tokens itself.
# - `CausalAttention()` lets each token look at itself and those before it.
# - `model.logits` is a product with a matrix of $V$ rows. Scoring all $N$ tokens is work that nobody looks at, so only the
#   last row goes in.
# - A model says that it is done with a *stop id*. That id is a signal, not text: it is not handed over. Chat models have
#   several, such as "end of turn" and "end of text".
#
# A Python *generator* hands over each token while the loop goes on: a function with `yield` in it. The one who asks for
# tokens decides when the next one is computed, and may stop asking.
#
# ### 02.1 Generate, rerunning the whole prefix
#
# *15 minutes · difficulty 2 · `generate` in `labs/no_kv_generation.py` · `check("02.1")`*
#
# The docstring is the contract. Its cost is part of it: one call, one row of logits and one choice per token.
#
# <details><summary>Hint 1</summary>Begin with <code>token_ids = list(prompt_ids)</code>, and in each round
# <code>torch.tensor(token_ids)</code> and <code>torch.arange(len(token_ids))</code>. For a GPU both take
# <code>device=next(model.parameters()).device</code>.</details>
# <details><summary>Hint 2</summary>Order in a round: call, choose, look for a stop id, append, yield. A
# <code>return</code> in a generator ends it.</details>
# <details><summary>Passing the first check but failing the second?</summary>The first has a short prompt, and looks only
# at the tokens. The second looks at what each call was given: all ids from the first one on, and their
# positions.</details>

# %%
check("02.1")

# %% [markdown]
# Let it speak. A question about a story ends with its line, so here the newline serves as stop id. Without one the model
# tells on until it has told `max_new_tokens`.

# %%
import random
from textwrap import fill

from common.model.storyworld import story

told = story(random.Random(12), tokens=120)
newline = tokenizer.encode("\n")[-1]

with attempt("02.1"):
    lab = load_lab("no_kv_generation")
    for question in told.questions:
        prompt = tokenizer.encode(told.text[: question.position])
        answer = tokenizer.decode(lab.generate(model, prompt, 12, {newline}, greedy))
        print(f"{question.text}\n    the model:{answer}; the story: {question.answer}")
    begin = "It was raining in Upper Crumpet, and"
    tokens = lab.generate(model, tokenizer.encode(begin), 24, tokenizer.stop_ids, greedy)
    print("\n" + fill(begin + tokenizer.decode(tokens), 84))

# %% [markdown]
# What did that cost? Not in seconds, which depend on the machine, but in calls and in tokens that went through the model:

# %%
from common.checking.watch import watched

with attempt("02.1"):
    lab = load_lab("no_kv_generation")
    prompt = tokenizer.encode(told.text)[:64]
    for new_tokens in (16, 32, 64):
        with watched(model) as calls:
            for _ in lab.generate(model, prompt, new_tokens, set(), greedy):
                pass
        print(f"{new_tokens} new tokens after {len(prompt)}: {calls.count} calls, {calls.tokens} tokens through the "
              f"model, {len(prompt) + new_tokens - 1} of them new")

# %% [markdown]
# Four times the output, more than five times the tokens: the prefix grows while you generate. Everything beyond the last figure of
# each line is done again, with the same result as before. That is the waste that lesson 03 removes.
#
# ## Text that streams
#
# People read while the model writes, so the text has to come out in pieces. A token is not a piece of text, though: it is
# some *bytes*. In UTF-8 `a` is one byte, `é` two, `語` three and 🪁 four, and a tokenizer may end a token between any two
# of them. What is left of a character is shown as � (U+FFFD):

# %%
text = "A café with a 🪁"
ids = tokenizer.encode(text)[1:]
for count in range(1, len(ids) + 1):
    print(count, "tokens:", tokenizer.decode(ids[:count]))

# %% [markdown]
# Whoever prints token by token prints these. Decoding each token alone is wrong for a second reason: many tokenizers
# (Llama 2's, for one) drop a space at the beginning of a text, so that `decode([a]) + decode([b])` loses the space that
# `decode([a, b])` has.
#
# ### 02.2 Stream whole characters
#
# *10 minutes · difficulty 2 · `stream_text` in `labs/no_kv_generation.py` · `check("02.2")`*
#
# `decode` gives the text of any list of ids. Yield what is new, as soon as it is whole, and never a U+FFFD.
#
# <details><summary>Hint 1</summary>Keep all ids so far and decode them from the first one on. What is new is
# <code>text[len(shown):]</code>.</details>
# <details><summary>Hint 2</summary>An unfinished character can only stand at the end:
# <code>text.rstrip("\ufffd")</code> is what is certain.</details>
# <details><summary>Passing the first check but failing the second?</summary>The first streams letters, where each token
# has a text of its own. Do you decode tokens one by one?</details>

# %%
check("02.2")

# %%
with attempt("02.1", "02.2"):
    lab = load_lab("no_kv_generation")
    print("|".join(lab.stream_text(ids, tokenizer.decode)))
    tokens = lab.generate(model, tokenizer.encode("On Tuesday the bakery smelled of"), 8, tokenizer.stop_ids, greedy)
    print("On Tuesday the bakery smelled of", *lab.stream_text(tokens, tokenizer.decode), sep="|")

# %% [markdown]
# This decodes the whole text for each token: the same waste as in the model, but a small one. Production streams decode a
# window of a few tokens.
#
# ## Counting operations
#
# How long will a call take? Nearly all of its work is matrix products. A matrix of $k$ rows and $p$ columns, applied to
# one token, costs $k \cdot p$ multiplications and as many additions: $2kp$ floating-point operations (FLOPs). Norms,
# rotary, softmax and SiLU touch each number a few times only, and are not counted. For a call on $n$ tokens:
#
# | what | matrix | FLOPs |
# |---|---|---|
# | queries, output | `dim` × `n_heads * head_dim`, and back | $2 \cdot 2\,n\,\text{dim}\,(H D)$ |
# | keys, values | `dim` × `n_kv_heads * head_dim`, twice | $2 \cdot 2\,n\,\text{dim}\,(KH\, D)$ |
# | gate, up, down | `dim` × `ffn_dim`, three times | $3 \cdot 2\,n\,\text{dim}\,\text{ffn}$ |
# | scores $q k^\top$, then scores times $v$ | none: tokens meet tokens | think: $n$ queries, $n$ keys, $H$ heads of $D$ |
# | logits | `dim` × `vocab_size` | of how many tokens? |
#
# All but the last row come once per layer.
#
# ### 02.3 The operations of one call
#
# *15 minutes · difficulty 3 · `forward_flops` in `labs/no_kv_generation.py` · `check("02.3")`*
#
# Your formula is held against the operations that `torch.utils.flop_counter` counts in a real call, to the last one.
#
# <details><summary>Hint 1</summary>One query against one key is a dot product of D numbers: 2 D operations. There are n
# times n such pairs in each of the H query heads, and then the same again with the values. (The mask throws nearly half
# of the pairs away afterwards: by convention they count, unless somebody says "causal".)</details>
# <details><summary>Hint 2</summary><code>n_heads * head_dim</code> need not be <code>dim</code>, and
# <code>n_kv_heads</code> need not be <code>n_heads</code>. Sharing key heads saves projections, but no scores: each query
# head still meets all keys.</details>
# <details><summary>Passing the first check but failing the second?</summary>The first model is square: every width is the
# same, and every head has its own keys.</details>

# %%
check("02.3")

# %%
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from common.model.attention import CausalAttention

n = 100
with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
    model.logits(model(torch.zeros(n, dtype=torch.long), torch.arange(n), CausalAttention())[-1:])
with attempt("02.3"):
    lab = load_lab("no_kv_generation")
    print(f"one call on {n} tokens: {lab.forward_flops(config, n):,} FLOPs; torch counts {counter.get_total_flops():,}")
    one, two, three = (lab.forward_flops(config, n) for n in (1, 2, 3))
    quadratic = (three - 2 * two + one) // 2  # the factor of n * n: attention, and nothing else
    for n in (1, 100, 1000, 10_000):
        print(f"n = {n:6,}: {quadratic * n * n / lab.forward_flops(config, n):4.0%} of the operations are attention")

# %% [markdown]
# A warning about counters: `sdpa_kernel(SDPBackend.MATH)` makes torch compute attention by the plain formula. Left to
# itself, it takes a fused kernel on this CPU, and the counter knows nothing of that one: attention counts as zero, without
# a word. A figure that comes out of a tool is still only as good as the formula that you hold against it.
#
# ## The operations of a whole generation
#
# Token number $i$ (from 0) costs a call on $\text{prompt} + i$ tokens, so
#
# $$\text{generation}(p, n) = \sum_{i=0}^{n-1} \text{forward}(p + i).$$
#
# `forward` is a quadratic in its length, with a small quadratic part; the sum is then nearly a quadratic in $n$.
#
# ### 02.4 The operations of a whole generation
#
# *5 minutes · difficulty 2 · `generation_flops` in `labs/no_kv_generation.py` · `check("02.4")`*
#
# <details><summary>Hint 1</summary>A sum over <code>range(new_tokens)</code> with <code>forward_flops</code> will do. A
# closed formula is welcome, if it stays exact.</details>
# <details><summary>Passing the first check but failing the second?</summary>One new token is one call. Is the second call
# as long as the first?</details>

# %%
check("02.4")

# %%
from common.model.shapes import LLAMA_3_8B

with attempt("02.3", "02.4"):
    lab = load_lab("no_kv_generation")
    for name, shape in (("story model", config), ("Llama-3-8B", LLAMA_3_8B)):
        for new_tokens in (128, 2048):
            flops = lab.generation_flops(shape, 64, new_tokens)
            print(f"{name + ',':12} {new_tokens:4} tokens after 64: {flops / 1e12:9,.2f} TFLOP, "
                  f"{flops / lab.forward_flops(shape, 64 + new_tokens):4.0f} times reading it all once")

# %% [markdown]
# ## Predict, then measure
#
# An H100 multiplies bf16 matrices at some 700 TFLOP/s, so 2048 tokens of Llama-3-8B should take about 47 s at best. At
# best: a call on few tokens takes a certain time however little it computes, because all weights must come out of memory,
# and because hundreds of kernels have to be launched. So time two calls, one on a single token and a long one, and from
# these predict everything between:
#
# $$\text{seconds} = \sum_{i=0}^{n-1} \max\left(\frac{\text{forward}(p+i)}{\text{flops per second}},\;
# \text{seconds per call}\right)$$
#
# The `max` is the *roofline* idea: of two things that go on at the same time, the slower one decides. Where the two are
# equal the model stops waiting and begins to compute.
#
# ### 02.5 Predict the time
#
# *10 minutes · difficulty 2 · `predict_seconds` in `labs/no_kv_generation.py` · `check("02.5")`*
#
# <details><summary>Hint 1</summary>The <code>max</code> stands inside the sum: short prefixes may wait while long ones
# compute.</details>
# <details><summary>Passing the first check but failing the second?</summary>In the first a call costs nothing but its
# operations.</details>

# %%
check("02.5")

# %% [markdown]
# Before you run the next cell, write down: by how much will 64 tokens take longer than 16 on your machine? Four times, or
# more than five, as the count of tokens above would have it? Then measure. (Its output differs from machine to machine, so nothing
# compares it.)

# %% tags=["live"]
import pandas as pd

from common.lessons.no_kv_generation import timings
from common.measure.generation import characterise

live = characterise(model, prompt=tokenizer.encode(told.text)[:64], longest=128)
rows = pd.DataFrame([{"output_length": n} | timings.measure(lambda: live, n, budget=1.0) for n in (16, 32, 64)])
print(f"a call on one token: {1e3 * live.call_seconds:.1f} ms; a call on 128: {live.call_flops_per_second / 1e9:.0f} GFLOP/s")
print(rows[["output_length", "time", "predicted", "limit_seconds", "repeats"]].round(3).to_string(index=False))

# %% [markdown]
# The same for longer outputs, from the committed measurements (`make timings` measures your machine, `make plots` redraws).
# Each figure shows the measured seconds of whole generations, a fitted curve $a + b\,n + c\,n^2$, what the formula above
# predicts from two calls, and the limit: no call can be faster than its FLOPs at the matmul rate of that machine, nor than
# its weights at the copy bandwidth, both measured in the same run.

# %%
from IPython.display import Image, display

from common.lessons.no_kv_generation import figures
from common.measure import TIMINGS, plots, style, tables
from common.measure.generation import NO_KV_TIMES

for machine in ("epyc-2-cores", "h100"):
    folder = TIMINGS / machine
    if NO_KV_TIMES.file(folder).exists():
        rows = tables.read(NO_KV_TIMES, folder)
        figure = plots.find("no_kv_times", figures.FIGURES)
        display(Image(style.png(plots.draw(figure, folder)), alt=(
            f"Seconds of a whole generation without a cache against output length on {machine}, both axes logarithmic: "
            "measured points on a fitted quadratic, the prediction, and the limit below both.")))
        table = pd.DataFrame({
            "model": rows.model, "n": rows.output_length, "time": rows.time, "predicted": rows.predicted,
            "limit": rows.limit_seconds, "over limit": (rows.time / rows.limit_seconds).map("{:,.1f}".format),
            "repeats": rows.repeats})
        print(f"{machine}, seconds for n new tokens:")
        print(table.to_string(index=False, float_format="{:.3g}".format), "\n")
        for name, one in rows.groupby("model", sort=False):
            print(f"{name}: time = {figures.describe_fit(figures.fit_times(one))}, for n new tokens")

# %% [markdown]
# How to read it: each point is a whole generation, and its distance from the dashed line is what a better engine could
# gain without doing less. On the CPU the curve bends upwards because every token makes all later ones dearer. A prediction
# that lies clearly below the points has left something out: operations that are no products, products too small to run at
# full rate. Points and predictions that change places by a few per cent are noise.
#
# On the H100 the story model lies 300 to 1,150 times above its limit. There a call takes some 4 ms whether it sees one
# token or hundreds: the arithmetic is over in microseconds, and the rest goes by while Python starts one small operation
# after the other. The 8B shape starts more of them, and no call of it is shorter than about 19 ms, although its weights
# could be read in 5.1 ms. It hides that once it has enough to compute: four times its limit at 128 tokens, twice at 2048.
#
# A tale from measuring: in our first run each *new* length cost far more than one that had come before. That was cuDNN,
# which torch prefers on this GPU, planning its attention anew for each shape. A generation without a cache never
# has the same shape twice, so the course leaves cuDNN out (`common/device.py`).
#
# ## Where this loses
#
# - Everywhere. Lesson 03 gives the same tokens and sends each token through the model once: it keeps keys and values.
#   After that a call computes almost nothing, and reading the weights becomes the limit.
# - One sequence at a time. A GPU that reads 16 GB of weights for one token could as well compute 100 tokens of other
#   requests with them: lessons 04 and 08.
#
# Production engines (vLLM, SGLang, TensorRT-LLM) never generate like this. They do test like this: a slow, plain
# generation is what their caches, kernels and schedulers are held against. And their servers all stream as 02.2 does,
# holding back what ends in half a character.
#
# **Next**: run `make grade LAB=02` in a terminal.
#
# **Sources**: counting 2 FLOPs per weight and token, Kaplan et al. 2020, *Scaling Laws for Neural Language Models*,
# section 2.1; the roofline, Williams, Waterman and Patterson 2009, *Roofline: An Insightful Visual Performance Model for
# Multicore Architectures*; inference as waiting for weights, Pope et al. 2022, *Efficiently Scaling Transformer
# Inference*; UTF-8, RFC 3629; replacement of unfinished characters, *The Unicode Standard*, section 3.9; the colours of
# the figures, Okabe and Ito 2008, *Color Universal Design*.
