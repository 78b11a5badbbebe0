"""Text to ids and back: begin and stop tokens of any folder, and characters that span tokens."""
import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors

from common import STORY_LLAMA
from common.model.checkpoint import CheckpointError
from common.model.tokenizer import Tokenizer


def write_tokenizer(folder: Path, add_bos: bool, **settings: dict) -> None:
    """A tokenizer of single bytes, so that most characters outside ASCII span several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: id for id, symbol in enumerate([*alphabet, "<s>", "</s>", "<eot>"])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens(["<s>", "</s>", "<eot>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in settings.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, add_bos=True, config={"bos_token_id": 256, "eos_token_id": 257})
    return Tokenizer(folder)


@given(st.text())
def test_streamed_pieces_are_the_text(bytewise: Tokenizer, text: str):
    ids = bytewise.encode(text)
    pieces = list(bytewise.stream(ids))
    assert "".join(pieces) == bytewise.decode(ids) == text
    assert not any("\ufffd" in piece for piece in pieces) or "\ufffd" in text


def test_a_character_comes_out_whole(bytewise: Tokenizer):
    assert list(bytewise.stream(bytewise.encode("a€🪁"))) == ["a", "€", "🪁"]


@pytest.mark.parametrize("post_processor", [True, False])
@pytest.mark.parametrize("add_bos_token", [True, False, None])
def test_the_begin_token_comes_once_or_never(tmp_path: Path, post_processor: bool, add_bos_token: bool | None):
    write_tokenizer(tmp_path, post_processor, config={"bos_token_id": 256},
                    tokenizer_config={"add_bos_token": add_bos_token})
    expected = [256] if post_processor or add_bos_token else []
    assert Tokenizer(tmp_path).encode("") == expected


@pytest.mark.parametrize("generation, stops", [
    ({"eos_token_id": 258}, {258}), ({"eos_token_id": [257, 258]}, {257, 258}), ({"eos_token_id": None}, {257}),
    ({}, {257})])
def test_stop_ids_come_from_the_generation_config_first(tmp_path: Path, generation: dict, stops: set[int]):
    write_tokenizer(tmp_path, True, config={"eos_token_id": 257}, generation_config=generation)
    assert Tokenizer(tmp_path).stop_ids == stops


def test_a_missing_or_damaged_file_gets_one_sentence(tmp_path: Path):
    with pytest.raises(CheckpointError, match="tokenizer.json is missing"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer.json cannot be read"):
        Tokenizer(tmp_path)


def test_the_story_tokenizer_agrees_with_transformers():
    transformers = pytest.importorskip("transformers")
    ours, theirs = Tokenizer(STORY_LLAMA), transformers.AutoTokenizer.from_pretrained(STORY_LLAMA)
    text = "Monday began brightly in Upper Crumpet.\nQ: Where is the red kite now?\nA:"
    assert ours.encode(text) == theirs(text)["input_ids"]
    assert ours.decode(ours.encode(text)) == text
    assert (ours.bos_id, ours.stop_ids) == (theirs.bos_token_id, {theirs.eos_token_id})
