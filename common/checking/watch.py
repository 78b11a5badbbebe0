"""What a lab does, seen from outside: model calls, torch's operations and memory, kernel launches and their loads.

Each is a context manager. None looks at a clock, so a cost is the same on every machine.
"""
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common.checking.guard import QUIET, poison

# Calls of a model -----------------------------------------------------------------------------------------------------


@dataclass
class ModelCalls:
    """What was asked of a model, call after call."""

    sent: list[list[int]] = field(default_factory=list)  # the token ids of each call
    positions: list[list[int]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # of hidden states that `model.logits` was given

    @property
    def count(self) -> int:
        return len(self.sent)

    @property
    def tokens(self) -> int:
        """Tokens that went through the model, in all calls together."""
        return sum(map(len, self.sent))


@contextmanager
def watched(model: nn.Module) -> Iterator[ModelCalls]:
    """Write down all calls of a packed-token `model`, and of its `logits`, inside a `with` block."""
    calls, forward, score = ModelCalls(), model.forward, model.logits

    def noted_forward(token_ids: Tensor, positions: Tensor, *args, **kwargs) -> Tensor:
        calls.sent.append(token_ids.tolist())
        calls.positions.append(positions.tolist())
        return forward(token_ids, positions, *args, **kwargs)

    def noted_logits(hidden: Tensor) -> Tensor:
        calls.rows.append(len(hidden))
        return score(hidden)

    with patch.object(model, "forward", noted_forward), patch.object(model, "logits", noted_logits):
        yield calls


# Torch's operations and what they allocate ----------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Counts torch's operations in a `with` block: on a GPU nearly each of them, views apart, is a launch.

    `largest` is the number of elements of the largest tensor that any of them gave.
    """

    def __init__(self):
        super().__init__()
        self.count, self.largest = 0, 0

    def __torch_dispatch__(self, function: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **kwargs or {})
        self.count += 1
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.largest = max(self.largest, *sizes, 0)
        return result


class NewTensors(TorchDispatchMode):
    """Hands every tensor that an operation newly makes, which is no view of an older one, to `made`."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        results = operation(*args, **(kwargs or {}))
        declared = operation._schema.returns
        if isinstance(results, tuple | list):
            declared = declared * len(results) if len(declared) == 1 else declared  # "Tensor[]" stands for all of them
            return type(results)(map(self.look, results, declared, [operation] * len(results)))
        return self.look(results, declared[0], operation) if declared else results

    def look(self, result, declared, operation):
        is_new = isinstance(result, Tensor) and declared.alias_info is None
        return self.made(result, operation) if is_new else result

    def made(self, tensor: Tensor, operation) -> Tensor:
        raise NotImplementedError


class PeakMemory(NewTensors):
    """`with PeakMemory() as memory:` afterwards `memory.peak` is the largest number of elements alive at one time."""

    def __init__(self):
        super().__init__()
        self.alive = self.peak = 0

    def made(self, tensor: Tensor, operation) -> Tensor:
        storage = tensor.untyped_storage()
        elements = storage.nbytes() // tensor.element_size()
        self.alive += elements
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self.freed, elements)
        return tensor

    def freed(self, elements: int) -> None:
        self.alive -= elements


class GuardedMemory(NewTensors):
    """`with GuardedMemory(margin) as memory:` every floating tensor made within lies between margins (see guard.py).

    What `torch.empty` and its like leave undefined is NaN, so that elements that a kernel forgets show. The margins are
    kept, so a kernel that writes into them does no harm; `allocated` counts the elements between them.
    """

    def __init__(self, margin: int):
        super().__init__()
        self.margin, self.buffers, self.allocated = margin, [], 0

    def made(self, tensor: Tensor, operation) -> Tensor:
        if not tensor.dtype.is_floating_point or not tensor.numel():
            return tensor
        elements = tensor.untyped_storage().nbytes() // tensor.element_size()
        buffer = torch.full((elements + 2 * self.margin,), QUIET, dtype=tensor.dtype, device=tensor.device)
        self.buffers.append(buffer)
        self.allocated += elements
        inside = buffer.as_strided(tensor.size(), tensor.stride(), self.margin + tensor.storage_offset())
        return inside.fill_(poison(tensor.dtype)) if "empty" in operation.__name__ else inside.copy_(tensor)

    def stray_writes(self) -> int:
        """How many elements of all margins have been overwritten."""
        return sum(int((torch.cat((buffer[:self.margin], buffer[-self.margin:])) != QUIET).sum())
                   for buffer in self.buffers)


# Triton kernels -------------------------------------------------------------------------------------------------------


class Launches:
    """Stands in for a Triton kernel of a lab and counts its launches: `with Launches(lab, "my_kernel") as launches`."""

    def __init__(self, lab: ModuleType, kernel: str):
        self.lab, self.name, self.kernel, self.count = lab, kernel, getattr(lab, kernel), 0

    def __enter__(self) -> "Launches":
        setattr(self.lab, self.name, self)
        return self

    def __exit__(self, *exception) -> None:
        setattr(self.lab, self.name, self.kernel)

    def __getitem__(self, grid: Any) -> Callable:
        def launch(*args, **kwargs):
            self.count += 1
            return self.kernel[grid](*args, **kwargs)

        return launch


class Loads:
    """Within `with Loads() as loads:` every load of every kernel is noted, address by address.

    Triton's interpreter runs kernels as Python, so nothing escapes it. On a GPU nobody counts like this; checks that do
    are for the CPU alone.
    """

    def __init__(self):
        self.addresses: list[np.ndarray] = []  # of each load, the addresses that its mask lets through
        self.largest_block = 0  # elements of the largest load, those masked off included

    def __enter__(self) -> "Loads":
        from triton.runtime.interpreter import interpreter_builder  # here, since macOS has no triton

        load = interpreter_builder.create_masked_load

        def noted_load(pointers, mask, *rest):
            self.addresses.append(pointers.data[mask.data].ravel())
            self.largest_block = max(self.largest_block, pointers.data.size)
            return load(pointers, mask, *rest)

        self.patch = patch.object(interpreter_builder, "create_masked_load", noted_load)
        self.patch.start()
        return self

    def __exit__(self, *exception) -> None:
        self.patch.stop()

    def most_of(self, tensor: Tensor) -> int:
        """The load count of the most-loaded element of `tensor`."""
        loaded = self.all_addresses()
        _, counts = np.unique(loaded[np.isin(loaded, addresses_of(tensor))], return_counts=True)
        return int(counts.max(initial=0))

    def stray_of(self, tensor: Tensor) -> int:
        """How many loads took something of the buffer of which `tensor` is a view, and no element of `tensor`."""
        loaded, storage = self.all_addresses(), tensor.untyped_storage()
        begin = storage.data_ptr()
        loaded = loaded[(loaded >= begin) & (loaded < begin + storage.nbytes())]
        return int((~np.isin(loaded, addresses_of(tensor))).sum())

    def all_addresses(self) -> np.ndarray:
        """Every address that was loaded, as often as it was."""
        return np.concatenate([np.empty(0, np.uint64), *self.addresses])


def addresses_of(tensor: Tensor) -> np.ndarray:
    """The address of every element, whatever the strides."""
    storage = tensor.untyped_storage()
    places = torch.arange(storage.nbytes() // tensor.element_size())
    places = places.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).flatten().numpy()
    return (storage.data_ptr() + places * tensor.element_size()).astype(np.uint64)
