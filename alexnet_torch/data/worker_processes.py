"""Worker processes that decode images: how they start, how they get work, and when they end."""

import concurrent.futures as futures
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from alexnet_torch.data import worker_server
from alexnet_torch.data.worker_server import Allocate, new_memory
from alexnet_torch.errors import UserError

SERIAL_TASKS = 16  # so few are done sooner than workers start, which import torch

Task = TypeVar("Task")
Result = TypeVar("Result")


def available_cores(processes: int = 1) -> int:
    """Returns how many CPU cores each of several processes of this machine may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)


def map_in_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int, in_flight: int
) -> Iterator[Result]:
    """Yields a function's result for each task in order; runs a few tasks without worker processes.

    Args:
        function: of a module, or a method of an object that can be pickled; each worker gets it once.
        in_flight: tasks for each worker that are submitted before their results are consumed.

    Raises:
        UserError: a worker was killed.
    """
    if workers <= 1 or len(tasks) <= SERIAL_TASKS:
        yield from map(function, tasks)
        return
    workers = min(workers, len(tasks))
    yield from map_in_workers(function, tasks, workers, in_flight * workers)


def map_in_workers(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    workers: int,
    in_flight: int,
    allocate: Allocate = new_memory,
) -> Iterator[Result]:
    """Yields a function's result for each task in order, from worker processes.

    Args:
        function: as for `map_in_processes`.
        in_flight: tasks that are submitted before their results are consumed.
        allocate: returns the memory for an array of a result.

    Raises:
        UserError: a worker was killed.
    """
    pool = _WorkerPool(function, workers, allocate)
    try:
        yield from map_ahead(pool, pool.call, tasks, in_flight)
    except _WorkerLost as error:
        raise UserError("a decoding process was killed, perhaps for lack of memory; run again") from error


def map_ahead(
    pool: futures.Executor, function: Callable[[Task], Result], tasks: Iterable[Task], in_flight: int
) -> Iterator[Result]:
    """Yields a function's result for each task in order, while the pool runs the next tasks, `in_flight` at most."""
    remaining = iter(tasks)
    try:
        running = deque(pool.submit(function, task) for task in islice(remaining, in_flight))
        while running:
            result = running.popleft().result()
            running.extend(pool.submit(function, task) for task in islice(remaining, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


class _WorkerLost(Exception):
    """A worker process has ended although it was not asked to."""


class _WorkerPool(futures.ThreadPoolExecutor):
    """A thread for each worker process, which sends it a task and waits for the result."""

    def __init__(self, function: Callable[[Any], Any], workers: int, allocate: Allocate) -> None:
        super().__init__(workers, "workers")
        self._function = worker_server.message(function)
        self._module = function.__module__
        self._allocate, self._own, self._connections = allocate, threading.local(), list[socket.socket]()

    def call(self, task: Any) -> Any:
        """Returns the function's result for a task, from this thread's worker."""
        try:
            if not hasattr(self._own, "connection"):
                self._own.connection = connection = _SERVER.start_worker(self._module)
                self._connections.append(connection)
                worker_server.send(connection, self._function)
            worker_server.send(self._own.connection, worker_server.message(task))
            succeeded, result = worker_server.receive(self._own.connection, self._allocate)
        except (EOFError, OSError) as error:
            raise _WorkerLost from error
        if not succeeded:
            raise result
        return result

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the workers at once, also in the middle of a task."""
        for connection in self._connections:
            with contextlib.suppress(OSError):  # it has ended
                connection.shutdown(socket.SHUT_RDWR)
        super().shutdown(wait, cancel_futures=cancel_futures)
        for connection in self._connections:
            connection.close()


class _Server:
    """The process from which this one's workers are forked; started when first needed, and again if it was killed."""

    def __init__(self) -> None:
        self._lock, self._owner = threading.Lock(), 0
        self._control: socket.socket
        self._process: subprocess.Popen[bytes]

    def start_worker(self, module: str) -> socket.socket:
        """Returns the connection to a new worker, whose server has imported a module."""
        ours, theirs = socket.socketpair()
        request = json.dumps({"module": module, "folder": str(Path.cwd())}).encode()
        with self._lock, theirs:
            if self._owner != os.getpid() or self._process.poll() is not None:
                self._start()
            socket.send_fds(self._control, [request], [theirs.fileno()])
        return ours

    def _start(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = (
            "import sys; sys.path[:] = sys.argv[2:]; from alexnet_torch.data.worker_server import serve; "
            "serve(int(sys.argv[1]))"
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, str(theirs.fileno()), *(path or str(Path.cwd()) for path in sys.path)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # a pipe's reader would wait for it, too
                start_new_session=True,
            )
        self._owner = os.getpid()


_SERVER = _Server()
