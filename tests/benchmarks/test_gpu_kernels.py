"""Triton's compiler takes the kernels for GPUs that this machine does not have."""

from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed here")


def test_no_kernel_spills_registers() -> None:
    from benchmarks.speed.gpu_kernels import cases, compiled

    if not (Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump").exists():
        pytest.skip("this Triton has no tools for NVIDIA's GPUs")
    rows = [row for name in cases() for row in compiled(name)]
    assert len(rows) == 14, "seven kernels for two GPUs"
    for kernel, gpu, registers, spilled, _ in rows:
        assert spilled == "0 bytes", (kernel, gpu)
        assert int(registers) <= 40, f"{kernel} on {gpu}: more than 40 leave less than three quarters of the threads"
