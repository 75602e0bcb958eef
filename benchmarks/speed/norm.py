"""Response normalisation, forward and backward, beside torch's own and beside copying its bytes.

    python -m benchmarks.speed.norm

At the paper's shapes for one tower and 64 images, in both memory formats. Before each measurement the caches
are emptied, since in a training step the maps come from memory. The copy is the least that the work can be:
read x and write y; read x and the gradient, and write one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from alexnet_torch.malloc import keep_freed
from alexnet_torch.model.architecture import PAPER
from alexnet_torch.model.layers import kernels
from alexnet_torch.model.layers.response_norm import response_norm
from benchmarks.harness.measure import alternate, keep, seconds, table

SHAPES = ((64, 48, 55, 55), (64, 128, 27, 27))
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
OTHERS = torch.zeros(1 << 25)  # 128 MiB: more than a cache


@dataclass(frozen=True)
class Options:
    """How to measure."""

    threads: int = 2
    """Of this process."""
    rounds: int = 9
    """That count."""


def timed(work: Callable[[], object]) -> float:
    """Seconds, with nothing of the operands in cache."""
    OTHERS.add_(1)
    return seconds(work)


def both_ways(norm: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> float:
    """Seconds of the forward and the backward pass."""
    x = x.detach().requires_grad_()
    y: list[Tensor] = []
    forward = timed(lambda: y.append(norm(x)))
    return forward + timed(lambda: torch.autograd.grad(y[0], x, grad))


def copy(x: Tensor, grad: Tensor, out: Tensor) -> float:
    """Seconds of moving as many bytes, into memory that is there."""
    return timed(lambda: out.copy_(x)) + timed(lambda: torch.add(x, grad, out=out))


def eagerly(x: Tensor, grad: Tensor) -> float:
    """As where there is no compiler."""
    there, kernels.available = kernels.available, lambda: False
    try:
        return both_ways(lambda x: response_norm(x, PAPER.norm), x, grad)
    finally:
        kernels.available = there


def worst_error(x: Tensor) -> float:
    """The largest relative error against float64."""
    n = PAPER.norm
    exact = F.local_response_norm(x.double(), n.window, n.alpha, n.beta, n.k)
    return float(((response_norm(x, n).double() - exact).abs() / exact.abs().clamp_min(1e-30)).max())


def main(options: Options) -> None:
    """Measures and prints."""
    keep_freed()
    torch.set_num_threads(options.threads)
    n = PAPER.norm
    rows: list[tuple[object, ...]] = []
    for shape in SHAPES:
        for name, layout in FORMATS.items():
            x = (30 * torch.randn(shape)).contiguous(memory_format=layout)
            grad, out = torch.randn_like(x), torch.empty_like(x)
            contenders = {
                "ours": partial(both_ways, lambda x: response_norm(x, n), x, grad),
                "eager": partial(eagerly, x, grad),
                "torch": partial(
                    both_ways, lambda x: F.local_response_norm(x, n.window, n.alpha, n.beta, n.k), x, grad
                ),
                "copy": partial(copy, x, grad, out),
            }
            t = alternate(contenders, options.rounds)
            rows.append(
                (
                    "x".join(map(str, shape)),
                    name,
                    *(f"{1e3 * t[kind]:.1f} ms" for kind in ("torch", "ours", "eager", "copy")),
                    f"{t['torch'] / t['ours']:.1f}x",
                    f"{t['torch'] / t['eager']:.1f}x",
                    f"{t['ours'] / t['copy']:.1f}x",
                    f"{worst_error(x):.1e}",
                )
            )
    columns = (
        *("shape", "format", "F.local_response_norm", "ours", "ours without compiler", "copying"),
        *("ours against torch's", "without compiler", "ours against copying", "largest relative error"),
    )
    keep("norm", f"python -m benchmarks.speed.norm --threads {options.threads}", options.threads, table(columns, rows))


if __name__ == "__main__":
    main(tyro.cli(Options))
