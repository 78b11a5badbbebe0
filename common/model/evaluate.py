"""How often the story model answers exactly right: `python -m common.model.evaluate --stories 1000 --seed 7`.

Greedy generation gives exactly the right answer if and only if, at every token of the answer and at the newline that
ends it, the most likely token after the right ones so far is the right one. So one forward over a story marks all the
questions in it, without generating anything. Beside the model stand three ways to answer that do without the story:
the place that was mentioned last, the model given the question alone, and the model given the last 64 tokens alone.
"""

import argparse
import random
import re
import sys
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from common import STORY_LLAMA
from common.model.attention import CausalAttention
from common.model.checkpoint import CheckpointError, load_model
from common.model.llama import Llama
from common.model.storyworld import Story, story
from common.model.storyworld.words import PLACES
from common.model.tokenizer import Tokenizer

WINDOW = 64  # tokens that the short-sighted model sees
BATCH_TOKENS = 16_384
DISTANCES = (0, 32, 64, 128, 256, 512, 2048)  # tokens from the earliest sentence needed to the answer
LENGTHS = (0, 200, 400, 800, 1600)  # tokens in the story
AT = {name: f"{preposition} {name}" for preposition, name in PLACES}  # "the bakery" -> "in the bakery"
PLACE = re.compile("|".join(AT))


@dataclass
class Row:
    """Token ids, and the slices of them (start, stop) that a model has to predict."""

    ids: list[int]
    answers: list[tuple[int, int]]


@torch.inference_mode()
def exact(model: Llama, rows: list[Row], progress: str | None = None) -> list[bool]:
    """Whether each answer of each row, in order, is what greedy generation from the tokens before it would give."""
    device = next(model.parameters()).device
    right: dict[tuple[int, int], Tensor] = {}  # stay on the device until the end: reading one waits for the GPU
    by_length = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    with tqdm(total=len(rows), desc=progress, disable=progress is None, unit="story", leave=False) as bar:
        while by_length:
            # Rows of about one length share a forward; the padding behind a row is seen by nothing before it.
            length = len(rows[by_length[-1]].ids)
            batch = [by_length.pop() for _ in range(min(len(by_length), max(1, BATCH_TOKENS // length)))]
            ids = torch.zeros(len(batch), length, dtype=torch.long)
            for line, i in zip(ids, batch, strict=True):
                line[: len(rows[i].ids)] = torch.tensor(rows[i].ids)
            ids = ids.to(device)
            positions = torch.arange(length, device=device).repeat(len(batch))
            hidden = model(ids.flatten(), positions, CausalAttention(len(batch)))
            for line, i in enumerate(batch):
                for number, (start, stop) in enumerate(rows[i].answers):
                    before = hidden[line * length + start - 1 : line * length + stop - 1]
                    right[i, number] = (model.logits(before).argmax(-1) == ids[line, start:stop]).all()
            bar.update(len(batch))
    return [bool(right[i, number]) for i, row in enumerate(rows) for number in range(len(row.answers))]


def tokenize(tokenizer: Tokenizer, tale: Story) -> tuple[Row, list[int], list[int]]:
    """A story as a row, with, per question, the index of the first token that its evidence and its text need."""
    encoding = tokenizer.tokenizer.encode(tale.text)
    starts = [start for start, _ in encoding.offsets]
    starts[0] = -1  # the begin token stands before the first character
    answers, evidence, questions = [], [], []
    for question in tale.questions:
        start = bisect_left(starts, question.position)
        answers.append((start, bisect_left(starts, question.position + len(f" {question.answer}\n"))))
        evidence.append(bisect_left(starts, question.evidence))
        questions.append(bisect_left(starts, question.position - len(f"Q: {question.text}\nA:")))
    return Row(encoding.ids, answers), evidence, questions


def last_place(text: str) -> str:
    """The place mentioned last in a text, as an answer."""
    mentioned = PLACE.findall(text)
    return AT[mentioned[-1]] if mentioned else ""


def fresh_stories(number: int, seed: int | str, shortest: int = 60, longest: int = 1500) -> list[Story]:
    """Stories of mixed length. Training seeds begin with another word, so that none of these was ever trained on."""
    rng = random.Random(f"evaluate {seed}")
    return [story(rng, rng.randint(shortest, longest)) for _ in range(number)]


def answer_accuracy(model: Llama, tokenizer: Tokenizer, stories: int = 60, seed: int | str = 0) -> float:
    """Share of exactly right answers on fresh stories of mixed length."""
    right = exact(model, [tokenize(tokenizer, tale)[0] for tale in fresh_stories(stories, seed)])
    return sum(right) / len(right)


def measure(model: Llama, tokenizer: Tokenizer, tales: list[Story], progress: bool = False) -> pd.DataFrame:
    """One line per question: kind, story_tokens, distance (tokens), and for each way to answer whether it was right."""
    lines, whole, alone, window = [], [], [], []
    begin = tokenizer.bos_id
    for tale in tales:
        row, evidence, questions = tokenize(tokenizer, tale)
        whole.append(row)
        places = zip(row.answers, evidence, questions, strict=True)
        for question, ((start, stop), needed, asked) in zip(tale.questions, places, strict=True):
            for rows, first in ((alone, asked), (window, max(1, start - WINDOW))):
                rows.append(Row([begin, *row.ids[first:stop]], [(1 + start - first, 1 + stop - first)]))
            lines.append(
                {
                    "kind": question.kind,
                    "story_tokens": len(row.ids),
                    "distance": start - needed,
                    "last_place": last_place(tale.text[: question.position]) == question.answer,
                }
            )
    ways = {"model": whole, "without_story": alone, f"last_{WINDOW}_tokens": window}
    for way, rows in ways.items():
        right = exact(model, rows, progress=way.replace("_", " ") if progress else None)
        for line, hit in zip(lines, right, strict=True):
            line[way] = hit
    return pd.DataFrame(lines)


def summarise(answers: pd.DataFrame) -> pd.DataFrame:
    """Share of right answers by kind of question, distance and length of story: one line per group."""
    ways = ["model", "last_place", "without_story", f"last_{WINDOW}_tokens"]

    def ranges(values: pd.Series, bounds: tuple[int, ...]) -> pd.Series:
        labels = [f"{low} to {high - 1}" for low, high in zip(bounds, bounds[1:], strict=False)]
        return pd.cut(values, bounds, right=False, labels=labels)

    groupings = {
        "everything": pd.Series("all questions", index=answers.index),
        "kind": answers["kind"],
        "distance (tokens)": ranges(answers["distance"], DISTANCES),
        "story length (tokens)": ranges(answers["story_tokens"], LENGTHS),
    }
    tables = []
    for name, groups in groupings.items():
        grouped = answers.groupby(groups, observed=True)
        table = grouped[ways].mean().round(4)
        table.insert(0, "questions", grouped.size())
        tables.append(table.rename_axis("group").reset_index().assign(by=name))
    return pd.concat(tables)[["by", "group", "questions", *ways]]


def show(summary: pd.DataFrame, title: str) -> None:
    table = Table(title=title, caption="share of exactly right answers")
    for column in summary.columns[1:]:
        table.add_column(column.replace("_", " "), justify="left" if column == "group" else "right")
    for name, lines in summary.groupby("by", sort=False):
        table.add_section()
        if len(lines) > 1:
            table.add_row(f"[bold]by {name}")
        for group, questions, *shares in lines.drop(columns="by").itertuples(index=False):
            table.add_row(group, f"{questions:,}", *(f"{share:.1%}" for share in shares))
    Console().print(table)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=STORY_LLAMA)
    parser.add_argument("--stories", type=int, default=100, help="default %(default)s; 1000 take minutes on a CPU")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--csv", type=Path, help="also write the table to this file")
    options = parser.parse_args(arguments)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model, tokenizer = load_model(options.model, device=device), Tokenizer(options.model)
    except CheckpointError as error:
        sys.exit(str(error))
    answers = measure(model, tokenizer, fresh_stories(options.stories, options.seed), progress=True)
    summary = summarise(answers)
    show(summary, f"{options.stories} fresh stories, seed {options.seed}")
    if options.csv:
        summary.to_csv(options.csv, index=False)


if __name__ == "__main__":
    main()
