"""What kernels load, address by address: Triton's interpreter runs them as Python, so nothing escapes it.

On a GPU nobody counts like this; checks that do are for the CPU alone.
"""
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor


class Traffic:
    """Within `with Traffic() as traffic:` every load of every kernel is noted."""

    def __init__(self):
        self.addresses: list[np.ndarray] = []  # of each load, the addresses that its mask lets through
        self.largest_block = 0  # elements of the largest load, those masked off included

    def __enter__(self) -> "Traffic":
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

    def most_loads(self, tensor: Tensor) -> int:
        """How often that element of `tensor` was loaded which was loaded most."""
        loaded = self.loaded()
        _, counts = np.unique(loaded[np.isin(loaded, addresses_of(tensor))], return_counts=True)
        return int(counts.max(initial=0))

    def stray_loads(self, tensor: Tensor) -> int:
        """How many loads took something of the buffer of which `tensor` is a view, and no element of `tensor`."""
        loaded, storage = self.loaded(), tensor.untyped_storage()
        begin = storage.data_ptr()
        loaded = loaded[(loaded >= begin) & (loaded < begin + storage.nbytes())]
        return int((~np.isin(loaded, addresses_of(tensor))).sum())

    def loaded(self) -> np.ndarray:
        return np.concatenate([np.empty(0, np.uint64), *self.addresses])


def addresses_of(tensor: Tensor) -> np.ndarray:
    """The address of every element, whatever the strides."""
    storage = tensor.untyped_storage()
    places = torch.arange(storage.nbytes() // tensor.element_size())
    places = places.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).flatten().numpy()
    return (storage.data_ptr() + places * tensor.element_size()).astype(np.uint64)
