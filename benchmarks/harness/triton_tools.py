"""Triton's compiler and interpreter where there is no GPU: what kernels take on one, and the memory that they touch."""

import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

_TYPES = {
    **{torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16", torch.float16: "fp16"},
    **{torch.int64: "i64", torch.uint8: "u8"},
}
_SECTOR = 32  # bytes: the least that a GPU moves


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
            signature[name] = "*" + _TYPES[value.dtype]
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


def measure_traffic(call: Callable[[], Tensor]) -> tuple[int, int, Tensor]:
    """Runs a call's kernels in the interpreter; the process was started with TRITON_INTERPRET=1.

    Returns the bytes, in whole sectors, that all programs together move to and from memory; those that each moves to
    and from the second-level cache, added up; and the call's result.
    """
    from triton.runtime.interpreter import InterpreterBuilder

    touched: set[tuple[Any, bool, int]] = set()  # (program, whether written, sector)

    def record(builder: Any, addresses: Any, mask: Any, written: bool) -> None:
        for sector in np.unique(addresses.data[mask.data.astype(bool)] // _SECTOR):
            touched.add((builder.grid_idx, written, int(sector)))

    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def loaded(self: Any, addresses: Any, mask: Any, *others: Any) -> Any:
        record(self, addresses, mask, False)
        return load(self, addresses, mask, *others)

    def stored(self: Any, addresses: Any, value: Any, mask: Any, *others: Any) -> Any:
        record(self, addresses, mask, True)
        return store(self, addresses, value, mask, *others)

    with patch.multiple(InterpreterBuilder, create_masked_load=loaded, create_masked_store=stored):
        result = call()
    distinct = {(written, sector) for _, written, sector in touched}
    return _SECTOR * len(distinct), _SECTOR * len(touched), result
