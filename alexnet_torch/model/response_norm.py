"""Response normalisation (paper, section 3.3), forward and backward, which saves only its input.

    b_i = a_i s_i^-beta,   s_i = k + c sum_j a_j^2,   c = alpha / window, j over the window of i
    grad a_i = g_i s_i^-beta - 2 c beta a_i sum_j g_j a_j s_j^(-beta - 1)

Memory traffic limits it: torch's own function makes many passes over the map, and takes half of a training step. Three
implementations give the same numbers: our kernels for CPUs (cpu_kernels.py) and GPUs (triton_kernels.py), and the
formulas below. They have a first derivative; where more is needed (kernel_choice.py) torch's own function is used.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_torch.kernel_choice import choose_kernel, needs_plain_operations
from alexnet_torch.model import cpu_kernels
from alexnet_torch.model.architecture import Norm

Pooling = tuple[int, int, bool]  # size, stride, ceil

# elements that a CPU processes together, by the formulas and before a pooling, to stay in its cache
_FORMULA_ELEMENTS, _POOLED_ELEMENTS = 400_000, 1_000_000


def response_norm(x: Tensor, norm: Norm, relu: bool = False) -> Tensor:
    """Normalises x or ReLU(x) over neighbouring channels; the caller handles `across_towers`.

    x is (N, C, H, W) in any memory format, which the result has too; fewer than 32 bits are rounded once.
    """
    if needs_plain_operations(x):
        return _plain_norm(x, norm, relu)
    return _ResponseNorm.apply(_dense(x), norm, relu)  # type: ignore[no-any-return]


def response_norm_pool(x: Tensor, norm: Norm, relu: bool, size: int, stride: int, ceil: bool) -> Tensor:
    """Normalises, then max-pools, without saving the normalised map."""
    if needs_plain_operations(x):
        return F.max_pool2d(_plain_norm(x, norm, relu), size, stride, ceil_mode=ceil)
    return _ResponseNormPool.apply(_dense(x), norm, relu, (size, stride, ceil))[0]  # type: ignore[no-any-return]


def spatial_response_norm(x: Tensor, norm: Norm) -> Tensor:
    """Normalises each channel over a square: the 2012 source's second norm."""
    # count_include_pad: the window is clipped at the borders, its divisor stays window^2
    mean = F.avg_pool2d(x * x, norm.window, stride=1, padding=norm.window // 2)
    return x * (norm.k + norm.alpha * mean) ** -norm.beta


class _ResponseNorm(torch.autograd.Function):
    """Saves only its input: computing the sums again costs less than saving them."""

    @staticmethod
    def forward(x: Tensor, norm: Norm, relu: bool) -> Tensor:
        return _compute(_forward, "norm", (x,), norm, relu)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Norm, bool], output: Tensor) -> None:
        x, ctx.norm, ctx.relu = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        if _differentiated_again(grads[0], x):
            plain = partial(_plain_norm, norm=ctx.norm, relu=ctx.relu)
            return torch.func.vjp(plain, x)[1](grads[0])[0], None, None
        return _compute(_backward, "norm_backward", (grads[0], x), ctx.norm, ctx.relu), None, None


class _ResponseNormPool(torch.autograd.Function):
    """Saves its input, and the position of the maximum of each pooling window.

    A CPU takes a few images at a time, whose normalised map is still in cache when it is pooled.
    """

    @staticmethod
    def forward(x: Tensor, norm: Norm, relu: bool, pool: Pooling) -> tuple[Tensor, Tensor]:
        """Returns the pooled maps, and the position of each of their elements in its map of x."""
        size, stride, ceil = pool
        # a quarter of the bytes of torch's own int64; on a GPU that costs a launch more
        is_small = x.is_cpu and x.shape[2] * x.shape[3] < 1 << 15
        pooled, positions = [], []
        for chunk in x.split(_chunk_images(x, _POOLED_ELEMENTS)):
            y = _compute(_forward, "norm", (chunk,), norm, relu)
            maxima, indices = F.max_pool2d(y, size, stride, ceil_mode=ceil, return_indices=True)
            pooled.append(maxima)
            positions.append(indices.to(torch.int16 if is_small else torch.int64))
        return (pooled[0], positions[0]) if len(pooled) == 1 else (torch.cat(pooled), torch.cat(positions))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Norm, bool, Pooling], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.norm, ctx.relu, ctx.pool = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # else the positions get a gradient of zeros
        ctx.save_for_backward(x, output[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        (grad, _), (x, positions) = grads, ctx.saved_tensors
        if grad is None:
            return None, None, None, None
        if _differentiated_again(grad, x):
            plain = partial(_plain_norm_at, norm=ctx.norm, relu=ctx.relu, positions=positions.long())
            return torch.func.vjp(plain, x)[1](grad)[0], None, None, None
        size, stride, ceil = ctx.pool

        def gradient(grad: Tensor, positions: Tensor, x: Tensor) -> Tensor:
            # of the map that was pooled this reads only the shape and format, which x has too
            map_grad = torch.ops.aten.max_pool2d_with_indices_backward(
                grad, x, [size, size], [stride, stride], [0, 0], [1, 1], ceil, positions.long()
            )
            return _compute(_backward, "norm_backward", (map_grad, x), ctx.norm, ctx.relu)

        return _by_chunks(gradient, _POOLED_ELEMENTS, grad, positions, x), None, None, None


def _differentiated_again(*tensors: Tensor) -> bool:
    """Returns whether a backward pass must be differentiable, which torch.compile refuses itself."""
    return (torch.is_grad_enabled() and not torch.compiler.is_compiling()) or needs_plain_operations(*tensors)


def _plain_norm(x: Tensor, norm: Norm, relu: bool) -> Tensor:
    """Computes the norm in torch's own operations, differentiable at will."""
    a, settings = F.relu(x) if relu else x, (norm.window, norm.alpha, norm.beta, norm.k)
    if x.dtype in (torch.float32, torch.float64):  # an exported graph keeps conversions that change nothing
        return F.local_response_norm(a, *settings)
    return F.local_response_norm(a.float(), *settings).to(x.dtype)


def _plain_norm_at(x: Tensor, norm: Norm, relu: bool, positions: Tensor) -> Tensor:
    """Returns the elements of the normalised maps at positions (N, C, h, w)."""
    return _plain_norm(x, norm, relu).flatten(2).gather(2, positions.flatten(2)).view(positions.shape)


def _dense(x: Tensor) -> Tensor:
    return x if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def _widen(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _chunk_images(x: Tensor, elements: int) -> int:
    """Returns how many images to process together."""
    all_together = not x.is_cpu or torch.compiler.is_compiling()
    return max(1, len(x) if all_together else elements // max(1, x[:1].numel()))


def _by_chunks(function: Callable[..., Tensor], elements: int, *batches: Tensor) -> Tensor:
    """Calls a function on a few images at a time; its result is like the last batch."""
    x = batches[-1]
    images = _chunk_images(x, elements)
    if len(x) <= images:
        return function(*batches)
    out = torch.empty_like(x)
    for out_chunk, *chunk in zip(*(batch.split(images) for batch in (out, *batches)), strict=True):
        out_chunk.copy_(function(*chunk))
    return out


def _compute(formula: Callable[..., Tensor], kernel: str, maps: tuple[Tensor, ...], norm: Norm, relu: bool) -> Tensor:
    """Computes a formula of maps, the last of which is x, by the fastest implementation for x."""
    x = maps[-1]
    chosen = choose_kernel(x, cpu_kernels.available)
    if chosen == "C++":
        native = getattr(torch.ops.alexnet_torch, kernel)
        out: Tensor = native(*map(_widen, maps), norm.window, norm.alpha, norm.beta, norm.k, relu)
        return out.to(x.dtype)
    if chosen == "Triton":
        from alexnet_torch.model import triton_kernels  # here, because it imports Triton

        on_gpu: Callable[..., Tensor] = getattr(triton_kernels, kernel)
        return on_gpu(*maps, norm, relu)
    return _by_chunks(partial(formula, norm=norm, relu=relu), _FORMULA_ELEMENTS, *maps)


def _window_sum(x: Tensor, window: int) -> Tensor:
    """Returns sums over `window` neighbouring channels of (N, C, ...), clipped at the ends."""
    total = x.clone()
    for offset in range(1, min(window // 2 + 1, x.shape[1])):
        total[:, offset:] += x[:, :-offset]
        total[:, :-offset] += x[:, offset:]
    return total


def _negative_power(scale: Tensor, beta: float) -> Tensor:
    """Returns scale^-beta; for 0.75 and 0.5 by square roots, which cost a fraction of a power."""
    root = scale.rsqrt()
    if beta == 0.75:
        return root.sqrt().mul_(root)
    return root if beta == 0.5 else scale.pow(-beta)


def _terms(x: Tensor, norm: Norm, relu: bool) -> tuple[Tensor, Tensor]:
    """Returns a and s of the formulas above."""
    a = F.relu(_widen(x)) if relu else _widen(x)
    return a, _window_sum(a * a, norm.window).mul_(norm.alpha / norm.window).add_(norm.k)


def _forward(x: Tensor, norm: Norm, relu: bool) -> Tensor:
    a, scale = _terms(x, norm, relu)
    return _negative_power(scale, norm.beta).mul_(a).to(x.dtype)


def _backward(grad: Tensor, x: Tensor, norm: Norm, relu: bool) -> Tensor:
    a, scale = _terms(x, norm, relu)
    direct = _negative_power(scale, norm.beta).mul_(grad)  # g s^-beta
    inner = _window_sum((direct * a).div_(scale), norm.window)
    out = direct.addcmul_(a, inner, value=-2 * (norm.alpha / norm.window) * norm.beta)
    return (out.mul_(x > 0) if relu else out).to(x.dtype)
