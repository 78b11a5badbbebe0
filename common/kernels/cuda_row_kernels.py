"""RMSNorm and SiLU-and-multiply in CUDA C++ (row_kernels.cu), compiled when first called. Import it on a GPU only."""
from functools import cache
from pathlib import Path

import torch
from jaxtyping import BFloat16
from torch import Tensor

SOURCE = Path(__file__).with_name("row_kernels.cu")


@cache
def compiled():
    """The extension module. nvcc takes some seconds, once; torch keeps the result for later processes."""
    from torch.utils.cpp_extension import load_inline

    # The source names its own headers: without torch's, which are large, nvcc is done in a fraction of the time.
    return load_inline("row_kernels", cpp_sources=[], cuda_sources=[SOURCE.read_text()], no_implicit_headers=True,
                       extra_cuda_cflags=["-O3"])


def rms_norm(x: BFloat16[Tensor, "N C"], weight: BFloat16[Tensor, "C"], eps: float, out: BFloat16[Tensor, "N C"]):
    """As 05.3, for contiguous rows of C columns, a multiple of 8 and at most 16384."""
    check_packs(x, weight, out)
    compiled().rms_norm(x.data_ptr(), weight.data_ptr(), out.data_ptr(), *x.shape, eps, current_stream(x))


def silu_and_mul(gate_up: BFloat16[Tensor, "N 2*F"], out: BFloat16[Tensor, "N F"]):
    """As 05.5, for contiguous rows, F a multiple of 8."""
    check_packs(gate_up, out)
    compiled().silu_and_mul(gate_up.data_ptr(), out.data_ptr(), *out.shape, current_stream(out))


def check_packs(*tensors: Tensor) -> None:
    """In C++ nobody else looks: a wrong dtype, stride or width would be read as whatever lies there."""
    for tensor in tensors:
        if tensor.dtype != torch.bfloat16 or not tensor.is_cuda or not tensor.is_contiguous():
            raise ValueError(f"want a contiguous bfloat16 tensor on a GPU, got {tensor.dtype}, strides "
                             f"{tensor.stride()}, on {tensor.device}")
        if tensor.shape[-1] % 8 or tensor.data_ptr() % 16:
            raise ValueError(f"rows of {tensor.shape[-1]} elements at {tensor.data_ptr() % 16} bytes past a multiple "
                             "of 16: the kernels load 8 elements, 16 bytes, at once")


def current_stream(tensor: Tensor) -> int:
    return torch.cuda.current_stream(tensor.device).cuda_stream
