"""Where the layers use torch's own operations in place of their faster ones."""

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def needs_plain_operations(*tensors: Tensor) -> bool:
    """Returns whether more than values and first derivatives is asked of operations on these tensors.

    The faster operations have values and first derivatives only, and work on some images at a time. Where torch
    records the operations (export, jit.trace, FlopCounterMode and other dispatch modes), a record of torch's own
    operations counts right and is the same for every batch size. And only those have all that torch.func and
    forward-mode derivatives need. A compiled network keeps the faster ones.
    """
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return torch.compiler.is_exporting()
    return (
        torch.jit.is_tracing()  # type: ignore[attr-defined]
        or is_in_torch_dispatch_mode()
        or torch._C._are_functorch_transforms_active()  # the check of torch.autograd.Function itself
        or any(_is_batched(tensor) or forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)
    )


def _is_batched(tensor: Tensor) -> bool:
    """Returns whether a backward pass computes with many gradients at once: torch.autograd's `is_grads_batched`."""
    batched: bool = torch._C._functorch.is_legacy_batchedtensor(tensor)
    return batched
