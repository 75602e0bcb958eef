"""Our kernels for GPUs, in Triton: response normalisation and dropout. Imported only where a GPU computes.

The formulas are in response_norm.py and dropout.py. Normalisation reads a map as a flat sequence, in
which the next channel is `stride` elements further on: 1 in channels_last maps, else H * W. Neighbours
come from the first-level cache. In the backward pass each element computes the sums of its neighbours
again, which costs less than exchanging them between threads.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet_torch.model.architecture import Norm

NORM_BLOCK, DROPOUT_BLOCK = 256, 1024  # elements that a program computes; more take too many registers


@triton.jit
def _powers(s, BETA: tl.constexpr):  # noqa: N803
    """Returns s^-beta and 1 / s."""
    if BETA == 0.75:
        root = tl.rsqrt(s)
        return root * tl.sqrt(root), root * root
    if BETA == 0.5:
        root = tl.rsqrt(s)
        return root, root * root
    return tl.exp2(-BETA * tl.log2(s)), 1.0 / s


@triton.jit
def _load(base, offset, there, RELU: tl.constexpr, WIDE: tl.constexpr):  # noqa: N803
    a = tl.load(base + offset, mask=there, other=0).to(WIDE)
    if RELU:
        a = tl.where(a < 0, 0.0, a)  # NaN stays NaN
    return a


@triton.jit
def norm_kernel(
    x_ptr, y_ptr, n, channels, stride, HALF: tl.constexpr, SCALE: tl.constexpr, BETA: tl.constexpr,  # noqa: N803
    K: tl.constexpr, RELU: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,  # noqa: N803
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64) * BLOCK
    at = tl.arange(0, BLOCK)
    inside = at < n - first
    # dividing by 64-bit numbers is slow: once for all elements
    channel = ((first % (channels * stride)).to(tl.int32) + at) // stride % channels
    total = tl.zeros((BLOCK,), WIDE)
    for o in tl.static_range(-HALF, HALF + 1):
        there = inside & (channel + o >= 0) & (channel + o < channels)
        neighbour = _load(x_ptr + first, at + o * stride, there, RELU, WIDE)
        total += neighbour * neighbour
    a = _load(x_ptr + first, at, inside, RELU, WIDE)
    power, _ = _powers(K + SCALE * total, BETA)
    tl.store(y_ptr + first + at, (a * power).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def norm_backward_kernel(
    grad_ptr, x_ptr, out_ptr, n, channels, stride, HALF: tl.constexpr, SCALE: tl.constexpr, BETA: tl.constexpr,  # noqa: N803
    K: tl.constexpr, RELU: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,  # noqa: N803
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64) * BLOCK
    at = tl.arange(0, BLOCK)
    inside = at < n - first
    channel = ((first % (channels * stride)).to(tl.int32) + at) // stride % channels
    squares = ()  # of the channels in the windows of the channels in the window
    for o in tl.static_range(-2 * HALF, 2 * HALF + 1):
        there = inside & (channel + o >= 0) & (channel + o < channels)
        neighbour = _load(x_ptr + first, at + o * stride, there, RELU, WIDE)
        squares = squares + (neighbour * neighbour,)  # type: ignore[assignment]  # noqa: RUF005  # Triton knows no other
    direct, inner = tl.zeros((BLOCK,), WIDE), tl.zeros((BLOCK,), WIDE)
    for o in tl.static_range(-HALF, HALF + 1):
        there = inside & (channel + o >= 0) & (channel + o < channels)
        total = squares[o + HALF]  # type: ignore[var-annotated]
        for i in tl.static_range(1, 2 * HALF + 1):
            total += squares[o + HALF + i]
        power, inverse = _powers(K + SCALE * total, BETA)
        grad = _load(grad_ptr + first, at + o * stride, there, False, WIDE) * power
        inner += grad * _load(x_ptr + first, at + o * stride, there, RELU, WIDE) * inverse
        if o == 0:
            direct = grad
    a = _load(x_ptr + first, at, inside, False, WIDE)
    out = direct - 2 * SCALE * BETA * a * inner
    if RELU:
        out = tl.where(a > 0, out, 0.0)
    tl.store(out_ptr + first + at, out.to(out_ptr.dtype.element_ty), mask=inside)


def norm(x: Tensor, settings: Norm, relu: bool) -> Tensor:
    y = torch.empty_like(x)
    _launch(norm_kernel, (x, y), settings, relu)
    return y


def norm_backward(grad: Tensor, x: Tensor, settings: Norm, relu: bool) -> Tensor:
    out = torch.empty_like(x)
    like_x = grad if grad.stride() == x.stride() else torch.empty_like(x).copy_(grad)
    _launch(norm_backward_kernel, (like_x, x, out), settings, relu)
    return out


def _launch(kernel: triton.JITFunction, maps: tuple[Tensor, ...], settings: Norm, relu: bool) -> None:
    x = maps[-2]
    channels, n = x.shape[1], x.numel()
    wide = tl.float64 if x.dtype == torch.float64 else tl.float32
    # compiled as constants: as other arguments, floats have 32 bits
    numbers = {"SCALE": settings.alpha / settings.window, "BETA": settings.beta, "K": settings.k, "RELU": relu}
    constants = {"HALF": settings.window // 2, **numbers, "WIDE": wide, "BLOCK": NORM_BLOCK}
    stride = x.shape[2] * x.shape[3] if x.is_contiguous() else 1
    if n:
        with torch.cuda.device_of(x):  # Triton launches on the current device
            kernel[(triton.cdiv(n, NORM_BLOCK),)](*maps, n, channels, stride, **constants)


@triton.jit
def _mix(bits):  # Chris Wellons' lowbias32
    bits = (bits ^ (bits >> 16)) * 0x7FEB352D
    bits = (bits ^ (bits >> 15)) * 0x846CA68B
    return bits ^ (bits >> 16)


@triton.jit(do_not_specialize=["first_row", "first_element"])
def dropout_kernel(
    x_ptr, key_ptr, gate_ptr, out_ptr, width, first_row, first_element,
    THRESHOLD: tl.constexpr, SCALE: tl.constexpr, RELU: tl.constexpr, GATED: tl.constexpr,  # noqa: N803
    WIDE: tl.constexpr, BLOCK: tl.constexpr,  # noqa: N803
):  # fmt: skip
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
    x: Tensor, key: Tensor, row: int, element: int, threshold: int, scale: float, relu: bool, gate: Tensor | None
) -> Tensor:
    out, width = torch.empty_like(x), x.shape[1:].numel()
    wide = tl.float64 if x.dtype == torch.float64 else tl.float32
    constants = {"THRESHOLD": threshold, "SCALE": scale, "RELU": relu, "GATED": gate is not None, "WIDE": wide}
    constants["BLOCK"] = DROPOUT_BLOCK
    if x.numel():
        with torch.cuda.device_of(x):  # Triton launches on the current device
            dropout_kernel[len(x), triton.cdiv(width, DROPOUT_BLOCK)](
                x, key, x if gate is None else gate, out, width, row, element, **constants
            )
    return out
