"""The implementations of kernels, and what autograd keeps of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from alexnet_torch.model import cpu_kernels


@pytest.fixture(params=["native", "eager"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A test runs with the native kernels and with the formulas in eager mode."""
    if request.param == "native" and not cpu_kernels.available():
        pytest.skip("there is no C++ compiler here")
    if request.param == "eager":
        monkeypatch.setattr(cpu_kernels, "available", lambda: False)
    return str(request.param)


@contextmanager
def saved_tensors() -> Iterator[list[Tensor]]:
    """Yields the tensors that the block saves for the backward pass."""
    saved: list[Tensor] = []

    def save(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda t: t):
        yield saved
