"""Attention kernels are compiled for Hopper on any machine; the second version is held against float64 on such a GPU.

All this happens in processes of their own, without the interpreter that the other tests set.
"""
import os
import subprocess
import sys

import pytest
import torch

from common import ROOT

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

from common.kernels.flash_attention_2 import K_TILE, flash_attention_2_kernel

def descriptor(rows, head_dim, name, dtype):
    return f"tensordesc<{name}[{rows}, {head_dim}],{gl.NVMMASharedLayout.get_default_for([rows, head_dim], dtype)!r}>"

for name, dtype, head_dim, causal in (("bf16", gl.bfloat16, 128, True), ("bf16", gl.bfloat16, 64, False),
                                      ("fp16", gl.float16, 128, False)):
    signature = {"q_desc": descriptor(64, head_dim, name, dtype), "out_ptr": f"*{name}", "lse_ptr": "*fp32",
                 "k_desc": descriptor(K_TILE.value, head_dim, name, dtype),
                 "v_desc": descriptor(K_TILE.value, head_dim, name, dtype), "cu_seqlens_q": "*i32",
                 "cu_seqlens_k": "*i32", "scale_log2": "fp32", "D": "constexpr", "CAUSAL": "constexpr"}
    signature = {arg: signature.get(arg, "i32") for arg in flash_attention_2_kernel.arg_names}
    source = GluonASTSource(flash_attention_2_kernel, signature, {"D": head_dim, "CAUSAL": causal})
    kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    print("wgmma.mma_async" in kernel.asm["ptx"] and len(kernel.asm["cubin"]) > 0)
"""

COMPILE_LESSON = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from common.checking.lab import load_lab

lab = load_lab("flash_attention")
CONSTANTS = {"CAUSAL": True, "WINDOWED": True, "D": 80, "D_PAD": 128, "Q_TILE": 64, "K_TILE": 64}
for kernel in (lab.flash_attention_kernel, lab.dq_kernel, lab.dk_dv_kernel):
    signature = {}
    for name in kernel.arg_names:
        if name in ("lse_log2_desc", "delta_desc"):
            signature[name] = "tensordesc<fp32[64]>"
        elif name.endswith("_desc"):
            signature[name] = "tensordesc<bf16[64, 1, 128]>"
        elif name.endswith("_ptr"):
            signature[name] = "*i32" if "cu_" in name else "*fp32" if "lse" in name or "delta" in name else "*bf16"
        else:
            signature[name] = "constexpr" if name in CONSTANTS else "fp32" if "scale" in name else "i32"
    source = ASTSource(kernel, signature, CONSTANTS)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, "num_stages": 2})
    print("wgmma.mma_async" in compiled.asm["ptx"] and len(compiled.asm["cubin"]) > 0)
"""

COMPARE = """
import torch

from common.kernels.flash_attention_2 import flash_attention_2

torch.manual_seed(int(__import__("sys").argv[1]))
nq = [1, 130, 257, 0, 64, *torch.randint(1, 400, (3,)).tolist()]
nk = [5, 130, 511, 7, 200, *torch.randint(1, 400, (3,)).tolist()]
cu_q, cu_k = (torch.tensor([0, *torch.tensor(n).cumsum(0)], dtype=torch.int32, device="cuda") for n in (nq, nk))
for dtype in (torch.bfloat16, torch.float16):
    for head_dim in (64, 128):
        for heads, kv_heads in ((4, 4), (6, 2)):
            for causal in (False, True):
                q = 3 * torch.randn(sum(nq), heads, head_dim, device="cuda", dtype=dtype)
                k, v = (torch.randn(sum(nk), kv_heads, head_dim, device="cuda", dtype=dtype) for _ in range(2))
                out, lse = flash_attention_2(q, k, v, cu_q, cu_k, max(nq), causal)
                for s in range(len(nq)):
                    a, b = slice(*cu_q[s:s + 2].tolist()), slice(*cu_k[s:s + 2].tolist())
                    keys, values = (x[b].double().repeat_interleave(heads // kv_heads, 1) for x in (k, v))
                    scores = torch.einsum("qhd,khd->hqk", q[a].double(), keys) * head_dim**-0.5
                    if causal:
                        seen = torch.ones(scores.shape[1:], dtype=torch.bool, device="cuda").tril(nk[s] - nq[s])
                        scores = scores.masked_fill(~seen, -torch.inf)
                    want_lse = scores.logsumexp(-1)
                    p = (scores - want_lse.masked_fill(want_lse == -torch.inf, 0)[..., None]).exp()
                    want = torch.einsum("hqk,khd->qhd", p, values)
                    # Rounded are p, out (2^-9 of a value up to 4 in bf16) and nothing else.
                    torch.testing.assert_close(out[a].double(), want, atol=0.03, rtol=0)
                    torch.testing.assert_close(lse[a].double(), want_lse.T, atol=1e-3, rtol=1e-3)
                print(True)
"""


def lines_of(script: str, *arguments: str) -> list[str]:
    run = subprocess.run([sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True,
                         env={**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": str(ROOT), "LABS": "solutions"})
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout.split()


def test_the_second_version_compiles_for_hopper_on_any_machine():
    assert lines_of(COMPILE) == ["True"] * 3


def test_lesson_06_compiles_for_hopper_on_any_machine():
    assert lines_of(COMPILE_LESSON) == ["True"] * 3


@pytest.mark.skipif(not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9, reason="no Hopper GPU")
def test_the_second_version_agrees_with_float64_on_ragged_batches(seed):
    assert lines_of(COMPARE, str(seed)) == ["True"] * 16
