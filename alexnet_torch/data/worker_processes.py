"""Processes that decode: how they start, and when they end."""

import multiprocessing
import os
import signal
import threading
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait as wait_for
from multiprocessing.context import ForkServerContext

from alexnet_torch.malloc import keep_freed


def available_cores(processes: int = 1) -> int:
    """Returns how many CPU cores each of several processes of this machine may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)


def context(preload: str) -> ForkServerContext:
    """Starts processes from a server, since forking one that has torch's threads can hang.

    Args:
        preload: the module that workers need, which the server imports once.
    """
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([preload])
    # torchrun sends SIGTERM to all processes of a rank, which then saves: for that it needs the batch it is waiting
    # for, and that the server, whose children end with it. What is blocked stays so in the server.
    resource_tracker.ensure_running()  # which unblocks SIGTERM when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return found


def live_with_parent() -> None:
    """Control-C is for the parent to act on; and workers of one that was killed would wait for work for ever."""
    keep_freed()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # by which a pool that breaks ends the others
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
