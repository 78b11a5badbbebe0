"""Train the story model: `make model`, or `python -m common.model.train --minutes 10`.

The model is a small Llama that predicts the next token of endless fresh stories. Short stories come first: in them
the sentence that decides an answer is near, and the model learns to look for it; then longer ones stretch the reach.
Training can be done in pieces: it goes on from the weights and the log in the `--out` folder, with a fresh optimizer.
"""

import argparse
import csv
import math
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

from common import ROOT
from common.model.attention import CausalAttention
from common.model.checkpoint import CheckpointError, load_model, read_json, save_model, write_json
from common.model.evaluate import answer_accuracy
from common.model.llama import Config, Llama
from common.model.storyworld import story
from common.model.tokenizer import Tokenizer

BEGIN, END = "<|begin|>", "<|end|>"
CONTEXT = 2048
LOG_FIELDS = ("minutes", "tokens", "steps", "learning_rate", "loss", "answer_loss", "accuracy")


@dataclass(frozen=True)
class Recipe:
    """What is trained, and how. Lengths in tokens; `stages` are (from this share of the plan on, row lengths drawn)."""

    dim: int = 256
    n_layers: int = 6
    ffn_dim: int = 768
    step_tokens: int = 16_384
    stages: tuple[tuple[float, tuple[int, ...]], ...] = (
        (0.0, (256,)),
        (0.35, (256, 768)),
        (0.55, (256, 768, CONTEXT, CONTEXT)),
    )
    question_rates: tuple[float, float] = (0.2, 0.9)  # drawn per story: dense ones teach, sparse ones are the aim
    text_weight: float = 0.2  # of a story's token in the loss, where an answer's token has 1
    learning_rate: float = 2e-3  # falls to a tenth along a cosine
    warmup_steps: int = 200
    steps_per_item: int = 8  # batches that a worker hands over at once
    test_stories: int = 60  # told for every line of the log


FULL = Recipe()
TINY = Recipe(
    dim=128, n_layers=2, ffn_dim=256, step_tokens=1024, stages=((0, (64,)), (0.5, (128,))), steps_per_item=1,
    test_stories=4,
)


# ---- tokenizer ----


def train_tokenizer(folder: Path, stories: int = 20_000) -> None:
    """Byte-level BPE on the world's own text, written to `folder` so that `transformers` loads it too."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            # A newline is always a token of its own: an answer ends there.
            tokenizers.pre_tokenizers.Split("\n", "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=[BEGIN, END],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (story(random.Random(f"tokenizer {i}")).text for i in range(stories))
    tokenizer.train_from_iterator(texts, trainer, length=stories)
    begin, end = tokenizer.token_to_id(BEGIN), tokenizer.token_to_id(END)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A $B", special_tokens=[(BEGIN, begin)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BEGIN, "eos_token": END}
    write_json(folder / "tokenizer_config.json", settings | {"model_max_length": CONTEXT})
    write_json(folder / "generation_config.json", {"bos_token_id": begin, "eos_token_id": end, "do_sample": False})


# ---- data ----


class Rows(IterableDataset):
    """Endless batches: (token ids (steps, rows, T + 1), and which of them belong to an answer).

    A row is one story from its beginning, cut at the row's end or padded with END.
    """

    def __init__(self, folder: Path, row_length: int, recipe: Recipe, seed: str):
        self.folder, self.row_length, self.recipe, self.seed = folder, row_length, recipe, seed

    def __iter__(self):
        worker = get_worker_info()
        rng = random.Random(f"train {self.seed} {self.row_length} {worker.id if worker else 0}")
        tokenizer = Tokenizer(self.folder).tokenizer
        shape = (self.recipe.steps_per_item, self.recipe.step_tokens // self.row_length, self.row_length + 1)
        newline, letter, colon, end = (tokenizer.token_to_id(token) for token in ("Ċ", "A", ":", END))
        while True:
            texts = [
                story(rng, rng.uniform(0.5, 1.1) * self.row_length, rng.uniform(*self.recipe.question_rates)).text
                for _ in range(shape[0] * shape[1])
            ]
            ids = np.full((len(texts), shape[2]), end, dtype=np.int64)
            for row, encoding in zip(ids, tokenizer.encode_batch_fast(texts), strict=True):
                row[: len(encoding)] = encoding.ids[: shape[2]]
            # An answer begins after "\nA:" and ends with the next newline.
            column = np.arange(shape[2])
            opens = (ids == colon) & (np.roll(ids, 1, axis=1) == letter) & (np.roll(ids, 2, axis=1) == newline)
            last_open = np.maximum.accumulate(np.where(opens, column, -1), axis=1)
            last_newline = np.maximum.accumulate(np.where(ids == newline, column, -1), axis=1)
            in_answer = np.roll(last_open > last_newline, 1, axis=1)
            yield torch.from_numpy(ids).view(shape), torch.from_numpy(in_answer).view(shape)


def batches(folder: Path, recipe: Recipe, seed: str, workers: int) -> dict:
    """Row length -> endless iterator. A worker whose queue is full sleeps, so every length may have its own workers."""
    row_lengths = {row_length for _, drawn in recipe.stages for row_length in drawn}
    return {
        row_length: iter(
            DataLoader(
                Rows(folder, row_length, recipe, seed),
                batch_size=None,
                num_workers=workers,
                prefetch_factor=4 if workers else None,
            )
        )
        for row_length in sorted(row_lengths)
    }


# ---- training ----


def new_model(folder: Path, recipe: Recipe) -> Llama:
    torch.manual_seed(0)
    config = Config(
        vocab_size=Tokenizer(folder).tokenizer.get_vocab_size(),
        dim=recipe.dim,
        n_layers=recipe.n_layers,
        n_heads=recipe.dim // 64,
        n_kv_heads=recipe.dim // 128,
        head_dim=64,
        ffn_dim=recipe.ffn_dim,
        max_positions=CONTEXT,
        tie_embeddings=True,
    )
    model = Llama(config)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            # Projections that add to the residual stream start smaller, the more of them there are (GPT-2).
            residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            torch.nn.init.normal_(weight, std=0.02 / math.sqrt(2 * config.n_layers) if residual else 0.02)
    return model


def story_loss(
    model: Llama, ids: Int[Tensor, "rows T1"], in_answer: Bool[Tensor, "rows T1"], end: int, text_weight: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """(weighted loss of the next tokens, mean loss over the answers' tokens), in nats."""
    rows, length = ids.shape[0], ids.shape[1] - 1
    positions = torch.arange(length, device=ids.device).repeat(rows)
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.is_cuda):
        hidden = model(ids[:, :-1].flatten(), positions, CausalAttention(rows))
        logits = model.logits(hidden)
    losses = F.cross_entropy(logits.float(), ids[:, 1:].flatten(), reduction="none").view(rows, length)
    answer = in_answer[:, 1:].float()
    weight = torch.where(ids[:, :-1] == end, 0.0, text_weight + (1 - text_weight) * answer)  # nothing follows END
    return (losses * weight).sum() / weight.sum(), (losses * answer).sum() / answer.sum()


def capture(step: Callable[..., Tensor], *inputs: Tensor) -> Callable[..., Tensor]:
    """Record `step` as a CUDA graph; the function returned replays it on other inputs of the same shapes.

    A step of so small a model is hundreds of tiny kernels: recorded once, they are launched as one.
    """
    inputs = [x.clone() for x in inputs]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # compiles the kernels and allocates what the optimizer keeps
            step(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step(*inputs)

    def replay(*new: Tensor) -> Tensor:
        for x, y in zip(inputs, new, strict=True):
            x.copy_(y)
        graph.replay()
        return result

    return replay


def train(out: Path, minutes: float, plan: float, recipe: Recipe, device: str, workers: int, log_every: float) -> None:
    """Train for `minutes`, out of the `plan` minutes that the learning rate and the stages are laid out over."""
    start = time.monotonic()
    log = read_log(out)
    if not log:
        train_tokenizer(out, stories=500 if recipe is TINY else 20_000)
    model = load_model(out).requires_grad_(True) if log else new_model(out, recipe)
    model.to(device).train()
    before, tokens, steps = (log[-1][key] for key in ("minutes", "tokens", "steps")) if log else (0.0, 0, 0)
    minutes = min(minutes, plan - before)

    tokenizer = Tokenizer(out)
    (end,) = tokenizer.stop_ids
    on_gpu = device == "cuda"
    rate = torch.tensor(0.0, device=device)  # a tensor, since a recorded step sees only what changes in memory
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True, capturable=on_gpu
    )
    loss_of = torch.compile(story_loss, dynamic=False) if on_gpu else story_loss

    def step(ids: Tensor, in_answer: Tensor) -> Tensor:
        optimizer.zero_grad()
        losses = loss_of(model, ids, in_answer, end, recipe.text_weight)
        losses[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return torch.stack(losses).detach()

    step_for: dict[int, Callable[..., Tensor]] = {}  # by row length: a recorded step has fixed shapes
    source = batches(out, recipe, seed=f"{tokens}", workers=workers)
    rng = random.Random(steps)
    recent, since_log, warm, next_log = torch.zeros(2, device=device), 0, 0, log_every
    bar = tqdm(total=round(minutes * 60), desc="training", bar_format="{l_bar}{bar}| {n}/{total} s{postfix}")
    try:
        while (elapsed := time.monotonic() - start) < minutes * 60:
            progress = (before + elapsed / 60) / plan
            row_length = rng.choice([drawn for since, drawn in recipe.stages if progress >= since][-1])
            items, in_answer = (x.to(device) for x in next(source[row_length]))
            if row_length not in step_for:
                step_for[row_length] = capture(step, items[0], in_answer[0]) if on_gpu else step
            cosine = 0.1 + 0.9 * (0.5 + 0.5 * math.cos(math.pi * min(progress, 1)))
            for ids, answer in zip(items, in_answer, strict=True):
                warm += 1
                rate.fill_(recipe.learning_rate * cosine * min(1, warm / recipe.warmup_steps))
                recent += step_for[row_length](ids, answer)
            since_log, steps, tokens = since_log + len(items), steps + len(items), tokens + items[:, :, 1:].numel()
            bar.update(round(elapsed) - bar.n)
            if elapsed >= next_log or time.monotonic() - start >= minutes * 60:
                next_log = elapsed + log_every
                loss, answer_loss = (recent / since_log).tolist()
                recent, since_log = torch.zeros_like(recent), 0
                right = answer_accuracy(model, tokenizer, stories=recipe.test_stories, seed=f"training log {steps}")
                log.append(
                    {
                        "minutes": round(before + (time.monotonic() - start) / 60, 3),
                        "tokens": tokens,
                        "steps": steps,
                        "learning_rate": round(rate.item(), 6),
                        "loss": round(loss, 4),
                        "answer_loss": round(answer_loss, 4),
                        "accuracy": round(right, 4),
                    }
                )
                bar.set_postfix_str(f"{tokens / 1e6:.0f} M tokens, answers {right:.0%} right")
    except KeyboardInterrupt:
        bar.write("Stopped. What was learned so far is kept.")
    finally:
        bar.close()
        save(model, out, log)


def save(model: Llama, out: Path, log: list[dict]) -> None:
    save_model(model, out)
    settings = read_json(out / "generation_config.json")
    config = read_json(out / "config.json") | {key: settings[key] for key in ("bos_token_id", "eos_token_id")}
    write_json(out / "config.json", config)
    with open(out / "training_log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, LOG_FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(log)
    plot_curve(log, out / "training_curve.png")


def read_log(out: Path) -> list[dict]:
    file = out / "training_log.csv"
    if not file.exists():
        return []
    with open(file, newline="") as lines:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)]
    return [row | {"tokens": int(row["tokens"]), "steps": int(row["steps"])} for row in rows]


def plot_curve(log: list[dict], file: Path) -> None:
    """Share of right answers, and loss of the answers, over the tokens seen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    right = figure.subplots()
    tokens = [row["tokens"] / 1e6 for row in log]
    right.plot(tokens, [100 * row["accuracy"] for row in log], color="tab:blue")
    right.set(xlabel="tokens seen (millions)", ylabel="right answers, 60 fresh stories (%)", ylim=(0, 100))
    loss = right.twinx()
    loss.plot(tokens, [row["answer_loss"] for row in log], color="tab:orange", alpha=0.7)
    loss.set(ylabel="loss of an answer's token (nats)", yscale="log")
    right.yaxis.label.set_color("tab:blue")
    loss.yaxis.label.set_color("tab:orange")
    right.grid(alpha=0.3)
    figure.savefig(file, dpi=120)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=math.inf, help="length of this piece (default: all of it)")
    parser.add_argument("--plan", type=float, default=12, help="minutes of the whole training (default %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "work" / "story-llama", help="folder to continue or to make")
    parser.add_argument("--workers", type=int, default=min(16, os.cpu_count() or 1), help="processes telling stories")
    parser.add_argument("--tiny", action="store_true", help="a toy that a CPU can train, to see this program run")
    options = parser.parse_args(arguments)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.tiny:
        sys.exit(
            "Training the story model needs a CUDA GPU, and none is visible here: use the trained one in "
            "data/story-llama, or see this program run on a toy with --tiny."
        )
    log = read_log(options.out)
    if log and log[-1]["minutes"] >= options.plan - 0.01:
        sys.exit(f"{options.out} has had its {options.plan:g} minutes: choose a new --out, or a longer --plan.")
    if not (options.out / "training_log.csv").exists() and options.out.exists() and any(options.out.iterdir()):
        sys.exit(f"{options.out} holds something that is no unfinished training: choose another folder with --out.")
    recipe = TINY if options.tiny else FULL
    workers = 0 if options.tiny else options.workers
    try:
        train(options.out, options.minutes, options.plan, recipe, device, workers, log_every=2 if options.tiny else 15)
    except (CheckpointError, OSError) as error:
        sys.exit(f"Training stopped: {error}")
    print(f"Wrote {options.out}. Look at it: python -m common.model.evaluate --model {options.out}")


if __name__ == "__main__":
    main()
