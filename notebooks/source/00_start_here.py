# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 00 · Start here
#
# **You will build** three small things that every later lesson leans on: the choice of the next token, a meter that
# says how well a model answers, and a first Triton kernel. On the way you meet the model that ships with the course,
# and the rhythm of all lessons: *edit, check, grade*.
#
# 30 minutes · difficulty 1–2 of 5 · you need: Python, and to have seen a tensor before. No GPU.

# %%
from IPython.display import SVG, display

from common import ROOT

display(SVG(ROOT / "docs" / "map.svg"))

# %% [markdown]
# An *inference engine* turns a prompt into tokens. The plainest one fits on half a page and wastes nearly all its work.
# Each lesson finds one waste, removes it, and shows that the tokens stay the same. In the end you will have an engine
# of the kind that serves large models on many GPUs, and you will have typed every part that matters.
#
# **How the shapes are written**, here and in all lessons:
#
# | letter | meaning |
# |---|---|
# | `N` | tokens packed in one row, whichever requests they belong to |
# | `V` | vocabulary: how many different tokens there are |
# | `n` | elements of a plain vector |
#
# ## Edit, check, grade
#
# 1. **Edit** `labs/start_here.py`, in JupyterLab or your own editor. It holds stubs: functions with a docstring, which is
#    their contract, and no body. Nothing else in the repository needs your hand.
# 2. **Check**: run the cell `check("00.1")` in this notebook. It reads the file as saved, so no kernel restart is needed.
#    It draws fresh random inputs each time and says in words what is wrong. Any approach that keeps the contract passes.
# 3. **Grade**: `make grade` in a terminal. It runs the same checks in separate processes and gives the points.
#
# Lost your way? `make reset LAB=00` brings the stub back and keeps your version beside it.
#
# What can this machine run? The doctor looks (its answer differs from machine to machine, so nothing compares it):

# %% tags=["live"]
from common.doctor import show, summary

show(summary())

# %% [markdown]
# ## From tokens to the next token
#
# A decoder reads `N` token ids and gives every token a row of `V` scores, the *logits*. Row `i` scores which token
# should follow token `i`, and sees tokens `0` to `i` only. Only the last row says something new; generation takes one
# token from it, appends it, and runs again:
#
# ```
# repeat:
#     hidden   = model(token_ids, positions, attention)   # (N, dim)
#     logits   = model.logits(hidden[-1:])                # (1, V)
#     token_id = choose(logits)                           # one int: see 00.1
#     token_ids.append(token_id)
# ```
#
# That is the whole of `common/model/generate.py`. Here is the model, a Llama of about five million parameters that has
# read nothing but stories from a few small villages, and how it sees text (`Ġ` stands for a space):

# %%
from common import model_folder
from common.model.checkpoint import load_model
from common.model.generate import generate
from common.model.tokenizer import Tokenizer
from common.notebook import attempt, check, load_lab

model, tokenizer = load_model(model_folder()), Tokenizer(model_folder())
config = model.config
print(f"{config.n_layers} layers, width {config.dim}, {config.n_heads} query heads, "
      f"{config.n_kv_heads} key/value heads, V = {config.vocab_size}")
print([tokenizer.tokenizer.id_to_token(id) for id in tokenizer.encode("Where is the red kite now?")])

# %% [markdown]
# ### 00.1 The greedy choice of the next token
#
# *5 minutes · difficulty 1 · `greedy_token` in `labs/start_here.py` · `check("00.1")`*
#
# The simplest rule takes the most likely token: $\text{token\_id} = \arg\max_v \text{logits}[-1, v]$. It is
# *greedy*: it never looks ahead. It is also deterministic, which makes it the yardstick of this course: every engine that
# you build must give exactly the tokens that this plain loop gives. So a tie has to be broken always alike.
#
# <details><summary>Hint 1</summary>Which of the N rows speaks about a token that is not there yet?</details>
# <details><summary>Hint 2</summary><code>torch.argmax</code> over one row gives a tensor with one element.</details>
# <details><summary>Passing the first check but failing the second?</summary>The first has a single row. With more of
# them, an argmax over the whole matrix, or over the first row, answers another question.</details>

# %%
check("00.1")

# %% [markdown]
# Now the model speaks with *your* choice: the last argument of `generate` is the `choose` of the loop above. The loop hands
# over one row, so a wrong choice of row would not be heard here; the check has many rows.

# %%
from textwrap import fill


def tell(text: str) -> None:
    print("\n".join(fill(line, 84) for line in text.splitlines()))


opening = "It was a fine Monday morning in Upper Crumpet."
with attempt("00.1"):
    lab = load_lab("start_here")  # your file as saved
    tokens = generate(model, tokenizer.encode(opening), 90, tokenizer.stop_ids, lab.greedy_token)
    tell(opening + "".join(tokenizer.stream(tokens)))

# %% [markdown]
# ## A model that can be marked
#
# A small model that only rambles would tell you little: is an engine broken, or was the story odd to begin with? So the
# village keeps accounts. `common/model/storyworld` tracks who is where and who holds what while it tells a story, and
# asks questions whose answers follow from the text alone.

# %%
import random

from common.model.storyworld import story

told = story(random.Random(10), tokens=170)
tell(told.text)

# %% [markdown]
# The prompt for an answer is the story up to `A:`. The story model was trained to go on from there.

# %%
with attempt("00.1"):
    for question in told.questions:
        prompt = tokenizer.encode(told.text[: question.position])
        tokens = generate(model, prompt, 12, tokenizer.stop_ids, lab.greedy_token)
        answer = "".join(tokenizer.stream(tokens)).split("\n")[0].strip()
        print(f"{question.text}\n    the model: {answer}; the story: {question.answer}")

# %% [markdown]
# ### 00.2 The answer meter
#
# *10 minutes · difficulty 2 · `answer_accuracy` in `labs/start_here.py` · `check("00.2")`*
#
# Generating every answer token by token is slow. There is a shortcut, called *teacher forcing*: run the model once over
# the whole story, right answers included. Greedy generation gives exactly the right answer if and only if each of its
# tokens is the arg max after the right tokens before it. So with `spans = [(start, end), ...]`, where
# `token_ids[start:end]` is an answer,
#
# $$\text{right}(\text{start}, \text{end}) = \bigwedge_{i=\text{start}}^{\text{end}-1}
# \Big(\arg\max_v \text{logits}[i-1, v] = \text{token\_ids}[i]\Big),$$
#
# and the accuracy is the mean of `right` over the spans.
#
# <details><summary>Hint 1</summary>Compare <code>logits[:-1].argmax(dim=-1)</code> with <code>token_ids[1:]</code> first:
# one boolean for each token but the first. Which index holds the verdict on token <code>i</code>?</details>
# <details><summary>Hint 2</summary>An answer is right if <code>.all()</code> of its verdicts are. Then average over
# answers, not over tokens.</details>
# <details><summary>Passing the first check but failing the second?</summary>The first repeats one token, so a row that
# is read one place off looks right. Row i scores token i + 1.</details>

# %%
check("00.2")

# %% [markdown]
# How much of the story do the answers need? Predict before you run the cell: with the whole story the model has all it
# needs. What will be left if it sees only the last 64 tokens before each answer?

# %%
import torch

from common.model.attention import CausalAttention
from common.model.evaluate import fresh_stories, tokenize


def read(token_ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of every token of one text, and the text as a tensor."""
    ids = torch.tensor(token_ids)
    with torch.inference_mode():
        return model.logits(model(ids, torch.arange(len(ids)), CausalAttention())), ids


with attempt("00.2"):
    lab = load_lab("start_here")
    stories = fresh_stories(6, seed="lesson 00", shortest=300, longest=500)
    rows = [tokenize(tokenizer, one)[0] for one in stories]
    whole = window = 0.0
    for row in rows:
        whole += lab.answer_accuracy(*read(row.ids), row.answers) * len(row.answers)
        for start, end in row.answers:
            first = max(0, start - 64)
            window += lab.answer_accuracy(*read(row.ids[first:end]), [(start - first, end - first)])
    print(f"{sum(len(row.answers) for row in rows)} questions in {len(rows)} stories")
    print(f"right with the whole story:    {round(whole)}")
    print(f"right with the last 64 tokens: {round(window)}")

# %% [markdown]
# A broken cache, a mask that is off by one, weights rounded to four bits: whatever you do to the engine, this number says
# what it cost. The model card in `data/story-llama/README.md` has the same measurement on a thousand stories.
#
# ## A kernel that adds
#
# PyTorch runs each operation as a *kernel*, a function that many GPU threads execute at once. To fuse operations, or to
# walk through memory in an order that PyTorch does not offer, one writes kernels oneself. In *Triton* a kernel is written
# for one block of elements at a time. A launch starts a *grid* of programs, and each asks for its number:
#
# ```
# n = 2500, BLOCK = 1024                  grid = ceil(n / BLOCK) = 3 programs
#
#        program 0            program 1            program 2
#   |0 ........... 1023|1024 ......... 2047|2048 .. 2499|xxxxxxx|
#                                                         mask: offsets < n
# ```
#
# $\text{offsets} = \text{program\_id} \cdot \text{BLOCK} + [0, 1, \dots, \text{BLOCK} - 1]$. The last program reaches past
# the end. A *mask* switches those elements off, on loading and on storing. Without one the kernel reads and overwrites
# whatever lies behind the vector, and on a GPU, as on this CPU, usually nobody complains. Watch:

# %%
import triton
import triton.language as tl

from common.checking.guard import guarded_output, stray_writes
from common.device import DEVICE


@triton.jit
def careless_fill(out_ptr, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + offsets, tl.full((BLOCK,), 7.0, tl.float32))  # no mask


# A vector inside a larger buffer, with sentinels on both sides:
out = guarded_output(torch.empty(2500, device=DEVICE))
careless_fill[(3,)](out, BLOCK=1024)
print(f"the vector itself is filled: {bool((out == 7).all())}")
print(f"elements overwritten that are not ours: {stray_writes(out)}")
print(f"3 * 1024 - 2500 = {3 * 1024 - 2500}")

# %% [markdown]
# No error: the vector is right, and 572 numbers of somebody else's are gone. Those *guard margins* stand around the
# inputs and outputs of every kernel check in this course. Around inputs they hold NaN, so that a stray load shows where its
# value reaches the result. (One that is loaded and then not stored shows nowhere here; on a GPU it may end the program.)
#
# On a CPU, Triton's *interpreter* runs your kernel as Python, block by block: slow, but the same code as on a GPU, and
# `print` works in it.
#
# ### 00.3 A first Triton kernel
#
# *10 minutes · difficulty 2 · `vector_add_kernel` and `vector_add` in `labs/start_here.py` · `check("00.3")`*
#
# Write both halves: the kernel, which handles one block, and the launcher, which computes the grid and starts it:
# `kernel[grid](arguments...)`, where `grid` is a tuple such as `(3,)`.
#
# <details><summary>Hint 1</summary><code>x = tl.load(x_ptr + offsets, mask=...)</code> reads a block,
# <code>tl.store(out_ptr + offsets, value, mask=...)</code> writes one. A tensor passed at the launch arrives as a pointer
# to its first element.</details>
# <details><summary>Hint 2</summary>The number of programs is n / BLOCK, rounded up: <code>triton.cdiv(n, BLOCK)</code>.
# Pass <code>BLOCK=BLOCK</code> by name.</details>
# <details><summary>Passing the first check but failing the second?</summary>The first has two full blocks. What does your
# grid do with 1025 elements?</details>

# %%
check("00.3")

# %%
with attempt("00.3"):
    lab = load_lab("start_here")
    x, y = (torch.arange(2500.0, device=DEVICE) * scale for scale in (1, 2))
    out = guarded_output(x)
    lab.vector_add(x, y, out)
    print(f"x + y is right: {bool((out == x + y).all())}; stray writes: {stray_writes(out)}")

# %% [markdown]
# ## Where this loses
#
# - Greedy choice gives one story per prompt, and on open questions a dull one. Lesson 01 samples.
# - The loop runs the *whole* text again for each new token. Lesson 02 measures what that costs, lesson 03 removes it.
# - Adding two vectors is bound by memory: three values move for each addition. `torch.add` already runs at that limit, so
#   nobody writes this kernel for its speed. Lesson 05 fuses what PyTorch keeps apart, and there the gain is real.
#
# Production engines (vLLM, SGLang, TensorRT-LLM) are the same loop at heart: model, choose, append. What they add is what
# the stairs in the picture above show.
#
# **Next**: run `make grade LAB=00` in a terminal. Then open `01_transformer.ipynb`.
#
# **Sources**: greedy and other decoding, Holtzman et al. 2020, *The Curious Case of Neural Text Degeneration*; teacher
# forcing, Williams and Zipser 1989, *A Learning Algorithm for Continually Running Fully Recurrent Neural Networks*;
# Triton, Tillet, Kung and Cox 2019, *Triton: An Intermediate Language and Compiler for Tiled Neural Network
# Computations*; the model's shape, Touvron et al. 2023, *LLaMA: Open and Efficient Foundation Language Models*.
