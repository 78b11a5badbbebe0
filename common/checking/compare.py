"""How judges compare, and how they say what differs: types, shapes and dtypes first, then the first five places."""
from typing import Any

import torch
from torch import Tensor

from common.checking.exercise import Mismatch

SHOWN = 5


def describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    return f"{type(value).__name__} {value!r:.60}"


def expect_equal(what: str, got: Any, want: Any) -> None:
    """Exact equality of numbers, strings, lists, or tensors (shape, dtype and every element)."""
    if not isinstance(want, Tensor):
        if type(got) is not type(want) or got != want:
            raise Mismatch(f"{what}: got {describe(got)}, want {describe(want)}")
        return
    expect_like(what, got, want)
    report_differences(what, got, want, got != want)


def expect_close(what: str, got: Any, want: Tensor, atol: float, rtol: float = 0.0) -> None:
    """|got - want| <= atol + rtol |want| everywhere. `want` may be more precise than `got`; NaN is never close."""
    expect_like(what, got, want, dtype=False)
    error = (got.double() - want.double()).abs()
    too_far = ~(error <= atol + rtol * want.double().abs())
    report_differences(what, got, want, too_far, f" (largest error {error.max():.3g}, allowed {atol:.3g}"
                       + (f" + {rtol:.3g} of the value)" if rtol else ")") if error.numel() else "")


def expect_near(what: str, got: Any, want: Tensor, dtype: torch.dtype, atol: float, rtol: float = 0.0) -> None:
    """Shape and `dtype` as promised, values within the tolerance of the more precise `want`."""
    expect_like(what, got, want.to(dtype))
    expect_close(what, got, want, atol, rtol)


def expect_like(what: str, got: Any, want: Tensor, dtype: bool = True) -> None:
    if not isinstance(got, Tensor) or got.shape != want.shape or (dtype and got.dtype != want.dtype):
        raise Mismatch(f"{what}: got {describe(got)}, want {describe(want)}")


def report_differences(what: str, got: Tensor, want: Tensor, wrong: Tensor, note: str = "") -> None:
    if not wrong.any():
        return
    places = wrong.nonzero()
    shown = [f"[{', '.join(map(str, place.tolist()))}] got {got[tuple(place)].item():.6g}, "
             f"want {want[tuple(place)].item():.6g}" for place in places[:SHOWN]]
    rest = "; ..." if len(places) > SHOWN else ""
    raise Mismatch(f"{what}: {len(places)} of {wrong.numel()} values differ{note}: {'; '.join(shown)}{rest} "
                   f"({describe(got)})")
