"""Worker processes that decode images, forked from a server that has one thread and has imported torch once.

They need no file, semaphore or shared memory with a name, so nothing stays, however a process ends. They are in a
session of their own, which no terminal's signal reaches, and end when their connection is closed.
"""

import contextlib
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar, cast

import torch

from alexnet_torch.errors import UserError
from alexnet_torch.native import reuse_freed_memory

Task = TypeVar("Task")
Result = TypeVar("Result")


def available_cores(processes: int = 1) -> int:
    return max(1, len(os.sched_getaffinity(0)) // processes)


def map_ahead(
    pool: Executor, function: Callable[[Task], Result], tasks: Iterable[Task], in_flight: int
) -> Iterator[Result]:
    """Yields a function's result for each task in order, while the pool runs the next `in_flight`."""
    remaining = iter(tasks)
    try:
        running = deque(pool.submit(function, task) for task in islice(remaining, in_flight))
        while running:
            result = running.popleft().result()
            running.extend(pool.submit(function, task) for task in islice(remaining, 1))
            yield result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def map_in_workers(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int, in_flight: int
) -> Iterator[Result]:
    """As `map_ahead`, of a picklable function in worker processes; a killed one is replaced."""
    own, connections, closed = threading.local(), list[socket.socket](), threading.Event()

    def call(task: Task) -> Result:  # in a thread for each worker
        for attempt in range(2):
            try:
                if not hasattr(own, "answers"):
                    own.connection = _start_worker()
                    own.answers = own.connection.makefile("rb")
                    connections.append(own.connection)
                    own.connection.sendall(pickle.dumps(function))
                if closed.is_set():
                    raise EOFError
                own.connection.sendall(pickle.dumps(task))
                succeeded, result = pickle.load(own.answers)
                break
            except (EOFError, OSError, pickle.UnpicklingError) as error:
                vars(own).clear()
                if attempt or closed.is_set():
                    raise UserError("a decoding process was killed, perhaps for lack of memory; run again") from error
        if not succeeded:
            raise result
        return cast(Result, result)

    pool = ThreadPoolExecutor(workers, "workers")
    try:
        yield from map_ahead(pool, call, tasks, in_flight)
    finally:  # in the middle of a task, too
        closed.set()
        for connection in connections:
            with contextlib.suppress(OSError):  # it has ended
                connection.shutdown(socket.SHUT_RDWR)
        pool.shutdown()
        for connection in connections:
            connection.close()


_lock = threading.Lock()
_server: dict[int, tuple["subprocess.Popen[bytes]", socket.socket]] = {}  # of this process, by its ID


def _start_worker() -> socket.socket:
    ours, theirs = socket.socketpair()
    with _lock, theirs:
        if os.getpid() not in _server or _server[os.getpid()][0].poll() is not None:
            control, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            code = "import sys; sys.path[:] = sys.argv[2:]; from alexnet_torch.data.workers import serve; serve()"
            paths = [path or str(Path.cwd()) for path in sys.path]
            with far:
                process = subprocess.Popen(
                    [sys.executable, "-c", code, str(far.fileno()), *paths],
                    pass_fds=[far.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,  # a pipe's reader would wait for it, too
                    start_new_session=True,
                )
            _server[os.getpid()] = process, control
        socket.send_fds(_server[os.getpid()][1], [os.fsencode(Path.cwd())], [theirs.fileno()])
    return ours


def serve() -> None:
    """Forks a worker for each connection that arrives, until the process that sends them ends."""
    import alexnet_torch.data.decode_pass  # noqa: F401 - and with it torch, once for all workers

    control = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended workers need no one to wait for them
    while True:
        folder, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 1)
        if not folder:
            os._exit(0)
        if os.fork() == 0:
            control.close()
            _work(socket.socket(fileno=descriptors[0]), os.fsdecode(folder))
        os.close(descriptors[0])


def _work(connection: socket.socket, folder: str) -> None:
    """Receives a function, calls it with each value that it receives, and sends what it returns or raises."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with contextlib.suppress(OSError):  # it was removed: absolute paths still work
        os.chdir(folder)
    reuse_freed_memory()
    torch.set_num_threads(1)  # there is a worker for each core
    threading.Thread(target=_end_with, args=(connection.fileno(),), daemon=True).start()
    requests = connection.makefile("rb")
    try:
        function = pickle.load(requests)
        while True:
            task = pickle.load(requests)
            try:
                answer = True, function(task)
            except Exception as error:
                answer = False, error
            connection.sendall(pickle.dumps(answer, protocol=5))
    finally:  # it is needed no more
        os._exit(0)


def _end_with(descriptor: int) -> None:
    """Ends this process when the other side of a connection is closed, also in the middle of an image."""
    closed = select.poll()
    closed.register(descriptor, 0)  # reports only that it is closed
    closed.poll()
    os._exit(0)
