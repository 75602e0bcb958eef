"""How ranks find each other, and agree before process groups exist: through one store."""

import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from alexnet_torch.distributed.world import World
from alexnet_torch.errors import OtherRankFailed, RankLost, RunError, UserError
from alexnet_torch.files import explain_os_error

logger = logging.getLogger(__name__)
T = TypeVar("T")
_LONG = timedelta(days=30)  # preparing ImageNet takes hours; torchrun notices dead processes
_POLL, _SILENT = 0.01, 60.0  # seconds between looks, and before a line about missing ranks
_TRY = 10.0  # seconds of a try to connect, during which Ctrl-C waits


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Raises RankLost, with what this process waits for, if another ends or does not answer."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):  # which has no class of its own
            raise RankLost(what, str(error)) from error
        raise


class Control:
    """Agreement between the ranks of a run, which call its methods together."""

    def __init__(self, world: World, patience: float = 600.0) -> None:
        """Waits `patience` seconds for the start of all ranks."""
        self._world, self._calls = world, 0
        self.store: Store | None = None  # of all ranks; None in a single process
        self.timeout = _LONG  # how long a rank waits for another
        self._launch_store: Store | None = None  # torchrun keeps it for all its starts
        if world.size > 1 or world.torchrun:
            store, until = _connect(world, patience), time.monotonic() + patience
            self._launch_store = PrefixStore("all", store)
            if world.size > 1:
                choose = _choose_name if world.is_main else _receive_name
                self.store = PrefixStore(choose(store, world, until), store)

    @property
    def is_restart(self) -> bool:
        return self._launch_store is not None and self._launch_store.check(["started"])

    def mark_started(self) -> None:
        if self._launch_store is not None:
            self._launch_store.set("started", "")

    @contextmanager
    def main_only(self) -> Iterator[bool]:
        """Yields whether this is rank 0, whose failure raises OtherRankFailed on the others."""
        self._calls += 1
        name, status = f"main/{self._calls}", 1
        if self.store is None:
            yield True
        elif not self._world.is_main:
            yield False
            with waiting_for("the writing of files by rank 0"):
                _wait(self.store, [name], self.timeout)
            if status := int(self.store.get(name)):
                raise OtherRankFailed(status)
        else:
            try:
                yield True
                status = 0
            except UserError:
                status = 2
                raise
            finally:
                self.store.set(name, str(status))

    def broadcast_from_main(self, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Returns what `make` returns on rank 0, as JSON. Raises as `main_only`."""
        made: dict[str, Any] = {}
        with self.main_only() as is_main:
            name = f"made/{self._calls}"
            if is_main:
                made = make()
                if self.store is not None:
                    self.store.set(name, json.dumps(made))
        return json.loads(self.store.get(name)) if self.store is not None else made

    def run_on_all(self, work: Callable[[], T]) -> T:
        """Returns `work()`; the first rank that fails raises UserError, the others OtherRankFailed."""
        if self.store is None:
            return work()
        self._calls += 1
        name, own, error = f"all/{self._calls}", self._world.rank, None
        try:
            result = work()
        except UserError as failed:
            error = failed
        except OSError as failed:  # else the others would wait for this rank
            error = UserError(f"rank {own}: {explain_os_error(failed)}")
        self.store.set(f"{name}/{own}", "failed" if error else "done")
        keys = [f"{name}/{rank}" for rank in range(self._world.size)]
        _wait(self.store, keys)
        failed_ranks = [rank for rank, how in enumerate(self.store.multi_get(keys)) if how == b"failed"]
        if error is not None and failed_ranks[0] == own:  # the others would print the same
            raise error
        if failed_ranks:
            raise OtherRankFailed(2)
        return result


def _wait(store: Store, keys: list[str], timeout: timedelta = _LONG) -> None:
    if timeout < _LONG:
        store.wait(keys, timeout)
    while not store.check(keys):  # before training Ctrl-C must work, which store.wait ignores
        time.sleep(_POLL)


def _connect(world: World, patience: float) -> Store:
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    serves = world.is_main and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    until = time.monotonic() + patience
    while True:  # not torch's rendezvous, which waits for all ranks, without a word and deaf to Ctrl-C
        try:
            seconds = timedelta(seconds=min(_TRY, patience))
            store = TCPStore(*address, is_master=serves, timeout=seconds, wait_for_workers=False, multi_tenant=True)
            store.set_timeout(_LONG)
            return store
        except dist.DistError as error:
            if serves or time.monotonic() > until:
                where, reason = ":".join(map(str, address)), str(error).splitlines()[0]
                fix = "start rank 0 in time, or correct MASTER_ADDR and MASTER_PORT"
                raise RunError(f"rank {world.rank}: no connection at {where} ({reason}); {fix}") from error


def _choose_name(store: Store, world: World, until: float) -> str:
    """Names this start: torchrun's count of restarts differs between machines."""
    name, others, tell_at = uuid.uuid4().hex, range(1, world.size), time.monotonic() + _SILENT
    while missing := ", ".join(str(rank) for rank in others if not store.check([f"here/{rank}"])):
        time.sleep(_POLL)
        if time.monotonic() > until:
            fix = "see what it printed, or give --timeout more seconds"
            raise RunError(f"rank {missing} of {world.size} did not start in time; {fix}")
        if time.monotonic() > tell_at:
            logger.warning("waiting for rank %s of %s, which did not start yet", missing, world.size)
            tell_at = float("inf")
    while not store.check([f"{name}/{rank}" for rank in others]):
        # an entry may be of an ended process, until the one that replaces it writes its own
        here = {str(rank): store.get(f"here/{rank}").decode() for rank in others}
        store.set("start", json.dumps({"name": name, "here": here}))
        time.sleep(0.02)
    return name


def _receive_name(store: Store, world: World, until: float) -> str:
    own_id, start = uuid.uuid4().hex, dict[str, Any]()
    try:
        store.set(f"here/{world.rank}", own_id)
        while start.get("here", {}).get(str(world.rank)) != own_id:  # else it is of the previous start
            time.sleep(_POLL)
            if store.check(["start"]):
                start = json.loads(store.get("start"))
            if time.monotonic() > until + _TRY:  # rank 0 tells who is missing
                raise OtherRankFailed(1)
        store.set(f"{start['name']}/{world.rank}", "")
    except dist.DistError as error:  # rank 0 ended
        raise OtherRankFailed(1) from error
    return str(start["name"])
