"""Tensors between the ranks that hold one network together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from alexnet_torch.errors import RankLost


class PeerGroup:
    """The ranks that hold one network together, seen from one of them.

    Args:
        group: its ranks hold, in order, the towers or the shards of towers.
        timeout: how long a rank waits for another. On GPUs the group's own timeout counts.
    """

    def __init__(self, group: dist.ProcessGroup, timeout: timedelta) -> None:
        self._group, self._timeout = group, timeout
        self.index, self.size = dist.get_rank(group), dist.get_world_size(group)

    def all_to_all(self, outgoing: Sequence[Tensor], shapes: Sequence[Sequence[int]], what: str) -> list[Tensor]:
        """Sends each peer its tensor and returns one from each, in the peers' order; the own one is not copied.

        On GPUs NCCL's stream does it, in order with the network's; on CPUs this process waits. There is no other
        work to do meanwhile: the received tensors are read next, and autograd's convolution returns both its
        gradients at once.

        Args:
            outgoing: one for each peer, contiguous, of one dtype and device.
            shapes: the shape that comes from each peer.
            what: the name of this exchange, for messages.

        Raises:
            RankLost: a peer did not answer in time, or has ended.
        """
        own = outgoing[self.index]
        incoming = [own if peer == self.index else own.new_empty(tuple(shape)) for peer, shape in enumerate(shapes)]
        operations = []
        for peer in range(self.size):
            if peer != self.index:
                operations.append(dist.P2POp(dist.isend, outgoing[peer], group=self._group, group_peer=peer))
                operations.append(dist.P2POp(dist.irecv, incoming[peer], group=self._group, group_peer=peer))
        with waiting_for(what):
            for work in dist.batch_isend_irecv(operations) if operations else []:
                if own.is_cpu:  # gloo's own timeout is fixed when the group is formed
                    work.wait(self._timeout)
                else:  # with a timeout, NCCL would block this process, not only the GPU
                    work.wait()
        return incoming

    def all_gather_counts(self, count: int, what: str) -> list[int]:
        """Returns every peer's number. `what` as in `all_to_all`."""
        own = torch.tensor([count])
        return [int(n) for n in self.all_to_all([own] * self.size, [(1,)] * self.size, what)]

    def all_gather_rows(self, rows: Tensor, what: str) -> Tensor:
        """Returns the rows (n, ...) of all peers, in their order; n may differ. `what` as in `all_to_all`."""
        shapes = [(count, *rows.shape[1:]) for count in self.all_gather_counts(len(rows), what)]
        return torch.cat(self.all_to_all([rows] * self.size, shapes, what))


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Names what this process waits for, in case another one ends or does not answer.

    Raises:
        RankLost: another one did.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo has no exception class of its own
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise RankLost(what, str(error)) from error
        raise
