"""Where this project's kernels for GPUs compute, which are written in Triton."""

import functools
from importlib.util import find_spec

import torch
from torch import Tensor, nn


def takes_gpu_kernels(x: Tensor) -> bool:
    """Returns whether kernels in Triton can compute x: a GPU's tensor, with values, outside of torch.compile.

    Elsewhere the formulas do, of which torch.compile makes such kernels itself.
    """
    real = type(x) is Tensor or type(x) is nn.Parameter  # not a fake tensor, nor one that computes in its own way
    return x.is_cuda and real and not torch.compiler.is_compiling() and _has_triton()


@functools.cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
