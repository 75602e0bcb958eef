"""Times and memory of work in this process, and the machine's best arithmetic rates."""

import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

Name = TypeVar("Name")

GFLOP_PER_IMAGE = 4.13
"""To train the paper's net at 224 pixels: multiplications and additions, forward and backward."""


def time_call(work: Callable[[], object]) -> float:
    """Returns the seconds that one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median_times(contenders: Mapping[Name, Callable[[], float]], rounds: int) -> dict[Name, float]:
    """Returns the median seconds of each contender.

    Each round runs every contender once, so that drift in the machine's speed affects all of them equally.

    Args:
        contenders: functions that measure themselves and return seconds.
        rounds: number of rounds that count; one more is run first to warm up.
    """
    times: dict[Name, list[float]] = {name: [] for name in contenders}
    for index in range(rounds + 1):
        for name, contender in contenders.items():
            measured = contender()
            if index > 0:
                times[name].append(measured)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_memory() -> float:
    """Returns the largest amount of memory that this process has used so far, in GiB."""
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def best_rates() -> dict[str, float]:
    """Returns the best GFLOP/s of a few matrix products and convolutions: the machine's limit for a net."""
    matrix = torch.randn(2048, 2048)
    maps = torch.randn(128, 256, 13, 13).to(memory_format=torch.channels_last)  # (N, C, H, W)
    weight = torch.randn(192, 256, 3, 3).to(memory_format=torch.channels_last)  # (out, in, 3, 3)
    product = torch.empty_like(matrix)

    def best(work: Callable[[], object], flops: float) -> float:
        return flops / min(time_call(work) for _ in range(7)) / 1e9

    def convolve() -> Tensor:
        return torch.nn.functional.conv2d(maps, weight, padding=1)

    return {
        "matrix product": best(lambda: torch.mm(matrix, matrix, out=product), 2 * 2048**3),
        "convolution": best(convolve, 2 * 128 * 192 * 13 * 13 * 256 * 9),
    }
