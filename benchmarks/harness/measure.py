"""Times and memory of work, here and in processes of its own."""

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

Name = TypeVar("Name")
Time = TypeVar("Time", float, np.ndarray)
Functions = Mapping[str, Callable[[], Any]]

GFLOP_PER_IMAGE = 4.13
"""To train the paper's net at 224 pixels: multiplications and additions, forward and backward."""


def time_call(work: Callable[[], object]) -> float:
    """Returns the seconds that one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def both_clocks() -> np.ndarray:
    """Returns the seconds of the wall clock, and of the processor for all threads of this process, (2,)."""
    return np.array([time.perf_counter(), time.process_time()])


def median_times(contenders: Mapping[Name, Callable[[], Time]], rounds: int) -> dict[Name, Time]:
    """Returns the median seconds of each contender, functions that measure themselves.

    Each round runs every contender once, so that drift in the machine's speed affects all of them equally; one more
    round is run first to warm up.
    """
    times = [{name: contender() for name, contender in contenders.items()} for _ in range(rounds + 1)][1:]
    medians: dict[Name, Any] = {n: np.median([measured[n] for measured in times], axis=0) for n in contenders}
    return medians


def peak_memory() -> float:
    """Returns the largest amount of memory that this process has used so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def peak_memory_of(names: Iterable[str]) -> list[float]:
    """Returns the largest amount of memory of tensors so far on each device, in GiB; of the CPU, of this process."""
    return [
        torch.cuda.max_memory_allocated(name) / 2**30 if name.startswith("cuda") else peak_memory()
        for name in dict.fromkeys(names)
    ]


def memory_now(key: str) -> int:
    """Returns this process's VmHWM (the most so far) or VmRSS (now), in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[key].split()[0]) * 1024


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a new process and returns its result."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


class Processes:
    """A contender in processes of its own, as its user would run it.

    Each of `makes` is picklable; called in a new process, it returns the functions that can be called there, by name.
    """

    def __init__(self, *makes: Callable[[], Functions]) -> None:
        context = multiprocessing.get_context("spawn")
        ends = [context.Pipe() for _ in makes]
        self._pipes = [here for here, _ in ends]
        self._processes = [
            context.Process(target=_serve, args=(make, there)) for make, (_, there) in zip(makes, ends, strict=True)
        ]
        for process in self._processes:
            process.start()

    def results(self, name: str) -> list[Any]:
        """Calls a function in all processes at the same time and returns their results."""
        for pipe in self._pipes:
            pipe.send(name)
        return [pipe.recv() for pipe in self._pipes]

    def largest(self, name: str) -> float:
        """Calls a function in all processes at the same time; returns the largest result."""
        return float(max(self.results(name)))

    def close(self) -> None:
        """Ends all processes."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.send(None)
            process.join()


def _serve(make: Callable[[], Functions], pipe: Connection) -> None:
    functions = make()
    while (name := pipe.recv()) is not None:
        pipe.send(functions[name]())


def alternate(
    contenders: Mapping[str, Callable[[], Functions]], rounds: int, function: str, *others: str
) -> tuple[dict[str, float], dict[str, list[Any]]]:
    """Runs each contender in a process; returns the median seconds of a function, and what others return."""
    workers = {name: Processes(make) for name, make in contenders.items()}
    times = median_times({name: partial(worker.largest, function) for name, worker in workers.items()}, rounds)
    results = {name: [worker.results(other)[0] for other in others] for name, worker in workers.items()}
    for worker in workers.values():
        worker.close()
    return times, results
