"""Where this project's kernels for GPUs compute, which are written in Triton."""

import functools
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def takes_triton_kernels(x: Tensor) -> bool:
    """Returns whether kernels in Triton can compute x: a GPU's tensor, with values, outside of torch.compile.

    Elsewhere the formulas do, of which torch.compile makes such kernels itself.
    """
    real = type(x) is Tensor or type(x) is nn.Parameter  # not a fake tensor, nor one that computes in its own way
    return x.is_cuda and real and not torch.compiler.is_compiling() and _has_triton()


@functools.cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def needs_plain_operations(*tensors: Tensor) -> bool:
    """Returns whether more than values and first derivatives is asked of operations on these tensors.

    The faster operations have values and first derivatives only, and work on some images at a time. torch.func and
    forward-mode derivatives need more. Where torch records operations (export, jit.trace, FlopCounterMode and other
    dispatch modes), a record of torch's own counts right and is the same for every batch size; but torch.compile
    takes the faster ones, which it knows.
    """
    if torch.compiler.is_exporting() or _is_transformed(*tensors):
        return True
    if torch.compiler.is_compiling():
        return False
    return (
        torch.jit.is_tracing()  # type: ignore[attr-defined]
        or is_in_torch_dispatch_mode()
        # torch.autograd's is_grads_batched: a backward pass for many gradients at once
        or any(torch._C._functorch.is_legacy_batchedtensor(tensor) for tensor in tensors)
    )


def _is_transformed(*tensors: Tensor) -> bool:
    """Returns whether torch.func transforms what is computed, or a tensor has a forward-mode tangent."""
    # torch.autograd.Function asks the same; there is no public function for it
    active: bool = torch._C._are_functorch_transforms_active()
    return active or any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)
