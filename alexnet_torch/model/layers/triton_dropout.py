"""Dropout on a GPU in one kernel, in Triton. Imported only where a GPU computes; dropout.py has the formula."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # elements of a row that a program computes


@triton.jit
def _mix(bits):
    """Chris Wellons' lowbias32, of unsigned 32-bit values."""
    bits = (bits ^ (bits >> 16)) * 0x7FEB352D
    bits = (bits ^ (bits >> 15)) * 0x846CA68B
    return bits ^ (bits >> 16)


@triton.jit(do_not_specialize=["first_row", "first_element"])
def dropout_kernel(
    x_ptr, key_ptr, gate_ptr, out_ptr, width, first_row, first_element,
    THRESHOLD: tl.constexpr, SCALE: tl.constexpr, RELU: tl.constexpr, GATED: tl.constexpr,  # noqa: N803
    WIDE: tl.constexpr, BLOCK: tl.constexpr,  # noqa: N803
):  # fmt: skip
    """Computes BLOCK elements of a row of the batch."""
    key, row = tl.load(key_ptr), tl.program_id(0)
    row_bits = _mix(_mix((first_row + row).to(tl.uint32) ^ key.to(tl.uint32)) + (key >> 32).to(tl.uint32))
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside, start = at < width, row.to(tl.int64) * width
    value = tl.load(x_ptr + start + at, mask=inside, other=0).to(WIDE)
    if RELU:
        value = tl.where(value < 0, 0.0, value)  # NaN stays NaN
    bits = _mix(_mix((first_element + at).to(tl.uint32)) ^ row_bits)
    # a product, not a choice: a NaN that is dropped stays, as in the formula
    value = value * (bits.to(tl.int64) >= THRESHOLD).to(WIDE) * SCALE
    if GATED:
        gate = tl.load(gate_ptr + start + at, mask=inside, other=0)
        value = tl.where(gate <= 0, 0.0, value)
    tl.store(out_ptr + start + at, value.to(out_ptr.dtype.element_ty), mask=inside)


def dropout(
    x: Tensor,
    key: Tensor,
    first_row: int,
    first_element: int,
    threshold: int,
    scale: float,
    relu: bool,
    gate: Tensor | None,
) -> Tensor:
    """Returns dropout of x (n, ...), contiguous.

    Args:
        key: 0-d int64, on the device of x; first_row, first_element: of the mask.
        threshold: the hash, 0..2^32 - 1, below which an element is dropped.
        scale: the factor of the others.
        relu: apply ReLU to x first.
        gate: of the shape of x, contiguous: the result is 0 where it is 0 or less.
    """
    out, width = torch.empty_like(x), x.shape[1:].numel()
    wide = tl.float64 if x.dtype == torch.float64 else tl.float32
    constants = {"THRESHOLD": threshold, "SCALE": scale, "RELU": relu, "GATED": gate is not None, "WIDE": wide}
    if x.numel():
        with torch.cuda.device_of(x):  # Triton launches on the current device
            dropout_kernel[len(x), triton.cdiv(width, BLOCK)](
                x, key, x if gate is None else gate, out, width, first_row, first_element, **constants, BLOCK=BLOCK
            )
    return out
