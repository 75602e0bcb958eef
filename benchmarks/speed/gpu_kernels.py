"""Our kernels for GPUs, on a machine without one: what they take on a GPU, what they move, and how exact they are.

    python -m benchmarks.speed.gpu_kernels

Triton's compiler makes them for GPUs of compute capability 8.0 (A100) and 9.0 (H100): registers, spilled registers, and
how many threads a processor holds at once by its registers. Triton's interpreter runs them with real numbers here:
the bytes that each element moves, in whole sectors of 32 bytes, beside the floor, which is to read each operand once
and to write the result once; and the largest error against torch's own operations in float64. Nothing here is a time.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from alexnet_torch.data.augment import _subtract_per_image, random_crops
from alexnet_torch.model.architecture import PAPER
from alexnet_torch.model.dropout import dropout_mask
from benchmarks.harness.measure import in_own_process
from benchmarks.harness.report import markdown_table, save_result

GPUS = {80: "A100 (sm_80)", 90: "H100 (sm_90)"}
THREADS, REGISTERS = 2048, 65536  # of a processor (streaming multiprocessor) of either
SECTOR = 32  # bytes: the least that a GPU moves
TYPES = {torch.float32: "fp32", torch.int64: "i64", torch.uint8: "u8"}
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


def registers_and_spilled(module: Any, kernel: str, call: Callable[[], object], capability: int) -> tuple[int, int]:
    """Compiles the one launch of a module's kernel in a call for GPUs of a compute capability, such as 90.

    Returns a thread's registers, and the bytes of them that are spilled into memory.
    """
    launches: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    class Recorder:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *arguments, **constants: launches.append((arguments, constants))

    function = getattr(module, kernel)
    with patch.object(module, kernel, Recorder()):
        call()
    ((arguments, constants),) = launches
    signature, attributes = dict[str, str](), dict[tuple[int], list[list[object]]]()
    for index, (name, value) in enumerate(zip(function.arg_names, arguments, strict=False)):
        if isinstance(value, Tensor):
            signature[name] = "*" + TYPES[value.dtype]
        elif value == 1:  # Triton compiles it as a constant
            constants[name] = 1
        else:
            signature[name] = "i32" if abs(value) < 1 << 31 else "i64"
        if isinstance(value, Tensor) or value % 16 == 0:
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(function, signature | dict.fromkeys(constants, "constexpr"), constants, attributes)
    cubin = triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        printed = subprocess.run([tool, "-res-usage", file.name], check=True, capture_output=True, text=True).stdout
    found = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", printed)}
    return found["REG"], max(found["STACK"], found["LOCAL"])


def compiled(name: str) -> list[tuple[str, str, str, str, str]]:
    """Returns rows of (kernel, GPU, registers, spilled, threads of a processor)."""
    rows = []
    for capability, gpu in GPUS.items():
        registers, spilled = registers_and_spilled(*cases()[name][:3], capability)
        threads = min(THREADS, REGISTERS // registers // 128 * 128)  # programs of 4 x 32 threads
        rows.append((name, gpu, str(registers), f"{spilled} bytes", f"{threads} of {THREADS}"))
    return rows


def measure_traffic(call: Callable[[], Tensor]) -> tuple[int, int, Tensor]:
    """Runs a call's kernels in the interpreter; the process was started with TRITON_INTERPRET=1.

    Returns the bytes, in whole sectors, that all programs together move to and from memory; those that each moves to
    and from the second-level cache, added up; and the call's result.
    """
    from triton.runtime.interpreter import InterpreterBuilder

    touched: set[tuple[Any, bool, int]] = set()  # (program, whether written, sector)

    def recorded(access: Callable[..., Any], written: bool) -> Callable[..., Any]:
        def record(self: Any, addresses: Any, *others: Any) -> Any:
            mask = others[1] if written else others[0]
            for sector in np.unique(addresses.data[mask.data.astype(bool)] // SECTOR):
                touched.add((self.grid_idx, written, int(sector)))
            return access(self, addresses, *others)

        return record

    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
    loaded, stored = recorded(load, False), recorded(store, True)
    with patch.multiple(InterpreterBuilder, create_masked_load=loaded, create_masked_store=stored):
        result = call()
    distinct = {(written, sector) for _, written, sector in touched}
    return SECTOR * len(distinct), SECTOR * len(touched), result


def interpreted() -> list[tuple[str, ...]]:
    """Returns rows of (kernel, bytes of an element: floor, of all programs, by programs, largest relative error)."""
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
