"""The devices that the tests of this folder run on: the GPUs, or, to try the tests themselves, the CPU."""

import os

import pytest
import torch

ON_CPU = os.environ.get("GPU_TESTS_ON") == "cpu"
"""Whether the tests run on the CPU, for whoever changes them: GPU_TESTS_ON=cpu pytest -m gpu tests/gpu."""


def require_gpus(count: int) -> None:
    """Skips a test on a machine with fewer GPUs."""
    found = torch.cuda.device_count()
    if not ON_CPU and found < count:
        pytest.skip(f"needs {count} GPU(s), and this machine shows {found}")


def device_names(*names: str) -> str:
    """Returns the value of --devices."""
    return ",".join("cpu" if ON_CPU else name for name in names)


def device() -> torch.device:
    """Returns the first device."""
    return torch.device("cpu" if ON_CPU else "cuda:0")
