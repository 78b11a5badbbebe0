"""Read and write a Llama as a Hugging Face folder: `config.json` and one or several `.safetensors` files."""
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.model.llama import Config, Llama, Parts, RopeScaling


class CheckpointError(Exception):
    """The folder cannot be loaded; the message is one sentence that says why and what to do."""


def load_model(folder: Path | str, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
               parts: Parts = Parts()) -> Llama:  # noqa: B008
    """The Llama stored in `folder`, in `dtype` on `device`, in evaluation mode and without gradients."""
    folder = Path(folder)
    config = read_config(folder)
    with torch.device("meta"):  # shapes only: the checkpoint brings the numbers
        model = Llama(config, parts)
    wanted = model.state_dict()
    weights = {name: tensor.to(device, dtype) for name, tensor in read_tensors(folder, wanted)}
    missing = sorted(wanted.keys() - weights.keys())
    if missing:
        raise CheckpointError(f"{folder} lacks the tensor {missing[0]} ({len(missing)} missing in all): "
                              "the download is probably incomplete.")
    model.load_state_dict(weights, assign=True)
    return model.to(device).eval().requires_grad_(False)


def save_model(model: Llama, folder: Path | str, dtype: torch.dtype = torch.float16) -> None:
    """Write `model` so that `load_model` and `transformers` can read it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {to_hf_name(name): tensor.to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", {**to_hf_config(model.config), "dtype": str(dtype).removeprefix("torch.")})


# Hugging Face names every tensor but the output projection "model.<our name>".
def to_hf_name(name: str) -> str:
    return name if name.startswith("lm_head.") else f"model.{name}"


def read_tensors(folder: Path, wanted: dict[str, Tensor]):
    """Yield (our name, tensor) for every tensor of the checkpoint, checked against the shapes in `wanted`."""
    for file in tensor_files(folder):
        try:
            with safe_open(file, framework="pt") as tensors:
                for hf_name in tensors.keys():
                    name = hf_name.removeprefix("model.")
                    if name not in wanted:
                        if name == "lm_head.weight" or name.endswith("rotary_emb.inv_freq"):
                            continue  # a stored copy of the tied embedding, or of what Rotary computes
                        raise CheckpointError(f"{file} holds {hf_name}, for which this decoder has no place: "
                                              "it is not a plain Llama.")
                    tensor = tensors.get_tensor(hf_name)
                    if tensor.shape != wanted[name].shape:
                        raise CheckpointError(f"{hf_name} in {file} has shape {tuple(tensor.shape)}, but config.json "
                                              f"asks for {tuple(wanted[name].shape)}: they are of different models.")
                    yield name, tensor
        except FileNotFoundError:
            raise CheckpointError(f"{file} is missing: download every file of the checkpoint.") from None
        except SafetensorError as error:
            raise CheckpointError(f"{file} is damaged or cut short ({error}): download it again.") from None


def tensor_files(folder: Path) -> list[Path]:
    """The single file, or all shards that the index names."""
    if (folder / "model.safetensors.index.json").exists():
        shards = read_json(folder / "model.safetensors.index.json").get("weight_map", {})
        return [folder / shard for shard in sorted(set(shards.values()))]
    return [folder / "model.safetensors"]


def read_config(folder: Path) -> Config:
    """Translate `config.json`, refusing what this decoder does not compute rather than computing it wrongly."""
    if not folder.is_dir():
        raise CheckpointError(f"There is no model folder {folder}: set MODEL to a Hugging Face Llama folder, "
                              "or leave it unset for the bundled story model.")
    hf = read_json(folder / "config.json")
    if hf.get("model_type") != "llama":
        raise CheckpointError(f"{folder} holds a model of type {hf.get('model_type')!r}; this course reads 'llama' "
                              "(Llama 2 and 3, SmolLM2, TinyLlama).")
    for option, supported in {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}.items():
        if hf.get(option, supported) != supported:
            raise CheckpointError(f"{folder}/config.json has {option} = {hf[option]!r}; "
                                  f"this decoder computes only {supported!r}.")
    # Since version 5 transformers keeps both in `rope_parameters`; older files have two separate entries.
    rope = hf.get("rope_parameters") or {**(hf.get("rope_scaling") or {}), "rope_theta": hf.get("rope_theta", 10_000.0)}
    try:
        return Config(
            vocab_size=hf["vocab_size"],
            dim=hf["hidden_size"],
            n_layers=hf["num_hidden_layers"],
            n_heads=hf["num_attention_heads"],
            n_kv_heads=hf.get("num_key_value_heads") or hf["num_attention_heads"],
            head_dim=hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"],
            ffn_dim=hf["intermediate_size"],
            norm_eps=hf.get("rms_norm_eps", 1e-6),
            rope_theta=rope["rope_theta"],
            rope_scaling=read_rope_scaling(folder, rope),
            max_positions=hf.get("max_position_embeddings", 2048),
            tie_embeddings=hf.get("tie_word_embeddings", False),
        )
    except KeyError as key:
        raise CheckpointError(f"{folder}/config.json has no entry {key}: it is not a complete Llama config.") from None


def read_rope_scaling(folder: Path, rope: dict) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise CheckpointError(f"{folder}/config.json asks for rope scaling {kind!r}; this decoder knows 'llama3'.")
    return RopeScaling(factor=rope["factor"], low_freq_factor=rope["low_freq_factor"],
                       high_freq_factor=rope["high_freq_factor"],
                       original_max_positions=rope["original_max_position_embeddings"])


def to_hf_config(config: Config) -> dict:
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling is not None:
        scaling = config.rope_scaling
        rope |= {"rope_type": "llama3", "factor": scaling.factor, "low_freq_factor": scaling.low_freq_factor,
                 "high_freq_factor": scaling.high_freq_factor,
                 "original_max_position_embeddings": scaling.original_max_positions}
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "vocab_size": config.vocab_size, "hidden_size": config.dim, "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads, "num_key_value_heads": config.n_kv_heads, "head_dim": config.head_dim,
        "intermediate_size": config.ffn_dim, "rms_norm_eps": config.norm_eps, "rope_parameters": rope,
        "max_position_embeddings": config.max_positions, "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": False, "mlp_bias": False,
    }


def read_json(file: Path) -> dict:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing: its folder is not a complete Hugging Face model folder.") from None
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}): download it again.") from None


def write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
