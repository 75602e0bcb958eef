"""Worker processes that decode images: how they start, how they get work, and when they end."""

import concurrent.futures as futures
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait as wait_for
from multiprocessing.context import ForkServerContext
from typing import TypeVar

from alexnet_torch.errors import UserError
from alexnet_torch.malloc import reuse_freed_memory

SERIAL_TASKS = 16  # so few are done sooner than workers start, which import torch

Task = TypeVar("Task")
Result = TypeVar("Result")


def available_cores(processes: int = 1) -> int:
    """Returns how many CPU cores each of several processes of this machine may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)


def forkserver_context(preload: str) -> ForkServerContext:
    """Returns a context that starts processes from a server: a fork of a process with torch's threads can hang.

    The server imports the module `preload` once, for all workers.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    # torchrun sends SIGTERM to all processes of a rank. The rank then saves, and for that needs the batch it waits for;
    # so the server must survive, since its children end with it. A signal blocked here stays blocked in the server.
    resource_tracker.ensure_running()  # which unblocks SIGTERM when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def map_in_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int, in_flight: int
) -> Iterator[Result]:
    """Yields a module-level function's result for each task in order; runs a few tasks without worker processes.

    Args:
        in_flight: tasks for each worker that are submitted before their results are consumed.

    Raises:
        UserError: a worker was killed.
    """
    if workers <= 1 or len(tasks) <= SERIAL_TASKS:
        yield from map(function, tasks)
        return
    workers, context = min(workers, len(tasks)), forkserver_context(function.__module__)
    pool = futures.ProcessPoolExecutor(workers, context, initializer=_initialise_worker)
    try:
        yield from map_ahead(pool, function, tasks, in_flight * workers)
    except BrokenProcessPool as error:
        raise UserError(
            "a decoding process was killed, perhaps for lack of memory; run again "
            '(in a script of your own, under if __name__ == "__main__")'
        ) from error


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


def _initialise_worker() -> None:
    """Leaves Ctrl-C to the parent, and ends the worker with its parent: else it would wait for work for ever."""
    reuse_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # a pool that breaks ends its workers with it
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
