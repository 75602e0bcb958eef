"""Tensors between the processes that share one network."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from alexnet_torch.errors import RankLost


class PeerGroup:
    """The processes that share one network, as one of them sees them.

    Args:
        group: whose ranks have, in order, the towers or the pieces of towers.
        patience: how long one waits for another. On GPUs it is the group's own.
    """

    def __init__(self, group: dist.ProcessGroup, patience: timedelta) -> None:
        self._group, self._patience = group, patience
        self.index, self.size = dist.get_rank(group), dist.get_world_size(group)

    def swap(self, outgoing: Sequence[Tensor], shapes: Sequence[Sequence[int]], what: str) -> list[Tensor]:
        """Sends each peer its tensor and receives one from each, in their order; what is ours stays as it is.

        On GPUs NCCL's stream does it, in turn with the network's; on CPUs this process waits. There is nothing to do
        meanwhile: what comes is the very next thing that is read, and autograd's convolution has both its gradients at
        once.

        Args:
            outgoing: one for each peer, contiguous, of one dtype and device.
            shapes: of what comes from each.
            what: this is, for messages.

        Raises:
            RankLost: a peer did not come in time, or is gone.
        """
        mine = outgoing[self.index]
        incoming = [mine if peer == self.index else mine.new_empty(tuple(s)) for peer, s in enumerate(shapes)]
        operations = []
        for peer in range(self.size):
            if peer != self.index:
                operations.append(dist.P2POp(dist.isend, outgoing[peer], group=self._group, group_peer=peer))
                operations.append(dist.P2POp(dist.irecv, incoming[peer], group=self._group, group_peer=peer))
        with waiting(what):
            for work in dist.batch_isend_irecv(operations) if operations else []:
                if mine.is_cpu:  # gloo's own patience is of when the group was formed
                    work.wait(self._patience)
                else:  # given a time, NCCL would hold up this process, not the GPU alone
                    work.wait()
        return incoming

    def counts(self, count: int, what: str) -> list[int]:
        """Every peer's number: a word to each. As `swap`."""
        word = torch.tensor([count])
        return [int(n) for n in self.swap([word] * self.size, [(1,)] * self.size, what)]


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Names what this process waits for, should another's end or silence make it fail.

    Raises:
        RankLost: it did.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo has no exception of its own
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise RankLost(what, str(error)) from error
        raise
