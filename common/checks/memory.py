"""What a lab allocates within a block: how much, and whether a kernel writes beside it.

Both watch every torch operation from below (`TorchDispatchMode`), so that they see each tensor however it was made.
"""
import weakref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from common.checks.guard import QUIET, poison


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
