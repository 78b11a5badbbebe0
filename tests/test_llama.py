"""The decoder against transformers' Llama, on random checkpoints written to disk; and how bad folders are refused."""
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.model.attention import CausalAttention
from common.model.checkpoint import CheckpointError, load_model, save_model
from common.model.llama import Config, Llama

transformers = pytest.importorskip("transformers")

LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
SHAPES = {
    "multi-head, untied": {"num_key_value_heads": 4},
    "grouped, tied": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "explicit head_dim": {"num_key_value_heads": 1, "head_dim": 24, "rms_norm_eps": 1e-6},
    "rope-scaled, sharded": {"num_key_value_heads": 2, "rope_parameters": LLAMA3_ROPE, "max_position_embeddings": 512},
}


def write_checkpoint(folder: Path, seed: int, shard: str = "5GB", **options) -> transformers.LlamaForCausalLM:
    """A random Llama saved by transformers, with weights large enough that attention is far from uniform."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(**{
        "vocab_size": 211, "hidden_size": 64, "intermediate_size": 120, "num_hidden_layers": 3,
        "num_attention_heads": 4, "initializer_range": 0.1, "max_position_embeddings": 256, **options})
    model = transformers.LlamaForCausalLM(config).eval()
    model.save_pretrained(folder, max_shard_size=shard)
    return model


def logits_of(model: Llama, rows: torch.Tensor) -> torch.Tensor:
    batch, length = rows.shape
    hidden = model(rows.flatten(), torch.arange(length).repeat(batch), CausalAttention(batch))
    return model.logits(hidden).unflatten(0, (batch, length))


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_transformers(shape: str, tmp_path: Path, seed: int):
    reference = write_checkpoint(tmp_path, seed, shard="100KB" if "sharded" in shape else "5GB", **SHAPES[shape])
    assert (tmp_path / "model.safetensors.index.json").exists() == ("sharded" in shape)
    rows = torch.randint(211, (3, 131))
    with torch.inference_mode():
        want = reference(rows).logits
    got = logits_of(load_model(tmp_path), rows)
    # 7.1e-6 was the largest difference over 100 seeds of each shape (logits reach 4.5); ten times that is allowed.
    torch.testing.assert_close(got, want, atol=7e-5, rtol=0)


def test_reads_configs_of_transformers_4(tmp_path: Path):
    """Until version 5 rope_theta and rope_scaling were two entries of config.json."""
    write_checkpoint(tmp_path, 0, **SHAPES["rope-scaled, sharded"])
    new = load_model(tmp_path).config
    content = json.loads((tmp_path / "config.json").read_text())
    rope = content.pop("rope_parameters")
    content |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert load_model(tmp_path).config == new


def test_saved_model_is_read_by_transformers(tmp_path: Path, seed: int):
    torch.manual_seed(seed)
    ours = Llama(Config(vocab_size=97, dim=48, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=12, ffn_dim=80,
                        tie_embeddings=True)).eval()
    save_model(ours, tmp_path, torch.float32)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    rows = torch.randint(97, (2, 50))
    with torch.inference_mode():
        torch.testing.assert_close(logits_of(ours, rows), theirs(rows).logits, atol=7e-5, rtol=0)


def test_positions_and_norms_survive_half_precision():
    """float16 rounds positions beyond 2048 and overflows when 256 is squared; the decoder computes both in float32."""
    config = Config(vocab_size=31, dim=32, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=16, ffn_dim=40)
    model = Llama(config)
    half = Llama(config).half()
    half.load_state_dict(model.state_dict())
    positions = torch.tensor([4095, 4096, 4097])
    for low, full in zip(half.rotary(positions), model.rotary(positions), strict=True):
        # The frequencies themselves are rounded by .half(): compare neighbours' differences instead of values.
        assert (low.float().diff(dim=0).abs() > 0).any(dim=-1).all()
        assert low.shape == full.shape
    row = torch.full((1, 32), 300.0, dtype=torch.float16)
    torch.testing.assert_close(half.norm(row), torch.ones_like(row))


def edit_config(folder: Path, **changes) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **changes}))


def drop_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors")


def add_bias(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.self_attn.q_proj.bias"] = torch.zeros(64)
    save_file(weights, folder / "model.safetensors")


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


DAMAGE = {
    "no folder": (shutil.rmtree, "There is no model folder"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "not a complete Hugging Face model folder"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
    "other architecture": (lambda folder: edit_config(folder, model_type="gpt2"), "'gpt2'"),
    "other activation": (lambda folder: edit_config(folder, hidden_act="gelu"), "hidden_act = 'gelu'"),
    "biases asked for": (lambda folder: edit_config(folder, attention_bias=True), "attention_bias = True"),
    "unknown rope scaling": (lambda folder: edit_config(folder, rope_parameters={"rope_type": "yarn", "rope_theta": 1}),
                             "'yarn'"),
    "config entry missing": (lambda folder: (folder / "config.json").write_text('{"model_type": "llama"}'),
                             "no entry 'vocab_size'"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
    "cut-off weights": (lambda folder: truncate(folder / "model.safetensors"), "damaged or cut short"),
    "missing tensor": (drop_tensor, "lacks the tensor layers.1.mlp.up_proj.weight"),
    "wrong shape": (lambda folder: edit_config(folder, intermediate_size=128), "are of different models"),
    "unknown tensor": (add_bias, "self_attn.q_proj.bias, for which this decoder has no place"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_bad_folder_gets_one_sentence(damage: str, tmp_path: Path):
    folder = tmp_path / "model"
    write_checkpoint(folder, 0)
    spoil, sentence = DAMAGE[damage]
    spoil(folder)
    with pytest.raises(CheckpointError) as error:
        load_model(folder)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
