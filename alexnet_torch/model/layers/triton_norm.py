"""Response normalisation on a GPU: one kernel each way, in Triton. Imported only where a GPU computes.

The formulas are in response_norm.py. A map is read as a flat sequence of elements, in which the next channel of a pixel
is `stride` elements further on: 1 in channels_last maps, H * W in contiguous ones. The neighbours of an element come
from the first-level cache: memory is read once and written once. In the backward pass each element computes the sums
of its neighbours again, which costs less than exchanging them between threads.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet_torch.model.architecture import Norm

BLOCK = 256  # elements of a program, two for each thread: with more, the registers of fewer programs fit a processor


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
def norm_forward(
    x_ptr, y_ptr, n, channels, stride, HALF: tl.constexpr, SCALE: tl.constexpr, BETA: tl.constexpr,  # noqa: N803
    K: tl.constexpr, RELU: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,  # noqa: N803
):  # fmt: skip
    """Computes BLOCK elements of the normalised map."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    at = tl.arange(0, BLOCK)
    inside = at < n - first
    # the division by 64-bit numbers, which is slow, is done once for all elements
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
def norm_backward(
    grad_ptr, x_ptr, out_ptr, n, channels, stride, HALF: tl.constexpr, SCALE: tl.constexpr, BETA: tl.constexpr,  # noqa: N803
    K: tl.constexpr, RELU: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,  # noqa: N803
):  # fmt: skip
    """Computes BLOCK elements of the gradient with respect to x."""
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


def forward(x: Tensor, norm: Norm, relu: bool) -> Tensor:
    """Returns the normalised map of x (N, C, H, W), contiguous or channels_last; see `response_norm`."""
    y = torch.empty_like(x)
    _launch(norm_forward, (x, y), norm, relu)
    return y


def backward(grad: Tensor, x: Tensor, norm: Norm, relu: bool) -> Tensor:
    """Returns the gradient with respect to x, from that with respect to the result; both (N, C, H, W)."""
    out = torch.empty_like(x)
    like_x = grad if grad.stride() == x.stride() else torch.empty_like(x).copy_(grad)
    _launch(norm_backward, (like_x, x, out), norm, relu)
    return out


def constants(x: Tensor, norm: Norm, relu: bool) -> dict[str, object]:
    """Returns the kernels' arguments that are constants when they are compiled: as others, floats have 32 bits."""
    wide = tl.float64 if x.dtype == torch.float64 else tl.float32
    numbers = {"HALF": norm.window // 2, "SCALE": norm.alpha / norm.window, "BETA": norm.beta, "K": norm.k}
    return {**numbers, "RELU": relu, "WIDE": wide, "BLOCK": BLOCK}


def _launch(kernel: triton.JITFunction, maps: tuple[Tensor, ...], norm: Norm, relu: bool) -> None:
    x = maps[-2]
    channels, n = x.shape[1], x.numel()
    stride = x.shape[2] * x.shape[3] if x.is_contiguous() else 1
    if n:
        with torch.cuda.device_of(x):  # Triton launches on the current device
            kernel[(triton.cdiv(n, BLOCK),)](*maps, n, channels, stride, **constants(x, norm, relu))
