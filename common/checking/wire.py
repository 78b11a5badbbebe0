"""The only thing that crosses between the grader and a learner's process: JSON, and tensors as safetensors.

Never pickle, which would let the sender run code in the receiver. A message is an 8-byte length, that many bytes of
JSON in which each tensor is replaced by its name, and the safetensors file that holds the named tensors.
"""
import json
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

MAX_BYTES = 256 * 1024**2
MAX_DEPTH = 8


class NotPlain(Exception):
    """A value that may not cross; the message says which and what it is."""


def pack(values: dict[str, Any]) -> bytes:
    tensors: dict[str, Tensor] = {}

    def replace(value: Any, path: str, depth: int = 0) -> Any:
        if depth > MAX_DEPTH:
            raise NotPlain(f"{path} is nested more than {MAX_DEPTH} deep")
        if isinstance(value, Tensor):
            tensors[path] = value.detach().to("cpu", copy=True).contiguous()
            return {"tensor": path}
        if isinstance(value, list | tuple):
            return [replace(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
        if isinstance(value, dict):
            return {"dict": {str(key): replace(item, f"{path}.{key}", depth + 1) for key, item in value.items()}}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise NotPlain(f"{path} is {type(value).__name__}, not a tensor, number, string or list")

    header = json.dumps({name: replace(value, name) for name, value in values.items()}).encode()
    message = len(header).to_bytes(8, "little") + header + save(tensors)
    if len(message) > MAX_BYTES:
        raise NotPlain(f"the outputs take {len(message) >> 20} MiB, more than {MAX_BYTES >> 20} MiB")
    return message


def unpack(message: bytes, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The values of a message, tensors on `device`. Raises ValueError or a SafetensorError on a malformed message."""
    length = int.from_bytes(message[:8], "little")
    tensors = load(message[8 + length:])

    def restore(value: Any) -> Any:
        if isinstance(value, dict):
            return tensors[value["tensor"]].to(device) if "tensor" in value else {
                key: restore(item) for key, item in value["dict"].items()}
        return [restore(item) for item in value] if isinstance(value, list) else value

    return {name: restore(value) for name, value in json.loads(message[8:8 + length]).items()}
