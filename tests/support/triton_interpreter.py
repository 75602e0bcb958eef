"""Triton's interpreter: the kernels for GPUs compute on the CPU, with real numbers and without speed.

Importing this module decides for the rest of the process that Triton interprets: use the fixture
`interpreter_process`. The interpreter shows what a kernel computes, and nothing about a GPU's speed. Its conversions to
bfloat16 do not round as a GPU's.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined

from alexnet_torch.data import augment
from alexnet_torch.model import dropout, response_norm

for module in (augment, dropout, response_norm):
    module.choose_kernel = lambda *_: "Triton"  # type: ignore[attr-defined]
