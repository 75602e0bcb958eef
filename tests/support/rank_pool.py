"""Long-lived processes that are the ranks of one job after another: each start of torch takes seconds."""

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

_JOB_TIMEOUT = 400.0  # seconds; the first job compiles C++, which takes minutes on a busy machine


@dataclass(frozen=True)
class RankResult:
    """What a job returned on one rank, and what it printed there."""

    value: Any
    stdout: str
    stderr: str
    trace: str | None  # the traceback, if it raised an exception


def _serve(jobs: Connection) -> None:
    """Runs jobs until pytest kills this process, or has ended itself."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError):
        while True:
            jobs.send(_run(*jobs.recv()))


def _run(function: Callable[..., Any], arguments: Any, environment: dict[str, str], double: bool) -> RankResult:
    out, err, value, trace = io.StringIO(), io.StringIO(), None, None
    os.environ.clear()
    os.environ.update(environment)
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            value = function(*arguments)
        except BaseException:
            trace = traceback.format_exc()
    return RankResult(value, out.getvalue(), err.getvalue(), trace)


class RankPool:
    """At most `size` ranks of one job at a time, as torchrun would start them; `cache` is their XDG_CACHE_HOME."""

    def __init__(self, size: int, cache: Path) -> None:
        self._size, self._cache = size, str(cache)
        self._processes: list[SpawnProcess] = []
        self._jobs: list[Connection] = []

    def _start(self) -> None:
        # torch looks up the name of 127.0.0.1 at each connection, which takes five seconds where no server answers
        os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")
        spawn = multiprocessing.get_context("spawn")
        pipes = [spawn.Pipe() for _ in range(self._size)]
        self._processes = [spawn.Process(target=_serve, args=(child_end,)) for _, child_end in pipes]
        self._jobs = [own_end for own_end, _ in pipes]
        for process in self._processes:
            process.start()

    def run(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        ranks: int,
        double: bool = False,
        environment: Mapping[str, str] | None = None,
        lost_rank: int | None = None,
    ) -> list[RankResult]:
        """Calls a module's function on each rank, with variables besides this process's and torchrun's.

        A lost rank's result is not waited for; all processes are killed, and the next job starts others.
        """
        if not self._processes:
            self._start()
        # in this process, as in torchrun's agent: it outlives all ranks
        store = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=60), wait_for_workers=False)
        common = {**os.environ, "XDG_CACHE_HOME": self._cache, **(environment or {})}
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        common |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
        for rank, jobs in enumerate(self._jobs[:ranks]):
            jobs.send((function, arguments, common | dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)), double))
        deadline, results = time.monotonic() + _JOB_TIMEOUT, []
        for rank, jobs in enumerate(self._jobs[:ranks]):
            if rank == lost_rank:
                continue
            if not jobs.poll(max(0.0, deadline - time.monotonic())):
                self.close()
                raise TimeoutError(f"rank {rank} of {ranks} has not finished {function.__name__}{arguments}")
            results.append(jobs.recv())
        if lost_rank is not None:
            self.close()
        return results

    def close(self) -> None:
        """Kills all processes, also those that hang or are stopped."""
        for process in self._processes:
            process.kill()
            process.join()
        self._processes, self._jobs = [], []


def returned_values(results: list[RankResult]) -> list[Any]:
    """Returns what a job returned on each rank; fails if it raised on any."""
    for rank, result in enumerate(results):
        assert result.trace is None, f"rank {rank}: {result.trace}\n{result.stderr}"
    return [result.value for result in results]
