"""Cost without a clock: model calls, tokens that went through a model, torch operations, kernel launches."""
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class Cost:
    model_calls: int = 0
    tokens: int = 0


@contextmanager
def counted(model: nn.Module) -> Iterator[Cost]:
    """Count the forward calls of a packed-token `model` inside a `with` block."""
    cost = Cost()

    def count(module: nn.Module, args: tuple, kwargs: dict) -> None:
        token_ids = args[0] if args else kwargs["token_ids"]
        cost.model_calls += 1
        cost.tokens += token_ids.numel()

    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield cost
    finally:
        hook.remove()


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
        self.largest = max(self.largest, *(one.numel() for one in tree_leaves(result) if isinstance(one, Tensor)), 0)
        return result


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
