"""Contenders in processes of their own, one for each or one for each rank."""

import multiprocessing
import socket
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

Functions = Mapping[str, Callable[[], Any]]


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


class RankGroup:
    """The ranks of one contender, each in a process of its own.

    Args:
        make: picklable; called on each rank with (rank, world size, port, batch), returns that rank's functions,
            among them "step", which returns seconds.
        world_size: number of ranks.
        batch: images in a step, of all ranks together.
    """

    def __init__(self, make: Callable[[int, int, int, int], Functions], world_size: int, batch: int) -> None:
        port = free_port()
        self._workers = [Worker(partial(make, rank, world_size, port, batch)) for rank in range(world_size)]

    def second_step(self) -> float:
        """Runs two steps; returns the second one's seconds.

        The first does not count, since the system reclaims memory of processes that wait.
        """
        self.step()
        return self.step()

    def step(self) -> float:
        """Runs a step; returns the seconds of the slowest rank."""
        return self.max_over_ranks("step")

    def max_over_ranks(self, name: str) -> float:
        """Calls a function on all ranks at the same time; returns the largest result."""
        for worker in self._workers:
            worker.start(name)
        return max(float(worker.result()) for worker in self._workers)

    def close(self) -> None:
        """Ends all processes."""
        for worker in self._workers:
            worker.close()


def free_port() -> int:
    """Returns a free port of the loopback device."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
