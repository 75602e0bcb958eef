"""Tensors between the processes that share one network."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from alexnet_torch.errors import Lost


class Peers:
    """The processes that share one network, as one of them sees them.

    Args:
        group: whose ranks have, in order, the towers or the pieces of towers.
        patience: how long one waits for another. On GPUs it is the group's own.
    """

    def __init__(self, group: dist.ProcessGroup, patience: timedelta) -> None:
        self._group, self.patience = group, patience
        self.index, self.size = dist.get_rank(group), dist.get_world_size(group)

    def swap(self, outgoing: Sequence[Tensor], shapes: Sequence[Sequence[int]], what: str) -> "Swap":
        """Starts to send each peer its tensor and to receive one from each; what is ours stays as it is.

        Args:
            outgoing: one for each peer, contiguous, of one dtype and device.
            shapes: of what comes from each.
            what: this is, for messages.
        """
        return Swap(self, self._group, outgoing, shapes, what)

    def counts(self, count: int) -> list[int]:
        """Every peer's number: a word to each."""
        word = torch.tensor([count])
        swap = self.swap([word] * self.size, [(1,)] * self.size, "the sizes of the batch's slices")
        return [int(number) for number in swap.wait()]


class Swap:
    """Tensors on their way; see `Peers.swap`. What is sent must not change before `wait` has returned."""

    def __init__(
        self,
        peers: Peers,
        group: dist.ProcessGroup,
        outgoing: Sequence[Tensor],
        shapes: Sequence[Sequence[int]],
        what: str,
    ) -> None:
        self._peers, self._group, self._what, self._outgoing = peers, group, what, outgoing
        mine = outgoing[peers.index]
        self._incoming = [
            mine if peer == peers.index else mine.new_empty(tuple(shape)) for peer, shape in enumerate(shapes)
        ]
        operations = []
        for peer in range(peers.size):
            if peer != peers.index:
                operations.append(dist.P2POp(dist.isend, outgoing[peer], group=group, group_peer=peer))
                operations.append(dist.P2POp(dist.irecv, self._incoming[peer], group=group, group_peer=peer))
        with waiting(what):
            self._works = dist.batch_isend_irecv(operations) if operations else []

    def wait(self) -> list[Tensor]:
        """One tensor from each peer, in their order.

        Raises:
            Lost: a peer did not come in time, or is gone.
        """
        with waiting(self._what):
            for work in self._works:
                if self._incoming[0].is_cpu:  # gloo's own patience is of when the group was formed
                    work.wait(self._peers.patience)
                else:  # given a time, NCCL would hold up this process, not the GPU alone
                    work.wait()
        return self._incoming


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Names what this process waits for, should another's end or silence make it fail.

    Raises:
        Lost: it did.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo has no exception of its own
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise Lost(what, str(error)) from error
        raise
