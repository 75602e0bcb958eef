"""Our kernels for GPUs, on a machine without one: what they take on a GPU, what they move, and how exact they are.

    python -m benchmarks.speed.gpu_kernels

Triton's compiler makes them for GPUs of compute capability 8.0 (A100) and 9.0 (H100): registers, spilled registers, and
how many threads a processor holds at once by its registers. Triton's interpreter runs them with real numbers here:
the bytes that each element moves, in whole sectors of 32 bytes, beside the floor, which is to read each operand once
and to write the result once; and the largest error against torch's own operations in float64. Nothing here is a time.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_torch.data.augment import _subtract_per_image, random_crops
from alexnet_torch.model.architecture import PAPER
from alexnet_torch.model.dropout import dropout_mask
from benchmarks.harness.measure import in_own_process
from benchmarks.harness.report import markdown_table, save_result

GPUS = {80: "A100 (sm_80)", 90: "H100 (sm_90)"}
THREADS, REGISTERS = 2048, 65536  # of a processor (streaming multiprocessor) of either
KEY = torch.tensor(123456789012345678)
NORM = PAPER.norm

Case = tuple[Any, str, Callable[[], Tensor], Callable[[], Tensor], int]
"""The module and the kernel, a call of it, the same in float64, and the bytes of the operands and the result."""


def cases(channels: int = 48, side: int = 55) -> dict[str, Case]:
    """Returns the kernels' calls at the paper's shapes, for one image where the number of images changes nothing."""
    from alexnet_torch.data import triton_pixels
    from alexnet_torch.model import triton_kernels

    torch.manual_seed(0)
    found: dict[str, Case] = {}
    for layout in (torch.channels_last, torch.contiguous_format):
        x = (30 * torch.randn(1, channels, side, side)).to(memory_format=layout)
        g, name, size = torch.randn_like(x), str(layout).removeprefix("torch.").removesuffix("_format"), 4 * x.numel()
        forward = partial(triton_kernels.norm, x, NORM, True)
        backward = partial(triton_kernels.norm_backward, g, x, NORM, True)
        found[f"norm, {name}"] = triton_kernels, "norm_kernel", forward, partial(exact_norm, x), 2 * size
        gradient = partial(exact_norm, x, g)
        found[f"norm, backward, {name}"] = triton_kernels, "norm_backward_kernel", backward, gradient, 3 * size
    a, numbers = torch.randn(2, 2048), (0, 0, 1 << 31, 2.0)
    y, size = exact_dropout(a).float(), 4 * a.numel()
    drop = partial(triton_kernels.dropout, a, KEY, *numbers, True, None)
    undrop = partial(triton_kernels.dropout, a, KEY, *numbers, False, y)
    gradient = partial(exact_dropout, a, y)
    found["ReLU and dropout"] = triton_kernels, "dropout_kernel", drop, partial(exact_dropout, a), 2 * size
    found["ReLU and dropout, backward"] = triton_kernels, "dropout_kernel", undrop, gradient, 3 * size
    crops, pixels = random_crops(1, 256, 224, 0, 0, True), torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8)
    mean, noise, positions = torch.rand(256, 256, 3) * 255, torch.randn(1, 3), torch.from_numpy(crops.positions())
    call = partial(triton_pixels.subtract, pixels, positions, mean, noise, 1.0)
    exact = partial(_subtract_per_image, pixels, crops, mean.double(), noise.double(), 1.0)
    found["pixels to images"] = triton_pixels, "subtract_kernel", call, exact, pixels.numel() * (1 + 4 + 4)
    return found


def exact_norm(x: Tensor, grad: Tensor | None = None) -> Tensor:
    """Returns torch's norm of ReLU(x) in float64, or its gradient."""
    wide = x.double().requires_grad_()
    y = F.local_response_norm(F.relu(wide), NORM.window, NORM.alpha, NORM.beta, NORM.k)
    return y.detach() if grad is None else torch.autograd.grad(y, wide, grad.double())[0]


def exact_dropout(x: Tensor, gate: Tensor | None = None) -> Tensor:
    """Returns dropout of ReLU(x) at rate 0.5 in float64, or of x where `gate` is positive."""
    kept = 2.0 * dropout_mask(x.shape, 0.5, KEY, 0)
    return (F.relu(x) if gate is None else x * (gate > 0)).double() * kept


def compiled(name: str) -> list[tuple[str, str, str, str, str]]:
    """Returns rows of (kernel, GPU, registers, spilled, threads of a processor)."""
    from benchmarks.harness.triton_tools import registers_and_spilled

    rows = []
    for capability, gpu in GPUS.items():
        registers, spilled = registers_and_spilled(*cases()[name][:3], capability)
        threads = min(THREADS, REGISTERS // registers // 128 * 128)  # programs of 4 x 32 threads
        rows.append((name, gpu, str(registers), f"{spilled} bytes", f"{threads} of {THREADS}"))
    return rows


def interpreted() -> list[tuple[str, ...]]:
    """Returns rows of (kernel, bytes of an element: floor, of all programs, by programs, largest relative error)."""
    from benchmarks.harness.triton_tools import measure_traffic

    rows = []
    for name, (_, _, call, exact, floor) in cases().items():
        *moved, result = measure_traffic(call)
        expected = exact()
        error = float((result.double() - expected).abs().max() / expected.abs().max())
        rows.append((name, *(f"{count / result.numel():.2f}" for count in (floor, *moved)), f"{error:.1e}"))
    return rows


def main() -> None:
    """Compiles and runs all kernels, and writes the result page."""
    with patch.dict(os.environ, TRITON_INTERPRET="1"):  # for the new process: it is read when a kernel is defined
        moved = in_own_process(interpreted)
    columns = ("kernel", "GPU", "registers", "spilled", "threads of a processor")
    took = markdown_table(columns, [row for name in cases() for row in compiled(name)])
    names = ("kernel", "bytes an element: the floor", "memory", "processors to L2", "largest error / largest value")
    save_result(torch.get_num_threads(), f"{took}\n\n{markdown_table(names, moved)}")


if __name__ == "__main__":
    main()
