"""Compiles kernels in Triton for GPUs that this machine does not have, and says what they take there."""

import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

_TYPES = {
    **{torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16", torch.float16: "fp16"},
    **{torch.int64: "i64", torch.uint8: "u8"},
}


@dataclass(frozen=True)
class Launch:
    """A kernel's launch: what the project's code asked for."""

    kernel: Any
    programs: int
    arguments: tuple[Any, ...]
    constants: dict[str, Any]


@dataclass(frozen=True)
class Resources:
    """What a thread of a compiled kernel takes, and a program."""

    registers: int
    spilled_bytes: int  # of a thread's registers, in memory
    shared_bytes: int  # of a program


class _Recorder:
    """Stands for a kernel, and records its launches instead."""

    def __init__(self, kernel: Any, launches: list[Launch]) -> None:
        self._kernel, self._launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **constants: Any) -> None:
            self._launches.append(Launch(self._kernel, int(torch.Size(grid).numel()), arguments, constants))

        return launch


def recorded_launch(module: Any, kernel: str, call: Callable[[], object]) -> Launch:
    """Returns the one launch of a module's kernel in a call; launches nothing."""
    launches: list[Launch] = []
    with patch.object(module, kernel, _Recorder(getattr(module, kernel), launches)):
        call()
    (launch,) = launches
    return launch


def compile_for(launch: Launch, capability: int) -> Resources:
    """Compiles a launch's kernel for GPUs of a compute capability, such as 90, as Triton does at its first launch."""
    signature, constants, attributes = {}, dict(launch.constants), {}
    for index, (name, value) in enumerate(zip(launch.kernel.arg_names, launch.arguments, strict=False)):
        if isinstance(value, Tensor):
            signature[name] = "*" + _TYPES[value.dtype]
        elif value == 1:  # Triton compiles it as a constant
            constants[name] = 1
        else:
            signature[name] = "i32" if abs(value) < 1 << 31 else "i64"
        if isinstance(value, Tensor) or value % 16 == 0:
            attributes[(index,)] = [["tt.divisibility", 16]]
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(launch.kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    return _resources(compiled.asm["cubin"], compiled.metadata.shared)


def _resources(cubin: bytes, shared_bytes: int) -> Resources:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        printed = subprocess.run([tool, "-res-usage", file.name], check=True, capture_output=True, text=True).stdout
    found = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", printed)}
    return Resources(found["REG"], max(found["STACK"], found["LOCAL"]), shared_bytes)
