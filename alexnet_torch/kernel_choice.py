"""The one place that chooses what computes: our kernels in C++ or Triton, a formula, or torch's own operations."""

import functools
import logging
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

logger = logging.getLogger(__name__)


def choose_kernel(x: Tensor, cpp: Callable[[], bool] = lambda: False) -> Literal["C++", "Triton", "formula"]:
    """Returns what computes x: our kernels in C++ on a CPU, if `cpp`, and in Triton on a GPU; else the formula."""
    compiling = torch.compiler.is_compiling()  # torch then makes GPU kernels of the formulas
    if not compiling and type(x) not in (Tensor, nn.Parameter):  # no values, or it computes in its own way
        return "formula"
    if x.is_cpu:
        return "C++" if cpp() else "formula"
    return "Triton" if x.is_cuda and not compiling and _triton_works() else "formula"


@functools.cache
def _triton_works() -> bool:
    try:  # its driver needs a C compiler and Python's headers
        from triton.runtime.driver import driver

        return driver.active is not None
    except Exception as error:  # whatever a missing package, compiler or header raises
        reason = str(error).partition("\n")[0]
        logger.warning("normalisation, dropout and input run slower, without Triton's kernels: %s", reason)
        return False


def needs_plain_operations(*tensors: Tensor) -> bool:
    """Returns whether more is asked than values and first derivatives, all that the faster operations have.

    Such as torch.func and forward-mode derivatives. And where torch records operations (export, jit.trace,
    FlopCounterMode), a record of its own is right for every batch size; torch.compile knows the faster ones.
    """
    # torch.autograd.Function asks the same; there is no public function for it
    transformed: bool = torch._C._are_functorch_transforms_active()
    has_tangent = any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)
    if transformed or has_tangent or torch.compiler.is_exporting():
        return True
    if torch.compiler.is_compiling():
        return False
    return (
        torch.jit.is_tracing()  # type: ignore[attr-defined]
        or is_in_torch_dispatch_mode()
        # torch.autograd's is_grads_batched: a backward pass for many gradients at once
        or any(torch._C._functorch.is_legacy_batchedtensor(tensor) for tensor in tensors)
    )
