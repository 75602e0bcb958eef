"""Sums, maxima and transfers between the ranks of a run; a single process returns its own values at once."""

import io
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from alexnet_torch.distributed.peer_group import waiting_for
from alexnet_torch.distributed.placement import Placement


class Collectives:
    """The collective calls of one rank, which all ranks make together.

    Args:
        placement: the run's, with this rank.
        gradients: this rank's gradient group; None where it would be the only one in it.
        control: the gloo group of all ranks, which waits for no GPU; None in a single process.
    """

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
        """Non-blocking maximum over ranks: returns the previous call's result, at first 0, and starts the next.

        All ranks call it equally often. A single process gets its own flags back.
        """
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
        """Returns on rank 0 what `make` returns on the other `shard_ranks`, in their order; elsewhere nothing.

        Values are tensors, which arrive on the CPU, and plain values.
        """
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
