"""How the ranks of a run find each other, and agree before process groups exist: through one store."""

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from alexnet_torch.distributed.world import World
from alexnet_torch.errors import OtherRankFailed, RankLost, UserError
from alexnet_torch.files import explain_os_error

logger = logging.getLogger(__name__)
T = TypeVar("T")
_LONG = timedelta(days=30)  # preparing ImageNet takes hours, and torchrun notices a process that has died
_POLL, _SILENT = 0.01, 60.0  # seconds between looks, and before a line about who is missing


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Names what this process waits for: if another one ends or does not answer, it raises RankLost."""
    try:
        yield
    except RuntimeError as error:
        # gloo has no exception class of its own
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise RankLost(what, str(error)) from error
        raise


class Control:
    """Agreement between the ranks of a run. All ranks call its methods together, but for those of restarts.

    Attributes:
        store: shared by all ranks; None in a single process, which waits for nobody.
        timeout: how long a rank waits for another.
    """

    def __init__(self, world: World) -> None:
        self._world, self._calls = world, 0
        self.store: Store | None = None
        self.timeout = _LONG
        self._launch_store: Store | None = None
        if world.size > 1 or world.torchrun:
            store, self._launch_store = _open_stores(world)
            self.store = store if world.size > 1 else None

    @property
    def is_restart(self) -> bool:
        """Whether this launch of torchrun started the run before, and so continues it. Only rank 0 asks."""
        return self._launch_store is not None and self._launch_store.check(["started"])

    def mark_started(self) -> None:
        """Records that this launch has started the run, for the processes that torchrun starts after a failure."""
        if self._launch_store is not None:
            self._launch_store.set("started", "")

    @contextmanager
    def main_only(self, values: list[Any] | None = None) -> Iterator[bool]:
        """Yields whether this is rank 0, which runs the block; if it fails there, the others raise OtherRankFailed.

        What rank 0 appends to `values` in the block, as JSON can hold it, all ranks have after it.
        """
        values = [] if values is None else values
        if self.store is None:
            yield True
            return
        self._calls += 1
        name = f"main/{self._calls}"
        if not self._world.is_main:
            yield False
            with waiting_for("the writing of files by rank 0"):
                _wait(self.store, [name], self.timeout)
            status, *received = json.loads(self.store.get(name))
            if status:
                raise OtherRankFailed(status)
            values.extend(received)
            return
        status = 1
        try:
            yield True
            status = 0
        except UserError:
            status = 2
            raise
        finally:
            self.store.set(name, json.dumps([status, *values]))

    def broadcast_from_main(self, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Returns on every rank what `make` returns on rank 0: values that JSON can hold. Raises as `main_only`."""
        with self.main_only(values := []) as is_main:
            if is_main:
                values.append(make())
        made: dict[str, Any] = values[0]
        return made

    def run_on_all(self, work: Callable[[], T]) -> T:
        """Returns each rank's result of `work`; the first that fails raises UserError, the others OtherRankFailed."""
        if self.store is None:
            return work()
        self._calls += 1
        name, error = f"all/{self._calls}", None
        try:
            result = work()
        except UserError as failed:
            error = failed
        except OSError as failed:  # else the others would wait for this rank
            error = UserError(f"rank {self._world.rank}: {explain_os_error(failed)}")
        self.store.set(f"{name}/{self._world.rank}", "2" if error else "0")
        if self._world.is_main:
            keys = [f"{name}/{rank}" for rank in range(self._world.size)]
            _wait(self.store, keys)
            failed_ranks = [rank for rank, key in enumerate(keys) if int(self.store.get(key))]
            self.store.set(name, json.dumps(failed_ranks))
        _wait(self.store, [name])
        failed_ranks = json.loads(self.store.get(name))
        if error is not None and failed_ranks[0] == self._world.rank:  # the others would print the same
            raise error
        if failed_ranks:
            raise OtherRankFailed(2)
        return result


def _wait(store: Store, keys: list[str], timeout: timedelta = _LONG) -> None:
    """Waits until a store has all keys."""
    if timeout < _LONG:
        store.wait(keys, timeout)
        return
    # before training, when Ctrl-C must end this process at once, and not after hours: store.wait acts on no signal
    while not store.check(keys):
        time.sleep(_POLL)


def _open_stores(world: World) -> tuple[Store, Store]:
    """Returns the store of this start, and that of all starts of the run, for which torchrun keeps one.

    Its restart count tells them apart on one machine, but several machines count differently.
    """
    store, _, _ = next(rendezvous("env://", world.rank, world.size))
    find_name = _choose_name if world.is_main else _receive_name
    name = "single" if world.size == 1 else find_name(store, world)
    return PrefixStore(name, store), PrefixStore("all", store)


def _choose_name(store: Store, world: World) -> str:
    name, others, tell_at = uuid.uuid4().hex, range(1, world.size), time.monotonic() + _SILENT
    while not store.check([f"here/{rank}" for rank in others]):
        time.sleep(_POLL)
        if time.monotonic() > tell_at:
            missing = [str(rank) for rank in others if not store.check([f"here/{rank}"])]
            logger.warning("waiting for rank %s of %s, which did not start yet", ", ".join(missing), world.size)
            tell_at = float("inf")
    while not store.check([f"{name}/{rank}" for rank in others]):
        # an entry may be of an ended process, if the process that replaces it did not write its own yet
        here = {str(rank): store.get(f"here/{rank}").decode() for rank in others}
        store.set("start", json.dumps({"name": name, "here": here}))
        time.sleep(0.02)
    return name


def _receive_name(store: Store, world: World) -> str:
    own_id = uuid.uuid4().hex
    store.set(f"here/{world.rank}", own_id)
    _wait(store, ["start"])
    while (start := json.loads(store.get("start")))["here"].get(str(world.rank)) != own_id:  # of the previous start
        time.sleep(0.02)
    name: str = start["name"]
    store.set(f"{name}/{world.rank}", "")
    return name
