"""The ranks of a run: how they form process groups, what they add up and send, and who of them is missing."""

import io
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore

from alexnet_torch.distributed.control import Control, waiting_for
from alexnet_torch.distributed.exchanges import PeerGroup
from alexnet_torch.distributed.placement import Placement
from alexnet_torch.distributed.world import World
from alexnet_torch.errors import RankLost
from alexnet_torch.model.exchange import Exchange

_CLOSED = 5.0  # seconds in which all ranks notice that a connection has been closed
_SILENT = 30.0  # seconds in which the others time out as well: about a step


class Ranks:
    """The ranks of a run, seen from one of them.

    Attributes:
        control: agreement between all ranks, from the start.
        placement, collectives: the run's, after `connect`.
        peers: the ranks that hold one network together with this one, after `connect`; None without others.
        gradient_group: the ranks that add up gradients with this one, after `connect`; None without others.
    """

    def __init__(self, world: World) -> None:
        self.world, self.control = world, Control(world)
        self.placement: Placement
        self.collectives: Collectives
        self.peers: PeerGroup | None = None
        self.gradient_group: dist.ProcessGroup | None = None

    def connect(self, placement: Placement, timeout: float) -> Exchange:
        """Forms the process groups, whose ranks wait `timeout` seconds for each other; returns the towers' exchange."""
        self.placement, control = placement, None
        if self.control.store is not None:
            control = self._init_process_groups(placement.devices[0], timedelta(seconds=timeout))
        self.collectives = Collectives(placement, self.gradient_group, control)
        return placement.exchange(self.peers)

    def _init_process_groups(self, device: torch.device, timeout: timedelta) -> dist.ProcessGroup:
        """Forms all groups; returns the one of all ranks by gloo."""
        assert self.control.store is not None
        self.control.timeout = group_timeout = timeout
        if device.type == "cuda":
            torch.cuda.set_device(device)
            group_timeout += timedelta(minutes=1)  # NCCL ends a process at its timeout: ours must report before it
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore("groups", self.control.store),
            rank=self.world.rank,
            world_size=self.world.size,
            timeout=group_timeout,
        )
        control = dist.new_group(backend="gloo", timeout=timeout)
        self.gradient_group = _own_group(self.placement.gradient_groups, group_timeout)
        if network := _own_group(self.placement.networks, group_timeout):
            self.peers = PeerGroup(network, timeout)
        assert isinstance(control, dist.ProcessGroup)
        return control

    def read_on_main(self, read: Callable[[], Any]) -> Any:
        """Returns on all ranks what `read` returns on rank 0: tensors and plain values. Raises as `main_only`."""
        value = None
        with self.control.main_only() as is_main:
            if is_main:
                value = read()
        return self.collectives.broadcast_object(value)

    def describe_missing(self, lost: RankLost) -> str | None:
        """Returns a message that names the missing ranks, on one of the remaining ranks; None on the others."""
        store, rank, all_ranks = self.control.store, self.world.rank, set(range(self.world.size))
        assert store is not None
        is_silent = "imed out" in lost.why  # its connection still exists
        seconds = min(_SILENT, max(_CLOSED, self.control.timeout.total_seconds())) if is_silent else _CLOSED
        deadline, missing = time.monotonic() + seconds, all_ranks - {rank}
        try:
            store.set(f"lost/{rank}", lost.what)
            while missing and time.monotonic() < deadline:
                time.sleep(0.1)
                missing -= {other for other in missing if store.check([f"lost/{other}"])}
            if rank != (speaker := min(all_ranks - missing)):
                return None
            # a rank of the same network knows best what the missing one did not reach
            peers = {peer for other in missing for peer in self.placement.network_of(other)}
            witness = min(peers - missing, default=speaker)
            what = store.get(f"lost/{witness}").decode()
        except dist.DistError:  # the store was on a machine that is lost
            return str(lost)
        if not missing:
            return str(lost)
        names = ", ".join(map(self.placement.describe_rank, sorted(missing)))
        return f"{names} did not reach {what}, where rank {witness} waited; torch.distributed reports: {lost.why}"

    def close(self) -> None:
        """Ends the process groups; after an error, NCCL's at once: it waits for kernels that wait for a lost rank."""
        if dist.is_initialized():
            failed = sys.exc_info()[0] is not None and self.placement.devices[0].type == "cuda"
            (dist.distributed_c10d._abort_process_group if failed else dist.destroy_process_group)()


def _own_group(groups: list[range], timeout: timedelta) -> dist.ProcessGroup | None:
    """Forms groups that divide all ranks; returns this rank's, or None if each has only one rank."""
    if all(len(ranks) == 1 for ranks in groups):
        return None
    group, _ = dist.new_subgroups_by_enumeration([list(ranks) for ranks in groups], timeout=timeout)
    assert isinstance(group, dist.ProcessGroup)
    return group


class Collectives:
    """The collective calls of one rank, which all ranks make together; `control` is by gloo, and waits for no GPU."""

    def __init__(
        self, placement: Placement, gradients: dist.ProcessGroup | None, control: dist.ProcessGroup | None
    ) -> None:
        self._placement, self._gradients, self._control = placement, gradients, control
        self._pending: tuple[Any, Tensor] | None = None  # the call in progress, and the flags that it changes

    def sum_over_slices(self, values: Tensor) -> Tensor:
        """Returns the sums over the slices of a batch; where each rank scores all rows, the values themselves."""
        if self._gradients is not None and not self._placement.scores_all_rows:
            with waiting_for("the sum of losses"):
                dist.all_reduce(values, group=self._gradients)
        return values

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """Returns the sums over all ranks."""
        if self._control is not None:
            with waiting_for("the sum of errors"):
                dist.all_reduce(values)
        return values

    def max_over_ranks(self, flag: int) -> int:
        """Returns the largest flag of all ranks."""
        if self._control is None:
            return flag
        flags = torch.tensor(flag)
        with waiting_for("the exchange of flags"):
            dist.all_reduce(flags, dist.ReduceOp.MAX, self._control)
        return int(flags)

    def max_over_ranks_delayed(self, *flags: int) -> list[int]:
        """Non-blocking maximum over ranks: returns the previous call's result, at first 0, and starts the next."""
        if self._control is None:
            return list(flags)
        result, current = [0] * len(flags), torch.tensor(flags)
        with waiting_for("the exchange of flags"):
            if self._pending:
                work, previous = self._pending
                work.wait()
                result = previous.tolist()
            self._pending = dist.all_reduce(current, dist.ReduceOp.MAX, self._control, async_op=True), current
        return result

    def gather_to_main(self, make: Callable[[], Any]) -> list[Any]:
        """Returns on rank 0 what `make` returns, tensors and plain values, on the other `shard_ranks`, in order."""
        rank, others = self._placement.world.rank, self._placement.shard_ranks[1:]
        if rank in others:
            data = _to_bytes(make())
            with waiting_for("the transfer of weights to rank 0"):
                dist.send(torch.tensor([len(data)]), 0)
                dist.send(data, 0)
        return [self._receive(other) for other in others] if rank == 0 else []

    @staticmethod
    def _receive(rank: int) -> Any:
        with waiting_for(f"the weights of rank {rank}"):
            size = torch.zeros(1, dtype=torch.int64)
            dist.recv(size, rank)
            data = torch.empty(int(size), dtype=torch.uint8)
            dist.recv(data, rank)
        return _from_bytes(data)

    def broadcast_object(self, value: Any) -> Any:
        """Returns rank 0's value on all ranks; values as in `gather_to_main`."""
        if self._control is None:
            return value
        is_main = self._placement.world.is_main
        data = _to_bytes(value) if is_main else torch.empty(0, dtype=torch.uint8)
        with waiting_for("the broadcast of weights by rank 0"):
            size = torch.tensor([len(data)])
            dist.broadcast(size, 0)
            data = data if is_main else torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(data, 0)
        return value if is_main else _from_bytes(data)


def _to_bytes(value: Any) -> Tensor:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)


def _from_bytes(data: Tensor) -> Any:
    return torch.load(io.BytesIO(data.numpy().tobytes()), map_location="cpu", weights_only=True)
