"""Where this process computes. Import it before `triton`, which reads TRITON_INTERPRET once, when it is imported.

With Triton's interpreter on, kernels are Python that works on CPU memory; with it off, they are compiled for the GPU.
A process therefore does one or the other, never both.
"""
import os

import torch

os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")

# Left to itself, torch attends through cuDNN on Hopper, which plans whenever a length is new, and takes far longer for
# that than for attending. An engine meets a new length with every token.
torch.backends.cuda.enable_cudnn_sdp(False)

DEVICE = torch.device("cpu" if os.environ["TRITON_INTERPRET"] == "1" else "cuda")
