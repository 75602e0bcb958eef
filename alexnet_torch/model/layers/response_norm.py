"""Response normalisation (paper, section 3.3), forward and backward, with nothing saved but its input.

    b_i = a_i s_i^-beta,   s_i = k + c sum_j a_j^2,   c = alpha / window, j over i's window
    grad a_i = g_i s_i^-beta - 2 c beta a_i sum_j g_j a_j s_j^(-beta - 1)

It is bound by memory: torch's own makes many passes over the map where one each way suffices, and takes
half of a training step. Three ways to the same numbers: kernels of our own on a CPU (kernels.py), the formulas below
compiled by torch on a GPU, and the formulas as they stand where there is no compiler.
"""

import functools
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from alexnet_torch.model.architecture import Norm
from alexnet_torch.model.layers import kernels

# elements of a map in hand at a time on a CPU: what is in cache goes through the formulas twice as fast,
# and a normalised map that is in cache is pooled without having been in memory
_CHUNK, _POOLED = 400_000, 1_000_000


def response_norm(x: Tensor, norm: Norm, relu: bool = False) -> Tensor:
    """Response normalisation over neighbouring channels.

    Args:
        x: (N, C, H, W), floating-point, in any memory format, which the result keeps. Of less than 32
            bits, it is computed in 32 and rounded once.
        norm: window, alpha, beta and k; `across_towers` is the caller's concern.
        relu: rectify x first, at no cost: one pass and one saved map less.
    """
    if torch.compiler.is_exporting():  # plain operations; ours would be written as dozens of scattered slices
        return F.local_response_norm(F.relu(x) if relu else x, norm.window, norm.alpha, norm.beta, norm.k)
    return _ResponseNorm.apply(x, norm, relu)  # type: ignore[no-any-return]


def response_norm_pool(x: Tensor, norm: Norm, relu: bool, size: int, stride: int, ceil: bool) -> Tensor:
    """Response normalisation, then max-pooling, with the normalised map kept for neither's backward pass.

    Args:
        x, norm, relu: as for `response_norm`.
        size, stride, ceil: of the pooling, as for `torch.nn.functional.max_pool2d`.
    """
    if torch.compiler.is_exporting():
        return F.max_pool2d(response_norm(x, norm, relu), size, stride, ceil_mode=ceil)
    if not (x.requires_grad and torch.is_grad_enabled()):  # winners are for the backward pass
        some = _dense(x).split(_images_at_a_time(x, _POOLED))
        pooled = [F.max_pool2d(_normalise(part, norm, relu), size, stride, ceil_mode=ceil) for part in some]
        return pooled[0] if len(pooled) == 1 else torch.cat(pooled)
    return _ResponseNormPool.apply(x, norm, relu, (size, stride, ceil))  # type: ignore[no-any-return]


class _ResponseNorm(torch.autograd.Function):
    """Saves its input alone: the sum over neighbours is cheaper to redo than to keep."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Norm, relu: bool) -> Tensor:
        x = _dense(x)
        ctx.save_for_backward(x)
        ctx.norm, ctx.relu = norm, relu
        return _normalise(x, norm, relu)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return _gradient(grads[0], x, ctx.norm, ctx.relu), None, None


class _ResponseNormPool(torch.autograd.Function):
    """Saves its input, and of each pooling window which element won.

    On a CPU it goes a few images at a time: the normalised map is in cache when it is pooled, and there
    is never more of it, nor of its gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Norm, relu: bool, pool: tuple[int, int, bool]) -> Tensor:
        x, (size, stride, ceil) = _dense(x), pool
        # below 2^15 places, a quarter of the bytes of torch's own int64
        kind = torch.int16 if x.shape[2] * x.shape[3] < 1 << 15 else torch.int64
        pooled, winners = [], []
        for some in x.split(_images_at_a_time(x, _POOLED)):
            y = _normalise(some, norm, relu)
            values, places = F.max_pool2d(y, size, stride, ceil_mode=ceil, return_indices=True)
            pooled.append(values)
            winners.append(places.to(kind))
        ctx.save_for_backward(x, torch.cat(winners))
        ctx.norm, ctx.relu, ctx.pool = norm, relu, pool
        return torch.cat(pooled)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        x, winners = ctx.saved_tensors
        size, stride, ceil = ctx.pool
        out = torch.empty_like(x)
        images = _images_at_a_time(x, _POOLED)
        for to, some, places, above in zip(*(m.split(images) for m in (out, x, winners, grads[0])), strict=True):
            # of the map that was pooled this takes the shape and format alone, which x has too
            grad = torch.ops.aten.max_pool2d_with_indices_backward(
                above, some, [size, size], [stride, stride], [0, 0], [1, 1], ceil, places.long()
            )
            to.copy_(_gradient(grad, some, ctx.norm, ctx.relu))
        return out, None, None, None


def _images_at_a_time(x: Tensor, elements: int) -> int:
    """All on a GPU; on a CPU so few that their temporaries stay in its cache."""
    whole = not x.is_cpu or torch.compiler.is_compiling()
    return max(1, len(x) if whole else elements // max(1, x[:1].numel()))


def _dense(x: Tensor) -> Tensor:
    return x if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def _normalise(x: Tensor, norm: Norm, relu: bool) -> Tensor:
    """By the fastest way that there is for x."""
    if _native(x):
        out: Tensor = torch.ops.alexnet_torch.norm(_wide(x), norm.window, norm.alpha, norm.beta, norm.k, relu)
        return out.to(x.dtype)
    return _compiled(_forward)(x, norm, relu) if _by_triton(x) else _in_chunks(_forward, (x,), norm, relu)


def _gradient(grad: Tensor, x: Tensor, norm: Norm, relu: bool) -> Tensor:
    """With respect to x, from that of the result."""
    if _native(x):
        numbers = (norm.window, norm.alpha, norm.beta, norm.k, relu)
        out: Tensor = torch.ops.alexnet_torch.norm_backward(_wide(grad), _wide(x), *numbers)
        return out.to(x.dtype)
    return _compiled(_backward)(grad, x, norm, relu) if _by_triton(x) else _in_chunks(_backward, (grad, x), norm, relu)


def _native(x: Tensor) -> bool:
    plain = torch.compiler.is_compiling() or type(x) is Tensor or isinstance(x, torch.nn.Parameter)  # not a fake one
    return plain and x.is_cpu and kernels.available()


def _by_triton(x: Tensor) -> bool:
    # where the whole network is compiled, so is this as a part of it
    return x.is_cuda and type(x) is Tensor and not torch.compiler.is_compiling() and find_spec("triton") is not None


@functools.cache
def _compiled(formula: Any) -> Any:
    return torch.compile(formula)


def _in_chunks(formula: Any, maps: tuple[Tensor, ...], norm: Norm, relu: bool) -> Tensor:
    """The formula, on a CPU a few images at a time."""
    images = _images_at_a_time(maps[0], _CHUNK)
    if len(maps[0]) <= images:
        result: Tensor = formula(*maps, norm, relu)
        return result
    out = torch.empty_like(maps[-1])
    for to, *some in zip(out.split(images), *(m.split(images) for m in maps), strict=True):
        to.copy_(formula(*some, norm, relu))
    return out


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _window_sum(x: Tensor, window: int) -> Tensor:
    """Sums over `window` neighbouring channels of (N, C, ...), clipped at the first and last."""
    total = x.clone()
    for offset in range(1, min(window // 2 + 1, x.shape[1])):
        total[:, offset:] += x[:, :-offset]
        total[:, :-offset] += x[:, offset:]
    return total


def _negative_power(scale: Tensor, beta: float) -> Tensor:
    """scale^-beta; for 0.75 and 0.5 by square roots, which cost a fraction of a power."""
    root = scale.rsqrt()
    if beta == 0.75:
        return root.sqrt().mul_(root)
    return root if beta == 0.5 else scale.pow(-beta)


def _forward(x: Tensor, norm: Norm, relu: bool) -> Tensor:
    a = F.relu(_wide(x)) if relu else _wide(x)
    scale = _window_sum(a * a, norm.window).mul_(norm.alpha / norm.window).add_(norm.k)
    return _negative_power(scale, norm.beta).mul_(a).to(x.dtype)


def _backward(grad: Tensor, x: Tensor, norm: Norm, relu: bool) -> Tensor:
    a = F.relu(_wide(x)) if relu else _wide(x)
    c = norm.alpha / norm.window
    scale = _window_sum(a * a, norm.window).mul_(c).add_(norm.k)
    direct = _negative_power(scale, norm.beta).mul_(grad)  # g s^-beta
    inner = _window_sum((direct * a).div_(scale), norm.window)
    out = direct.addcmul_(a, inner, value=-2 * c * norm.beta)
    return (out.mul_(x > 0) if relu else out).to(x.dtype)


def spatial_response_norm(x: Tensor, norm: Norm) -> Tensor:
    """The 2012 source's second norm: over a window x window square of each channel by itself.

    Args:
        x: (N, C, H, W), floating-point.
        norm: alpha is divided by window^2: the source's 0.001 / 25.
    """
    # count_include_pad: the window is clipped at the borders, its divisor stays window^2
    mean = F.avg_pool2d(x * x, norm.window, stride=1, padding=norm.window // 2)
    return x * (norm.k + norm.alpha * mean) ** -norm.beta
