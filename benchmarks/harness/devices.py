"""Devices by their names: waiting for them, and the memory that was used on them."""

from collections.abc import Iterable

import torch

from benchmarks.harness.measure import peak_memory


def synchronise(names: Iterable[str]) -> None:
    """Waits until the GPUs among these devices have done their work."""
    for name in dict.fromkeys(names):
        if torch.device(name).type == "cuda":
            torch.cuda.synchronize(name)


def peak_memory_of(names: Iterable[str]) -> list[float]:
    """Returns the largest amount of memory that tensors have used so far on each device, in GiB.

    Of the CPU, what this process has used.
    """
    return [
        torch.cuda.max_memory_allocated(name) / 2**30 if torch.device(name).type == "cuda" else peak_memory()
        for name in dict.fromkeys(names)
    ]
