"""The bundled story model: transformers computes the same, it answers right, and only because it reads the story."""

import random

import pandas as pd
import pytest
import torch
from safetensors import safe_open

from common import STORY_LLAMA
from common.model import evaluate, train
from common.model.attention import CausalAttention
from common.model.checkpoint import load_model
from common.model.generate import generate
from common.model.storyworld import story
from common.model.tokenizer import Tokenizer

STORIES = 20


@pytest.fixture(scope="module")
def model():
    return load_model(STORY_LLAMA)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(STORY_LLAMA)


@pytest.fixture(scope="module")
def answers(model, tokenizer):
    return evaluate.measure(model, tokenizer, evaluate.fresh_stories(STORIES, seed="test_story_model"))


def test_transformers_computes_the_same_logits(model, tokenizer):
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(STORY_LLAMA, dtype=torch.float32)
    ids = torch.tensor(tokenizer.encode(story(random.Random(1), 500).text))
    with torch.inference_mode():
        ours = model.logits(model(ids, torch.arange(len(ids)), CausalAttention()))
        assert (ours - theirs(ids[None]).logits[0]).abs().max() <= 1e-4


def test_transformers_tokenizes_the_same(tokenizer):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(STORY_LLAMA)
    text = story(random.Random(2), 300).text
    assert theirs(text).input_ids == tokenizer.encode(text)
    assert (theirs.bos_token_id, {theirs.eos_token_id}) == (tokenizer.bos_id, set(tokenizer.stop_ids))


def test_text_survives_the_tokenizer_and_a_newline_is_a_token(tokenizer):
    text = story(random.Random(3), 300).text + "Café, 4 ½ £ \n\n"
    ids = tokenizer.encode(text)
    assert ids[0] == tokenizer.bos_id and tokenizer.decode(ids) == text
    assert sum("\n" in tokenizer.decode([id]) for id in ids) == text.count("\n")


def test_length_is_as_asked(tokenizer):
    rng = random.Random(4)
    for tokens in (60, 100, 200, 400, 800, 1500):
        lengths = [len(tokenizer.encode(story(rng, tokens).text)) for _ in range(20)]
        assert all(abs(length - tokens) <= 30 + 0.1 * tokens for length in lengths), (tokens, lengths)


def test_checkpoint_is_small_float16():
    assert (STORY_LLAMA / "model.safetensors").stat().st_size <= 16e6
    with safe_open(STORY_LLAMA / "model.safetensors", "pt") as tensors:
        assert {tensors.get_tensor(name).dtype for name in tensors.keys()} == {torch.float16}


def test_answers_are_right(answers):
    assert answers["model"].mean() >= 0.95
    assert answers["model"][answers["story_tokens"] >= 800].mean() >= 0.90


def test_answers_need_the_story(answers):
    assert answers["last_place"].mean() <= 0.50
    assert answers["without_story"].mean() <= 0.25
    assert answers["last_64_tokens"].mean() <= answers["model"].mean() - 0.20


def test_marking_agrees_with_greedy_generation(model, tokenizer):
    """The whole story, and the question alone, whose answers are mostly wrong, so that both verdicts are compared."""
    (newline,) = tokenizer.encode("\n")[1:]
    verdicts = []
    for told in evaluate.fresh_stories(3, seed="greedy", longest=300):
        for question in told.questions:
            for text in (told.text[: question.position], f"Q: {question.text}\nA:"):
                row = evaluate.Row(tokenizer.encode(f"{text} {question.answer}\n"), [])
                row.answers.append((len(tokenizer.encode(text)), len(row.ids)))
                said = tokenizer.decode(generate(model, tokenizer.encode(text), 12, {newline}))
                verdicts.append(said == f" {question.answer}")
                assert evaluate.exact(model, [row]) == verdicts[-1:]
    assert True in verdicts and False in verdicts


def test_model_card_gives_the_figures_of_accuracy_csv():
    card = (STORY_LLAMA / "README.md").read_text(encoding="utf-8")
    for line in pd.read_csv(STORY_LLAMA / "accuracy.csv").itertuples(index=False):
        shares = " | ".join(f"{100 * share:.1f}" for share in line[3:])
        assert f"| {line.group} | {line.questions:,} | {shares} |" in card


def test_training_runs_and_goes_on_where_it_stopped(tmp_path):
    """A toy on the CPU: two pieces end in one folder that loads, with one log."""
    out, logs = tmp_path / "model", []
    for _ in range(2):
        train.train(out, minutes=0.05, plan=10, recipe=train.TINY, device="cpu", workers=0, log_every=1)
        logs.append(train.read_log(out))
    assert logs[1][: len(logs[0])] == logs[0]
    assert logs[1][-1]["tokens"] > logs[0][-1]["tokens"] > 0
    assert load_model(out).config.dim == train.TINY.dim


def test_training_refuses_kindly(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="needs a CUDA GPU"):
        train.main(["--out", str(tmp_path / "new")])
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(SystemExit, match="choose another folder"):
        train.main(["--tiny", "--out", str(tmp_path)])


def test_evaluating_a_wrong_folder_is_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match="no model folder"):
        evaluate.main(["--model", str(tmp_path / "nowhere")])
