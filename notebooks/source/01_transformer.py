# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 01 · The transformer
#
# **You will build** a Llama decoder from nothing but tensor formulas: every box with a number in the picture below. Then
# the story model speaks, and between its weights and its words stands no code but yours.
#
# 120 minutes · difficulty 1–3 of 5 · you need: PyTorch (broadcasting, `@`, `softmax`) and lesson 00's three steps. No GPU,
# and no knowledge of what goes on inside a transformer.

# %%
from IPython.display import SVG, display

from common import ROOT

display(SVG(ROOT / "docs" / "decoder.svg"))

# %% [markdown]
# From left to right. Each token's id picks a row of `dim` numbers out of a table, the *embedding*. These rows are the
# *residual stream*: one row a token, and all that the model knows about that token so far. A *layer* has two parts, and
# each reads the stream and adds what it found to it. *Attention* is the only place where tokens learn of one another; the
# *feed-forward* part works on every row by itself. After the last layer a row is compared with every token of the
# vocabulary: those are the *logits*, the scores of which token comes next.
#
# **Shapes**, in all that follows:
#
# | letter | meaning | story model | Llama-3-8B |
# |---|---|---|---|
# | `N` | tokens of one sequence, in order | | |
# | `dim` | width of the residual stream | 256 | 4096 |
# | `H` | query heads | 4 | 32 |
# | `KH` | key/value heads; `H` is a multiple of it | 2 | 8 |
# | `D` | head dim, the width of one head | 64 | 128 |
# | `F` | width inside the feed-forward part | 768 | 14336 |
# | `V` | vocabulary | 2526 | 128256 |
#
# Tokens are *packed*: `(N, ...)`, without a batch dimension. Lesson 04 puts many requests into that one row.
#
# A weight matrix lies in memory as `(outputs, inputs)`, as `torch.nn.Linear` keeps it: `x @ weight.T` applies it.
#
# You edit `labs/transformer.py`. Its docstrings are the contracts; this notebook tells why they are what they are.

# %%
import io
from textwrap import fill

import torch
from IPython.display import Image
from matplotlib.figure import Figure

from common import STORY_LLAMA, model_folder
from common.model.attention import CausalAttention
from common.model.checkpoint import CheckpointError, load_model
from common.model.evaluate import fresh_stories
from common.model.generate import generate
from common.model.tokenizer import Tokenizer
from common.notebook import attempt, check, load_lab

model, tokenizer = load_model(STORY_LLAMA), Tokenizer(STORY_LLAMA)
config, weights = model.config, model.state_dict()


def show(figure: Figure, alt: str) -> None:
    """Display a figure together with words for those who cannot see it."""
    png = io.BytesIO()
    figure.savefig(png, dpi=110)
    display(Image(png.getvalue(), alt=alt))


def tell(text: str) -> None:
    print("\n".join(fill(line, 84) for line in text.splitlines()))


print(f"{len(weights)} tensors, {sum(weight.numel() for weight in weights.values()):,} numbers; those of layer 0:")
for name, weight in weights.items():
    if name.startswith("layers.0."):
        print(f"  {name.removeprefix('layers.0.'):34}{tuple(weight.shape)}")

# %% [markdown]
# ## Rows of one size
#
# Parts add to the stream layer after layer, so its rows grow. Before a part reads one, the row is brought to one size: its
# *root mean square* becomes 1. Then every column is scaled by a learned weight.
#
# $$\text{out}[n, i] = \text{weight}[i] \cdot \frac{x[n, i]}{\sqrt{\text{mean}_j\, x[n, j]^2 + \text{eps}}}$$
#
# `eps` keeps a row of zeros from dividing by zero. It stands under the root, next to the mean, and in a row of small
# numbers that matters. Another thing matters in the 16-bit numbers of real checkpoints:

# %%
big = torch.tensor(300.0, dtype=torch.float16)
print(f"300 * 300 in float16 is {(big * big).item()}; the largest float16 is {torch.finfo(torch.float16).max:.0f}.")

# %% [markdown]
# ### 01.1 RMSNorm
#
# *10 minutes · difficulty 1 · `rms_norm` in `labs/transformer.py` · `check("01.1")`*
#
# Write the formula, in float32 inside, and give back what came in: the same shape, the same dtype.
#
# <details><summary>Hint 1</summary><code>x.float()</code> first. Then square, take the mean over the last dimension, add
# eps, take the root, divide, scale.</details>
# <details><summary>Hint 2</summary><code>mean(dim=-1, keepdim=True)</code> has shape (N, 1), so it broadcasts over the
# columns. <code>torch.rsqrt</code> is 1 / sqrt.</details>
# <details><summary>Passing the first check but failing the second?</summary>The first has one row and weights of 1. A mean
# over the whole matrix, or a forgotten weight, shows with the second row.</details>

# %%
check("01.1")

# %% [markdown]
# ## Where a token stands
#
# Attention, soon to come, compares a *query* of one token with a *key* of another by their dot product. A dot product knows
# nothing of order: *kite holds Wilma* would look like *Wilma holds kite*. So both are turned by an angle that grows with
# their token's position. Turn two arrows of the plane by `a` and by `b`, and their dot product depends on `a - b` only. What
# the model sees is thus how far apart two tokens are, wherever the text began.
#
# A head has `D` numbers, that is `D/2` pairs, and each pair turns at a speed of its own. Pair `i` makes
# $\theta^{-2i/D}$ radians a token: the first is a fast hand of the clock, which tells neighbours apart, and the last is
# slow, which tells near from far.
#
# $$\text{angle}[n, i] = \text{positions}[n] \cdot \theta^{-2i/D}, \qquad
# \begin{aligned} \text{out}[i] &= x[i] \cos - x[i + D/2] \sin \\ \text{out}[i + D/2] &= x[i + D/2] \cos + x[i] \sin
# \end{aligned}$$
#
# Which two numbers make a pair is a convention. Hugging Face's checkpoints pair `x[i]` with `x[i + D/2]`, half with half;
# the paper pairs neighbours. Weights that were made for one convention give nonsense under the other.
#
# And again 16 bits are too few for what is not a weight:

# %%
print(f"position 2049 in float16 is {torch.tensor(2049, dtype=torch.float16).item():.0f}: one radian off in the first pair.")

# %% [markdown]
# ### 01.2 Rotary embedding
#
# *20 minutes · difficulty 3 · `rotate` in `labs/transformer.py` · `check("01.2")`*
#
# <details><summary>Hint 1</summary>The frequencies are <code>theta ** (-torch.arange(0, D, 2) / D)</code>, of shape (D/2,).
# Times positions of shape (N, 1, 1) that makes angles of shape (N, 1, D/2), which broadcast over the heads.</details>
# <details><summary>Hint 2</summary><code>first, second = x.float().chunk(2, dim=-1)</code> are the two halves; glue the
# two results with <code>torch.cat(..., dim=-1)</code> and go back to x's dtype.</details>
# <details><summary>Passing the first check but failing the second?</summary>With D = 2 there is only one pair, so pairing
# neighbours looks right, and so does any frequency of the form theta ** 0.</details>

# %%
check("01.2")

# %% [markdown]
# **Predict**: take a query and a key that point the same way, in all pairs alike, and move the key away token by token.
# After how many tokens has their dot product fallen to half? And if the clock runs slower, with theta = 500,000 instead of
# 10,000?

# %%
with attempt("01.2"):
    lab = load_lab("transformer")
    distances = torch.arange(2049)
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    for theta, style in ((1e4, "-"), (5e5, "--")):
        turned = lab.rotate(torch.ones(len(distances), 1, 64), distances, theta)
        score = (turned @ turned[0, 0] / 64).squeeze(1)  # 1 where nothing has turned
        axes.plot(distances[1:], score[1:], style, linewidth=1.2, label=f"theta = {theta:,.0f}")
        print(f"theta = {theta:>9,.0f}: below one half from {int((score < 0.5).nonzero()[0])} tokens on")
    axes.set(xscale="log", xlabel="distance (tokens)", ylabel="dot product / that at distance 0",
             title="Two alike arrows in 64 dimensions, turned apart by rotary embedding")
    axes.axhline(0, color="grey", linewidth=0.6)
    axes.legend()
    show(figure, "Line plot. With theta 10,000 the dot product falls below a half after 28 tokens and swings around zero "
                 "near 2,000; with theta 500,000 it falls after 78 and stays well above zero.")

# %% [markdown]
# | theta | at 1 token | 10 | 100 | 1000 |
# |---|---|---|---|---|
# | 10,000 | 0.97 | 0.66 | 0.56 | 0.28 |
# | 500,000 | 0.97 | 0.75 | 0.65 | 0.45 |
#
# Near tokens get more say, unless training teaches a head otherwise. A larger theta slows the slow hands, so that more
# distances can be told apart before they come round again: that is why models for long texts have one.
#
# ## Tokens that look back
#
# For every token, each *head* asks one question. The token's *query* is compared with the *keys* of all tokens up to its own;
# the softmax of the scores gives weights that sum to 1; the answer is the mean of their *values* under these weights.
#
# $$\text{scores}[h, i, j] = \frac{q[i, h] \cdot k[j, h']}{\sqrt D}, \qquad \text{scores}[h, i, j > i] = -\infty, \qquad
# \text{out}[i, h] = \sum_j \text{softmax}_j(\text{scores}[h, i, j])\; v[j, h']$$
#
# **The mask.** The model is trained to guess token `i + 1` from row `i`, for all `i` at once. If row `i` could look at token
# `i + 1`, it would copy instead of guess. It may look at itself:
#
# ```
#          j = 0   1   2   3
#  i = 0       x   .   .   .        x  a score
#  i = 1       x   x   .   .        .  -inf: weight 0 after the softmax
#  i = 2       x   x   x   .
#  i = 3       x   x   x   x
# ```
#
# **The scale.** The dot product of two random arrows grows like the root of their length `D`; dividing by it keeps the
# softmax from choosing one token only.
#
# **The groups.** Keys and values have `KH` heads, fewer than the `H` of the queries: `H // KH` *neighbouring* query heads
# share one, `h' = h // (H // KH)`. They are what a cache must remember (lesson 03), so Llama-3-8B needs a quarter of the
# memory that it would need with 32 of them.
#
# ### 01.3 Causal grouped-query attention
#
# *20 minutes · difficulty 3 · `causal_attention` in `labs/transformer.py` · `check("01.3")`*
#
# Formulas only: torch's own attention is refused here. Any way of writing them will do, loops included.
#
# <details><summary>Hint 1</summary>First make k and v as wide as q: <code>k.repeat_interleave(H // KH, dim=1)</code> repeats
# every head in place. From there on each query head has its own.</details>
# <details><summary>Hint 2</summary><code>torch.einsum("ihd,jhd-&gt;hij", q, k)</code> gives all scores.
# <code>torch.ones(N, N, dtype=torch.bool).triu(diagonal=1)</code> is true where j &gt; i, and <code>masked_fill</code> puts
# -inf there.</details>
# <details><summary>Passing the first check but failing the second?</summary>From the second on there are more than four
# tokens, and q, k and v are slices of a wider tensor, as a real engine hands them over: <code>.view</code> may fail there, and
# <code>.reshape</code> does not.</details>
# <details><summary>Right with one head, wrong with more?</summary>A scale of <code>sqrt(H * D)</code> is right for H = 1.
# Heads 0, 1, 0, 1 instead of 0, 0, 1, 1 are right for KH = 1 and for KH = H.</details>

# %%
check("01.3")

# %% [markdown]
# ## Each token by itself
#
# The feed-forward part widens a row to `F` numbers and comes back to `dim`. Between lies a product of two branches: one,
# through the bent curve `silu`, is a *gate* that opens or closes what the other brings up.
#
# $$\text{swiglu}(x) = \big(\text{silu}(x\, W_\text{gate}^\top) \odot (x\, W_\text{up}^\top)\big)\, W_\text{down}^\top,
# \qquad \text{silu}(g) = g \cdot \text{sigmoid}(g) = \frac{g}{1 + e^{-g}}$$
#
# Three quarters of a layer's weights lie here, in the story model. Nothing moves between tokens.
#
# ### 01.4 SwiGLU
#
# *10 minutes · difficulty 1 · `swiglu` in `labs/transformer.py` · `check("01.4")`*
#
# <details><summary>Hint</summary><code>torch.sigmoid(gate) * gate</code> is silu. Which of the two products goes through
# it?</details>
# <details><summary>Passing the first check but failing the second?</summary>There all weights are identities, so both
# branches bring the same numbers, and a transpose changes nothing. silu belongs to w_gate's branch.</details>

# %%
check("01.4")

# %% [markdown]
# ## One layer
#
# Now the orange line of the picture. A part reads a *normed copy* of the stream and adds its result to the stream itself:
#
# ```
# h = rms_norm(x, input_layernorm.weight)
# q    = q_proj of h, cut into heads                # (N, H, D)
# k, v = k_proj, v_proj of h, cut into heads        # (N, KH, D) each
# x = x + o_proj of causal_attention(rotate(q), rotate(k), v)
# x = x + swiglu(rms_norm(x, post_attention_layernorm.weight))
# ```
#
# Queries and keys are rotated, for they decide *where* to look. Values are not, for they are *what* is seen there.
#
# ### 01.5 The decoder layer
#
# *20 minutes · difficulty 3 · `decoder_layer` in `labs/transformer.py` · `check("01.5")`*
#
# The four functions arrive as `parts.rms_norm`, `parts.rotate`, `parts.causal_attention` and `parts.swiglu`. The check brings
# its own, so a slip in 01.1 costs you nothing here. Later lessons put faster ones in their place.
#
# <details><summary>Hint 1</summary><code>q = (h @ weights["self_attn.q_proj.weight"].T).unflatten(-1, (config.n_heads,
# config.head_dim))</code> has shape (N, H, D). After attention, <code>flatten(-2)</code> goes back to (N, H * D).</details>
# <details><summary>Hint 2</summary>Only the normed copy goes into a part, and only x itself is added to. Write
# <code>x = x + ...</code>: the tensor that <code>x += ...</code> changes belongs to the caller.</details>
# <details><summary>Passing the first check but failing the second?</summary>In the first the weights of both norms are ones,
# so that taking the wrong one goes unnoticed. Which stands before attention?</details>
# <details><summary>Right for one token, wrong for several?</summary>At position 0 nothing turns and there is nobody else to
# attend to: look at the rotation, at the positions handed on, and at the order of heads.</details>

# %%
check("01.5")

# %% [markdown]
# ## The whole model
#
# Embedding, layers, a last norm, and the comparison with every token: `logits = hidden @ head.T`. In the story model the
# `head` is the embedding itself: a row that resembles a token's own embedding predicts that token. Such weights are called
# *tied*. Larger models keep a second table, `lm_head.weight`.
#
# ### 01.6 The whole model
#
# *10 minutes · difficulty 2 · `llama_logits` in `labs/transformer.py` · `check("01.6")`*
#
# The last of its checks takes all parts from your file. It generates twelve tokens of a fresh story, and compares them with
# what the course's own decoder says.
#
# <details><summary>Hint 1</summary>Indexing a table with a tensor of ids gives their rows: <code>table[token_ids]</code>, of
# shape (N, dim).</details>
# <details><summary>Hint 2</summary><code>layer_weights(weights, index)</code> stands ready in your file.</details>
# <details><summary>Passing the first check but failing the second?</summary>One token at position 0 needs neither the other
# rows nor their positions.</details>

# %%
check("01.6")

# %% [markdown]
# Lesson 00 asked a finished model for its logits. This cell holds nothing but your functions and the weights:

# %%
prompt = "It was a fine Monday morning in Upper Crumpet."
with attempt("01.1", "01.2", "01.3", "01.4", "01.5", "01.6"):
    lab = load_lab("transformer")
    token_ids = tokenizer.encode(prompt)
    begun = len(token_ids)
    with torch.inference_mode():
        for _ in range(67):
            logits = lab.llama_logits(torch.tensor(token_ids), weights, config, parts=lab)
            token_ids.append(int(logits[-1].argmax()))
    tell(tokenizer.decode(token_ids))
    same = token_ids[begun:] == list(generate(model, token_ids[:begun], 67))
    print(f"\nThe same tokens as the course's own decoder: {same}")

# %% [markdown]
# ## How good is a guess?
#
# Training needs one number that says how well the rows of logits foresaw the text. For each token it takes the probability
# that the model gave to what really came, and minus its logarithm: 0 for a sure and right guess, large for a sure and wrong
# one. The mean is the *loss*, in *nats* because the logarithm is the natural one.
#
# $$\text{loss} = \frac{1}{N - 1} \sum_{i=0}^{N-2} -\log \text{softmax}(\text{logits}[i])[\text{token\_ids}[i + 1]]$$
#
# Row `i` foretells token `i + 1`. So the first token is never foretold, and the last row foretells nothing that is there.
#
# ### 01.7 The loss
#
# *10 minutes · difficulty 2 · `next_token_loss` in `labs/transformer.py` · `check("01.7")`*
#
# <details><summary>Hint 1</summary>log(softmax(x)[t]) = x[t] - logsumexp(x). <code>torch.logsumexp</code> takes the maximum
# out first, so that it bears any logits.</details>
# <details><summary>Hint 2</summary><code>rows.gather(1, ids[:, None])</code> picks from each row the element that
# <code>ids</code> names.</details>
# <details><summary>Passing the first check but failing the second?</summary>In the first all logits are equal, so that each
# token is as likely as any other. Which row goes with which token?</details>

# %%
check("01.7")

# %% [markdown]
# A model that knows nothing has a loss of log(V), here log(2526) = 7.8. **Predict**: what is the story model's loss on a fresh
# story of its village? And on the same tokens from last to first, is it below or above 7.8?

# %%
with attempt("01.7"):
    lab = load_lab("transformer")
    (told,) = fresh_stories(1, seed="lesson 01", shortest=200, longest=201)
    token_ids = torch.tensor(tokenizer.encode(told.text))
    order = torch.tensor([0, *range(len(token_ids) - 1, 0, -1)])  # the begin token stays in front
    for text, ids in (("as it was told", token_ids), ("told backwards", token_ids[order])):
        logits = model.logits(model(ids, torch.arange(len(ids)), CausalAttention()))
        loss = lab.next_token_loss(logits, ids).item()
        print(f"{text}: {loss:.1f} nats a token")

# %% [markdown]
# A loss of 0.6 is that of a model that gives every right token the probability exp(-0.6), about a half. Told backwards, the
# story costs far more than knowing nothing would: the model is sure of itself, and wrong.
#
# ## Choosing with chance
#
# Always taking the best token gives one story for each prompt. *Sampling* draws the next token at random, by its
# probability, and three settings bend that chance:
#
# - **temperature** divides the logits *before* the softmax. Below 1 the likely become likelier; above 1 all become more
#   alike. As it falls to 0 only the best is left, so 0 stands for greedy.
# - **top_k** keeps the `top_k` most likely tokens and scales their probabilities to sum 1.
# - **top_p** then keeps the smallest set of most likely tokens whose probabilities reach `top_p`, the *nucleus*:
#
# ```
# top_p = 0.6
# probabilities, largest first     0.40   0.30   0.20   0.10
# sum of the likelier ones         0      0.40   0.70   0.90
# kept: that sum is below top_p    yes    yes    no     no
# ```
#
# 0.40 alone does not reach 0.6, 0.40 + 0.30 does: the token that crosses the line is kept.
#
# Chance must be repeatable: it comes from a `torch.Generator` that the caller has seeded, and from nowhere else.
#
# ### 01.8 Sampling
#
# *15 minutes · difficulty 3 · `sample` in `labs/transformer.py` · `check("01.8")`*
#
# The check draws 2,000 tokens and compares their frequencies with the probabilities. How you draw is your affair; a right
# solution fails by bad luck once in a hundred million checks.
#
# <details><summary>Hint 1</summary>Sort once: <code>probs, ids = probs.sort(descending=True)</code>. Then top_k and top_p both
# set an end of <code>probs</code> to zero, and <code>ids</code> leads back to token ids.</details>
# <details><summary>Hint 2</summary><code>probs.cumsum(dim=-1) - probs</code> is the sum of all likelier ones.
# <code>torch.multinomial</code> draws an index and takes a <code>generator</code>.</details>
# <details><summary>Passing the first check but failing the second?</summary>The first is temperature 0. At 0.001 the logits
# become a thousand times as large: <code>exp</code> overflows, where <code>softmax</code> does not.</details>

# %%
check("01.8")

# %% [markdown]
# After its first sentence a story may go on in half a dozen ways, or with the name of a villager. **Predict**: of 2,526 tokens,
# how many does `top_p = 0.9` keep at temperature 1? How many at 0.5, and at 2?

# %%
ids = torch.tensor(tokenizer.encode(prompt))
logits = model.logits(model(ids, torch.arange(len(ids)), CausalAttention()))[-1]
temperatures = (0.5, 1.0, 2.0)
for temperature in temperatures:
    probs = (logits.double() / temperature).softmax(dim=-1).sort(descending=True).values
    print(f"temperature {temperature}: top_p = 0.9 keeps {int((probs.cumsum(0) - probs < 0.9).sum())} tokens")

# %%
with attempt("01.8"):
    lab = load_lab("transformer")
    likely = logits.topk(9).indices
    names = [tokenizer.decode([id]).strip() for id in likely.tolist()]
    generator = torch.Generator().manual_seed(1)
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for axes, temperature in zip(figure.subplots(1, 3, sharey=True), temperatures, strict=True):
        drawn = torch.tensor([lab.sample(logits, temperature, 0, 0.9, generator) for _ in range(1000)])
        axes.bar(names, (logits / temperature).softmax(dim=-1)[likely], color="#9cc3e4", label="softmax")
        axes.plot(names, [(drawn == id).float().mean() for id in likely], "o", color="#9a3412", label="drawn, top_p = 0.9")
        axes.set(title=f"temperature {temperature}", xlabel="next token")
        axes.tick_params(axis="x", rotation=60)
    figure.axes[0].set_ylabel("probability; share of 1000")
    figure.axes[2].legend()
    show(figure, "Three bar charts of the nine likeliest next tokens. At temperature 0.5 the first two take more than half; "
                 "at 1 they have an eighth each; at 2 all are below 0.06. Dots show the shares of drawn tokens: "
                 "a little above their bars, for top_p has given them what it took from the tail, and zero where it cut.")

# %% [markdown]
# Bars are the softmax, dots what your `sample` drew. At 0.5 the names are gone: top_p has cut them off, and what they had went to
# the six that are left. At 2 it keeps nearly everything that makes sense and some that does not: top_p cuts little where a model
# is unsure, and so high temperatures go with `top_k`.
#
# Three tellings of one beginning, at temperature 0.8. Your way of drawing may tell others, so nothing compares them.

# %% tags=["live"]
with attempt("01.1", "01.2", "01.3", "01.4", "01.5", "01.6", "01.8"):
    lab = load_lab("transformer")
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        token_ids = tokenizer.encode(prompt)
        with torch.inference_mode():
            for _ in range(40):
                logits = lab.llama_logits(torch.tensor(token_ids), weights, config, parts=lab)
                token_ids.append(lab.sample(logits[-1], 0.8, 50, 0.95, generator))
        tell(f"seed {seed}: {tokenizer.decode(token_ids)} ...\n\n")

# %% [markdown]
# ## Where real checkpoints differ
#
# The formulas stay, the numbers change, and a few switches are thrown:
#
# | | Llama 2 7B | Llama 3 8B | Llama 3.2 1B | TinyLlama 1.1B | story model |
# |---|---|---|---|---|---|
# | `H` / `KH` | 32 / 32 | 32 / 8 | 32 / 8 | 32 / 4 | 4 / 2 |
# | `D` | 128 | 128 | 64 | 64 | 64 |
# | theta | 10,000 | 500,000 | 500,000 | 10,000 | 10,000 |
# | longest text it was trained for | 4,096 | 8,192 | 131,072 | 2,048 | 2,048 |
# | rotary scaling | none | none | `llama3`, factor 32 | none | none |
# | embeddings tied | no | no | yes | no | yes |
#
# - **Rotary scaling.** Llama 3.1 and 3.2 were first trained on 8,192 tokens, and then stretched: frequencies too slow to turn
#   once in the old length are divided by a factor, fast ones are kept, and those between are blended
#   (`scale_frequency` in `common/model/llama.py`, ten lines). `rotate` as you wrote it would be wrong for them.
# - **Head dim.** `D` is usually `dim / H`, yet not always: Mistral NeMo has `dim` = 5120 and 32 heads of 128. So read `head_dim`
#   where the config has it.
# - **The begin token.** Llama and the story model expect one in front of every text, others (such as SmolLM2) have none. Left
#   out or put twice, no error comes, only worse text. `tokenizer.encode` looks it up.
# - **eps** is 1e-5 or 1e-6, and **16 bits** are how weights are stored: bfloat16 mostly, float16 in the story model.
#
# The next cell reads the folder that `MODEL=` names (`MODEL=/path/to/Llama-3.2-1B make lab`), or the story model, and speaks
# through it. Here *your* norm, feed-forward part and attention sit inside the course's own decoder, which is how later
# lessons use them; where a checkpoint stretches its frequencies, the rotation stays the course's. In float32 a model takes
# 4 bytes a weight: 8 billion need 32 GB.

# %% tags=["live"]
from common.model.llama import Parts, RMSNorm, Rotary, SwiGLU


class YourNorm(RMSNorm):
    def forward(self, x):
        return lab.rms_norm(x, self.weight, self.eps)


class YourRotary(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.theta = config.rope_theta

    def forward(self, positions):
        return positions, self.theta  # the decoder hands both on to `rotate`

    @staticmethod
    def rotate(x, positions, theta):
        return lab.rotate(x, positions, theta)


class YourSwiGLU(SwiGLU):
    def forward(self, x):
        return lab.swiglu(x, self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight)


def your_attention(layer, q, k, v):
    return lab.causal_attention(q, k, v)


def choose_rotary(config):
    return YourRotary(config) if config.rope_scaling is None else Rotary(config)


with attempt("01.1", "01.2", "01.3", "01.4"):
    try:
        lab = load_lab("transformer")
        real = load_model(model_folder(), parts=Parts(norm=YourNorm, rotary=choose_rotary, mlp=YourSwiGLU))
        its_tokenizer = Tokenizer(model_folder())
        begins = "none" if its_tokenizer.bos_id is None else its_tokenizer.tokenizer.id_to_token(its_tokenizer.bos_id)
        for fact, value in {
            "H / KH / D": f"{real.config.n_heads} / {real.config.n_kv_heads} / {real.config.head_dim}",
            "dim, layers, V": f"{real.config.dim}, {real.config.n_layers}, {real.config.vocab_size}",
            "theta": f"{real.config.rope_theta:,.0f}",
            "rotary scaling": real.config.rope_scaling or "none",
            "longest text": f"{real.config.max_positions:,} tokens",
            "embeddings tied": real.config.tie_embeddings,
            "norm's eps": real.config.norm_eps,
            "begin token": begins,
        }.items():
            print(f"{fact:16}{value}")
        token_ids = its_tokenizer.encode("It was a quiet Sunday, and")
        with torch.inference_mode():
            for _ in range(24):
                hidden = real(torch.tensor(token_ids), torch.arange(len(token_ids)), your_attention)
                token_ids.append(int(real.logits(hidden[-1:]).argmax()))
        tell(f"\n{its_tokenizer.decode(token_ids)} ...")
    except CheckpointError as error:
        print(error)  # one sentence: what is wrong with the folder, and the next step

# %% [markdown]
# ## Where this loses
#
# - `causal_attention` writes `H * N * N` scores to memory: 32 heads and 8,192 tokens make 8.6 GB in float32, for one layer. Half of
#   them are masked away. Lesson 06 never writes them down.
# - `repeat_interleave` copies keys and values `H // KH` times, which throws away what sharing them saves.
# - `rotate` computes its sines in every layer anew, for q and for k; `common/model/llama.py` computes them once a pass.
# - Each formula here is several kernels, each of which reads and writes whole tensors. Lesson 05 fuses them.
# - And every new token runs the whole text again: lesson 02 counts that, and lesson 03 ends it.
#
# Production engines (vLLM, SGLang, TensorRT-LLM) compute these same formulas. They fuse the norm with the residual addition, and
# gate with up into one matrix; they lay q, k and v into one projection, and take attention from FlashAttention or FlashInfer.
# They sample on the GPU for all requests at once, without sorting where only the largest few are asked for.
#
# **Next**: `make grade LAB=01` in a terminal, then `02_no_kv_generation.ipynb`.
#
# **Sources**: attention, Vaswani et al. 2017, *Attention Is All You Need*; the decoder's shape, Touvron et al. 2023, *LLaMA: Open
# and Efficient Foundation Language Models*; RMSNorm, Zhang and Sennrich 2019, *Root Mean Square Layer Normalization*; rotary, Su
# et al. 2021, *RoFormer: Enhanced Transformer with Rotary Position Embedding*; grouped queries, Ainslie et al. 2023, *GQA: Training
# Generalized Multi-Query Transformer Models from Multi-Head Checkpoints*; SwiGLU, Shazeer 2020, *GLU Variants Improve Transformer*;
# tied embeddings, Press and Wolf 2017, *Using the Output Embedding to Improve Language Models*; top-k, Fan et al. 2018,
# *Hierarchical Neural Story Generation*; top-p, Holtzman et al. 2020, *The Curious Case of Neural Text Degeneration*; rotary scaling,
# Grattafiori et al. 2024, *The Llama 3 Herd of Models*, and the code that came with Llama 3.1.
