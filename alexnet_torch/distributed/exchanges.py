"""The exchanges between ranks that have one tower each, or a shard of each linear stage."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import forward_ad

from alexnet_torch.distributed.control import waiting_for
from alexnet_torch.model.exchange import Exchange, Shard, TowerTensors, add_halo, shard_sizes


class PeerGroup:
    """The ranks that have one network together, in the order of towers or of shards; on GPUs its own timeout counts."""

    def __init__(self, group: dist.ProcessGroup, timeout: timedelta) -> None:
        self._group, self._timeout = group, timeout
        self.index, self.size = dist.get_rank(group), dist.get_world_size(group)

    def all_to_all(self, outgoing: Sequence[Tensor], shapes: Sequence[Sequence[int]], what: str) -> list[Tensor]:
        """Sends each peer its tensor and returns one from each, in the peers' order; the own one is not copied.

        The tensors are contiguous, of one dtype and device; `what` names the exchange if a RankLost is raised. On GPUs
        NCCL's stream does it, in order with the network's; on CPUs this process waits. There is no other work to do
        meanwhile: the received tensors are read next, and autograd's convolution returns both its gradients at once.
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
        """Returns every peer's number."""
        own = torch.tensor([count])
        return [int(n) for n in self.all_to_all([own] * self.size, [(1,)] * self.size, what)]

    def all_gather_rows(self, rows: Tensor, what: str) -> Tensor:
        """Returns the rows (n, ...) of all peers, in their order; n may differ."""
        shapes = [(count, *rows.shape[1:]) for count in self.all_gather_counts(len(rows), what)]
        return torch.cat(self.all_to_all([rows] * self.size, shapes, what))


def _all_to_all(peers: PeerGroup, outgoing: list[Tensor], sizes: list[int], dim: int, what: str) -> list[Tensor]:
    """Sends each peer its tensor; returns the received ones, of `sizes` along `dim`."""
    # one block of memory: channels last for gathered channels, which is the layout of our maps already
    blocks = [(x.movedim(1, -1) if dim == 1 else x).contiguous() for x in outgoing]
    shape = blocks[peers.index].shape
    shapes = [(*shape[:-1], size) if dim == 1 else (size, *shape[1:]) for size in sizes]
    incoming = peers.all_to_all(blocks, shapes, what)
    return [x.movedim(-1, 1) if dim == 1 else x for x in incoming]


_ONE_PROCESS = "are not supported between processes: compute them in one process, with a copy of the network"


class _AllGather(torch.autograd.Function):
    """A differentiable all-gather along a dimension, which plain collectives are not.

    Every peer reads x, so its gradient is the sum of all peers' gradients. But where all peers compute the same loss
    from the same numbers (`same_loss`), each has the full gradient already, and a sum would count it `size` times.
    """

    @staticmethod
    def forward(x: Tensor, peers: PeerGroup, sizes: list[int], dim: int, stage: str, same_loss: bool) -> Tensor:
        del same_loss
        outgoing = [x] * peers.size
        return torch.cat(_all_to_all(peers, outgoing, sizes, dim, f"the exchange before {stage}, forward"), dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        _, ctx.peers, ctx.sizes, ctx.dim, ctx.stage, ctx.same_loss = inputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        peers, dim = ctx.peers, ctx.dim
        # before any rank waits for another: all differentiate in the same way
        if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            raise NotImplementedError(f"second derivatives, as by create_graph=True, {_ONE_PROCESS}")
        outgoing = list(grads[0].split(ctx.sizes, dim))
        grad = outgoing[peers.index]
        if not ctx.same_loss:
            sizes = [ctx.sizes[peers.index]] * peers.size
            incoming = _all_to_all(peers, outgoing, sizes, dim, f"the exchange before {ctx.stage}, backward")
            grad = incoming[0]
            for term in incoming[1:]:  # in the peers' order, so that the sum is the same in every run
                grad = grad + term
        return grad, None, None, None, None, None


def _all_gather(x: Tensor, peers: PeerGroup, sizes: list[int], dim: int, stage: str, same_loss: bool = False) -> Tensor:
    if torch._C._are_functorch_transforms_active() or forward_ad.unpack_dual(x).tangent is not None:
        raise NotImplementedError(f"torch.func's transforms and forward-mode derivatives {_ONE_PROCESS}")
    gathered: Tensor = _AllGather.apply(x, peers, sizes, dim, stage, same_loss)
    return gathered


class PartnerExchange(Exchange):
    """Moves activations between ranks that hold one tower each; `peers` are one rank for each tower."""

    def __init__(self, peers: PeerGroup) -> None:
        self.shards = [Shard(peers.index)]
        self._peers = peers

    def concat_towers(self, xs: TowerTensors, channels: int, stage: str) -> TowerTensors:
        """Concatenates the partners' outputs; the backward pass adds up their gradients."""
        return [_all_gather(xs[0], self._peers, self._sizes(channels), 1, stage)]

    def gather_output(self, xs: TowerTensors, channels: int, stage: str) -> Tensor:
        """Concatenates the outputs, on every partner: all must compute the same loss of it."""
        return _all_gather(xs[0], self._peers, self._sizes(channels), 1, stage, same_loss=True)

    def channel_halo(self, xs: TowerTensors, width: int, stage: str) -> list[tuple[Tensor, int]]:
        """Adds the nearest channels of the partners before and after this one."""
        x, index, size = xs[0], self._peers.index, self._peers.size
        if not width:
            return [(x, 0)]
        own_edges = torch.cat([x[:, :width], x[:, -width:]], dim=1)
        edges = self.concat_towers([own_edges], 2 * width * size, stage)[0].split(2 * width, dim=1)
        before = edges[index - 1] if index else None
        after = edges[index + 1] if index + 1 < size else None
        return [add_halo(before, x, after, width)]

    def _sizes(self, channels: int) -> list[int]:
        return shard_sizes(channels, self._peers.size)


class HybridExchange(Exchange):
    """Moves activations between ranks that hold all convolutions, and a shard of each linear stage.

    A rank computes the convolutions for its rows of the batch, and its shards for all rows. After Krizhevsky, "One
    weird trick for parallelizing convolutional neural networks" (2014): the linear stages, which have nearly all
    weights and little to compute, never exchange gradients of weights. The first peers have the shards of tower 0.
    """

    def __init__(self, peers: PeerGroup, towers: int) -> None:
        self._peers, self._towers, self._shards = peers, towers, peers.size // towers
        self._own_tower, shard = divmod(peers.index, self._shards)
        self.shards = [
            Shard(tower, shard if tower == self._own_tower else None, self._shards) for tower in range(towers)
        ]

    def all_gather_rows(self, xs: TowerTensors, first_row: int, stage: str) -> tuple[TowerTensors, int]:
        """Returns all rows of the batch and all towers' channels, on every rank."""
        del first_row
        rows = self._peers.all_gather_counts(len(xs[0]), f"the exchange before {stage}, forward")
        return [_all_gather(torch.cat(xs, dim=1), self._peers, rows, 0, stage)], 0

    def concat_towers(self, xs: TowerTensors, channels: int, stage: str) -> TowerTensors:
        """Joins the shards of a linear stage of all towers."""
        if xs[0].ndim == 4:
            return super().concat_towers(xs, channels, stage)
        return [self._join_shards(xs, channels, stage)]

    def keep_own_channels(self, xs: TowerTensors, channels: int, stage: str) -> TowerTensors:
        """Joins the shards of a linear stage of this rank's tower."""
        if xs[0].ndim == 4:
            return xs
        towers = self._join_shards(xs, channels, stage).split(shard_sizes(channels, self._towers), dim=1)
        return [towers[self._own_tower]]

    def gather_output(self, xs: TowerTensors, channels: int, stage: str) -> Tensor:
        """Joins the shards of the last linear stage, for all rows, on every rank."""
        if xs[0].ndim == 4:
            return super().gather_output(xs, channels, stage)
        return self._join_shards(xs, channels, stage, same_loss=True)

    def _join_shards(self, xs: TowerTensors, channels: int, stage: str, same_loss: bool = False) -> Tensor:
        """Returns (N, channels): all ranks' shards; or the input as it is, if `all_gather_rows` has joined it."""
        if xs[0].shape[1] == channels:
            return xs[0]
        sizes = [size for tower in shard_sizes(channels, self._towers) for size in shard_sizes(tower, self._shards)]
        return _all_gather(xs[0], self._peers, sizes, 1, stage, same_loss)
