"""Times and memory of work, here and in processes of its own, and the machine's best arithmetic rates."""

import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import torch

Name = TypeVar("Name")
Functions = Mapping[str, Callable[[], Any]]

GFLOP_PER_IMAGE = 4.13
"""To train the paper's net at 224 pixels: multiplications and additions, forward and backward."""


def time_call(work: Callable[[], object]) -> float:
    """Returns the seconds that one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median_times(contenders: Mapping[Name, Callable[[], float]], rounds: int) -> dict[Name, float]:
    """Returns the median seconds of each contender, functions that measure themselves.

    Each round runs every contender once, so that drift in the machine's speed affects all of them equally; one more
    round is run first to warm up.
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


def peak_memory_of(names: Iterable[str]) -> list[float]:
    """Returns the largest amount of memory of tensors so far on each device, in GiB; of the CPU, of this process."""
    return [
        torch.cuda.max_memory_allocated(name) / 2**30 if torch.device(name).type == "cuda" else peak_memory()
        for name in dict.fromkeys(names)
    ]


def synchronise(names: Iterable[str]) -> None:
    """Waits until the GPUs among these devices have done their work."""
    for name in dict.fromkeys(names):
        if torch.device(name).type == "cuda":
            torch.cuda.synchronize(name)


def best_rates() -> dict[str, float]:
    """Returns the best GFLOP/s of a few matrix products and convolutions: the machine's limit for a net."""
    matrix, weight = torch.randn(2048, 2048), torch.randn(192, 256, 3, 3).to(memory_format=torch.channels_last)
    maps = torch.randn(128, 256, 13, 13).to(memory_format=torch.channels_last)  # (N, C, H, W)
    product = torch.empty_like(matrix)

    def best(work: Callable[[], object], flops: float) -> float:
        return flops / min(time_call(work) for _ in range(7)) / 1e9

    return {
        "matrix product": best(lambda: torch.mm(matrix, matrix, out=product), 2 * 2048**3),
        "convolution": best(lambda: torch.conv2d(maps, weight, padding=1), 2 * 128 * 192 * 13 * 13 * 256 * 9),
    }


def memory_now(key: str) -> int:
    """Returns this process's VmHWM (the most so far) or VmRSS (now), in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[key].split()[0]) * 1024


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a new process and returns its result."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


class Worker:
    """A contender in a process of its own, as its user would run it.

    Args:
        make: picklable; called in the new process, returns the functions that can be called there, by name.
    """

    def __init__(self, make: Callable[[], Functions]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, worker_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(make, worker_end))
        self._process.start()

    def call(self, name: str) -> Any:
        """Calls a function in the process and returns its result."""
        self.start(name)
        return self.result()

    def start(self, name: str) -> None:
        """Starts a function in the process and does not wait."""
        self._pipe.send(name)

    def result(self) -> Any:
        """Waits for the function that was started last and returns its result."""
        return self._pipe.recv()

    def close(self) -> None:
        """Ends the process."""
        self._pipe.send(None)
        self._process.join()


def _serve(make: Callable[[], Functions], pipe: Connection) -> None:
    functions = make()
    while (name := pipe.recv()) is not None:
        pipe.send(functions[name]())


def alternate(
    contenders: Mapping[str, Callable[[], Functions]], rounds: int, function: str, *others: str
) -> tuple[dict[str, float], dict[str, list[Any]]]:
    """Runs contenders in processes of their own; returns the median seconds of a function, and what others return."""
    workers = {name: Worker(make) for name, make in contenders.items()}
    times = median_times({name: partial(worker.call, function) for name, worker in workers.items()}, rounds)
    results = {name: [worker.call(other) for other in others] for name, worker in workers.items()}
    for worker in workers.values():
        worker.close()
    return times, results
