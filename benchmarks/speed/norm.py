"""Response normalisation, forward and backward, beside torch's own and beside copying its bytes.

    python -m benchmarks.speed.norm

At the paper's shapes for one tower and 64 images, in both memory formats. Caches are emptied before each
measurement, since in a training step the maps come from memory. Copying is the lower bound: read x and write y;
read x and the gradient, and write one.
"""

from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from alexnet_torch.model import cpu_kernels
from alexnet_torch.model.architecture import PAPER
from alexnet_torch.model.response_norm import response_norm
from alexnet_torch.native import reuse_freed_memory
from benchmarks.harness.measure import median_times, time_call
from benchmarks.harness.report import markdown_table, save_result

SHAPES = ((64, 48, 55, 55), (64, 128, 27, 27))  # (N, C, H, W)
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
CACHE_FILLER = torch.zeros(1 << 25)  # 128 MiB: larger than a cache
NORM = PAPER.norm


def torch_norm(x: Tensor) -> Tensor:
    """Returns torch's normalisation of x (N, C, H, W)."""
    return F.local_response_norm(x, NORM.window, NORM.alpha, NORM.beta, NORM.k)


def time_uncached(work: Callable[[], object]) -> float:
    """Returns the seconds of a call that finds none of its operands in a cache."""
    CACHE_FILLER.add_(1)
    return time_call(work)


def norm_time(norm: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> float:
    """Returns the seconds of the forward and the backward pass."""
    x = x.detach().requires_grad_()
    y: list[Tensor] = []
    forward = time_uncached(lambda: y.append(norm(x)))
    return forward + time_uncached(lambda: torch.autograd.grad(y[0], x, grad))


def measure(x: Tensor, rounds: int) -> list[str]:
    """Returns cells of the table: times, ratios and the largest relative error against float64."""
    ours, grad, out = partial(response_norm, norm=NORM), torch.randn_like(x), torch.empty_like(x)

    def eager_time() -> float:
        with patch.object(cpu_kernels, "available", lambda: False):
            return norm_time(ours, x, grad)

    contenders: dict[str, Callable[[], float]] = {
        "torch": partial(norm_time, torch_norm, x, grad),
        "ours": partial(norm_time, ours, x, grad),
        "eager": eager_time,
        "copy": lambda: time_uncached(lambda: out.copy_(x)) + time_uncached(lambda: torch.add(x, grad, out=out)),
    }
    times = median_times(contenders, rounds)
    ratios = (times[one] / times[other] for one, other in (("torch", "ours"), ("torch", "eager"), ("ours", "copy")))
    exact = torch_norm(x.double())
    error = float(((ours(x).double() - exact).abs() / exact.abs().clamp_min(1e-30)).max())
    cells = [*(f"{1e3 * time:.1f} ms" for time in times.values()), *(f"{ratio:.1f}x" for ratio in ratios)]
    return [*cells, f"{error:.1e}"]


def main(threads: int = 2, rounds: int = 9) -> None:
    """Measures and writes the result page."""
    reuse_freed_memory()
    torch.set_num_threads(threads)
    rows = []
    for shape in SHAPES:
        for name, memory_format in FORMATS.items():
            x = (30 * torch.randn(shape)).contiguous(memory_format=memory_format)
            rows.append(("x".join(map(str, shape)), name, *measure(x, rounds)))
    columns = (
        *("shape", "format", "F.local_response_norm", "ours", "ours without compiler", "copying"),
        *("ours against torch's", "without compiler", "ours against copying", "largest relative error"),
    )
    save_result(threads, markdown_table(columns, rows))


if __name__ == "__main__":
    tyro.cli(main)
