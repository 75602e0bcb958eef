"""Processes that stay, and are the ranks of one job after another: each start of torch takes seconds."""

import contextlib
import io
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch
from torch._C._distributed_c10d import TCPStore

_LONGEST = 100.0  # seconds that a job may take


@dataclass(frozen=True)
class Done:
    """What a job returned on one rank, and what it printed there.

    Attributes:
        trace: of what it raised, if it did.
    """

    value: Any
    stdout: str
    stderr: str
    trace: str | None


@dataclass(frozen=True)
class _Job:
    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    environment: dict[str, str]
    double: bool


def _serve(jobs: Connection) -> None:
    """A member's life: until pytest ends it, or is gone itself."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError):
        while True:
            jobs.send(_do(jobs.recv()))


def _do(job: _Job) -> Done:
    out, err, value, trace = io.StringIO(), io.StringIO(), None, None
    os.environ.clear()
    os.environ.update(job.environment)
    torch.set_default_dtype(torch.float64 if job.double else torch.float32)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            value = job.call(*job.arguments)
        except BaseException:
            trace = traceback.format_exc()
    return Done(value, out.getvalue(), err.getvalue(), trace)


class Crew:
    """Processes that do one job together at a time, as torchrun would start them for it; started when needed.

    Args:
        size: processes, at most which a job can have.
        cache: their XDG_CACHE_HOME.
    """

    def __init__(self, size: int, cache: Path) -> None:
        self._size, self._cache = size, str(cache)
        self._members: list[SpawnProcess] = []
        self._jobs: list[Connection] = []

    def _start(self) -> None:
        # torch asks for loopback's name at each connection; where no server answers, that takes five seconds each
        os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")
        spawn = multiprocessing.get_context("spawn")
        pipes = [spawn.Pipe() for _ in range(self._size)]
        self._members = [spawn.Process(target=_serve, args=(theirs,)) for _, theirs in pipes]
        self._jobs = [ours for ours, _ in pipes]
        for member in self._members:
            member.start()

    def do(
        self,
        call: Callable[..., Any],
        *arguments: Any,
        ranks: int,
        double: bool = False,
        environment: Mapping[str, str] | None = None,
        absent: int | None = None,
    ) -> list[Done]:
        """Has a job done.

        Args:
            call: a function of a module, called on each rank.
            arguments: of it.
            ranks: of the job.
            double: whether float64 is torch's default type for it.
            environment: besides this process's and torchrun's.
            absent: a rank that is not waited for; all members are ended, and new ones do the next job.

        Returns:
            what came of it on each rank that was waited for.
        """
        if not self._members:
            self._start()
        # in this process, as torchrun's agent has it: it outlives all ranks
        store = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=60), wait_for_workers=False)
        shared = {**os.environ, "XDG_CACHE_HOME": self._cache, **(environment or {})}
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        for rank, jobs in enumerate(self._jobs[:ranks]):
            own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
            jobs.send(_Job(call, arguments, shared | {name: str(value) for name, value in own.items()}, double))
        deadline = time.monotonic() + _LONGEST
        done = []
        for rank, jobs in enumerate(self._jobs[:ranks]):
            if rank == absent:
                continue
            if not jobs.poll(max(0.0, deadline - time.monotonic())):
                self.end()
                raise TimeoutError(f"rank {rank} of {ranks} is not done with {call.__name__}{arguments}")
            done.append(jobs.recv())
        if absent is not None:
            self.end()
        return done

    def end(self) -> None:
        """Ends all members, also those that hang or are stopped."""
        for member in self._members:
            member.kill()
            member.join()
        self._members, self._jobs = [], []


def values(done: list[Done]) -> list[Any]:
    """What a job returned on each rank, none of which raised."""
    for rank, one in enumerate(done):
        assert one.trace is None, f"rank {rank}: {one.trace}\n{one.stderr}"
    return [one.value for one in done]
