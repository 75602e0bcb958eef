"""The exchanges between ranks that have a tower each, or a shard of each linear stage."""

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
    """The ranks that have one network together, in the order of towers or shards."""

    def __init__(self, group: dist.ProcessGroup, timeout: timedelta) -> None:
        self._group, self._timeout = group, timeout
        self.index, self.size = dist.get_rank(group), dist.get_world_size(group)

    def all_to_all(self, outgoing: Sequence[Tensor], shapes: Sequence[Sequence[int]], what: str) -> list[Tensor]:
        """Sends each peer a contiguous tensor and returns one from each, in order; the own one is not copied."""
        own, incoming, operations = outgoing[self.index], list[Tensor](), []
        for peer, (x, shape) in enumerate(zip(outgoing, shapes, strict=True)):
            incoming.append(own if peer == self.index else own.new_empty(tuple(shape)))
            if peer != self.index:
                for move, tensor in ((dist.isend, x), (dist.irecv, incoming[peer])):
                    operations.append(dist.P2POp(move, tensor, group=self._group, group_peer=peer))
        # gloo's own timeout is the group's; with one, NCCL would block this process, not only the GPU
        limit = [self._timeout] if own.is_cpu else []
        with waiting_for(what):
            for work in dist.batch_isend_irecv(operations) if operations else ():
                work.wait(*limit)
        return incoming

    def all_gather_counts(self, count: int, what: str) -> list[int]:
        return [int(n) for n in self.all_to_all([torch.tensor([count])] * self.size, [(1,)] * self.size, what)]

    def all_gather_rows(self, rows: Tensor, what: str) -> Tensor:
        """Returns the rows (n, ...) of all peers, in their order; n may differ."""
        shapes = [(count, *rows.shape[1:]) for count in self.all_gather_counts(len(rows), what)]
        return torch.cat(self.all_to_all([rows] * self.size, shapes, what))


_ONE_PROCESS = "are not supported between processes: compute them with a copy in one process"


class _AllGather(torch.autograd.Function):
    """A differentiable all-gather along a dimension.

    Every peer reads x, so its gradient is the sum of all peers'. But where all compute the same loss from the same
    numbers (`same_loss`), each has the full gradient already.
    """

    @staticmethod
    def forward(x: Tensor, peers: PeerGroup, sizes: list[int], dim: int, stage: str, same_loss: bool) -> Tensor:
        what = f"the exchange before {stage}, forward"
        return torch.cat(_all_to_all(peers, [x] * peers.size, sizes, dim, what), dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.peers, ctx.sizes, ctx.dim, ctx.stage, ctx.same_loss = inputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        peers = ctx.peers
        # before any rank waits for another: all differentiate in the same way
        if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            raise NotImplementedError(f"second derivatives, as by create_graph=True, {_ONE_PROCESS}")
        outgoing = list(grads[0].split(ctx.sizes, ctx.dim))
        grad = outgoing[peers.index]
        if not ctx.same_loss:
            sizes = [ctx.sizes[peers.index]] * peers.size
            what = f"the exchange before {ctx.stage}, backward"
            # in the peers' order, so that the sum is the same in every run
            grad, *terms = _all_to_all(peers, outgoing, sizes, ctx.dim, what)
            for term in terms:
                grad = grad + term
        return grad, None, None, None, None, None


def _all_to_all(peers: PeerGroup, outgoing: list[Tensor], sizes: list[int], dim: int, what: str) -> list[Tensor]:
    """Sends each peer its tensor; returns the received ones, of `sizes` along `dim`, 0 or 1."""
    # channels last, as our maps are in memory, if there are channels to gather
    last = -1 if dim else 0
    blocks = [x.movedim(dim, last).contiguous() for x in outgoing]
    shape = blocks[peers.index].shape
    shapes = [(*shape[:-1], size) if dim else (size, *shape[1:]) for size in sizes]
    return [x.movedim(last, dim) for x in peers.all_to_all(blocks, shapes, what)]


def _all_gather(x: Tensor, peers: PeerGroup, sizes: list[int], dim: int, stage: str, same_loss: bool = False) -> Tensor:
    if torch._C._are_functorch_transforms_active() or forward_ad.unpack_dual(x).tangent is not None:
        raise NotImplementedError(f"torch.func's transforms and forward-mode derivatives {_ONE_PROCESS}")
    gathered: Tensor = _AllGather.apply(x, peers, sizes, dim, stage, same_loss)
    return gathered


class PartnerExchange(Exchange):
    """Moves activations between ranks that hold one tower each."""

    def __init__(self, peers: PeerGroup) -> None:
        self.shards = [Shard(peers.index)]
        self._peers = peers

    def concat_towers(self, xs: TowerTensors, channels: int, stage: str) -> TowerTensors:
        return [_all_gather(xs[0], self._peers, shard_sizes(channels, self._peers.size), 1, stage)]

    def gather_output(self, xs: TowerTensors, channels: int, stage: str) -> Tensor:
        """Concatenates the outputs, on every partner: all must compute the same loss of it."""
        return _all_gather(xs[0], self._peers, shard_sizes(channels, self._peers.size), 1, stage, same_loss=True)

    def channel_halo(self, xs: TowerTensors, width: int, stage: str) -> list[tuple[Tensor, int]]:
        x, index, size = xs[0], self._peers.index, self._peers.size
        if not width:
            return [(x, 0)]
        own_edges = torch.cat([x[:, :width], x[:, -width:]], dim=1)
        gathered = self.concat_towers([own_edges], 2 * width * size, stage)[0]
        edges = [None, *gathered.split(2 * width, dim=1), None]
        return [add_halo(edges[index], x, edges[index + 2], width)]


class HybridExchange(Exchange):
    """Moves activations between ranks that hold all convolutions, and a shard of each linear stage.

    A rank computes the convolutions for its rows of the batch, and its shards for all rows: Krizhevsky, "One weird
    trick for parallelizing convolutional neural networks" (2014). The first peers have the shards of tower 0.
    """

    def __init__(self, peers: PeerGroup, towers: int) -> None:
        self._peers, self._towers, self._shards = peers, towers, peers.size // towers
        self._own_tower, own = divmod(peers.index, self._shards)
        self.shards = [Shard(tower, own if tower == self._own_tower else None, self._shards) for tower in range(towers)]

    def all_gather_rows(self, xs: TowerTensors, first_row: int, stage: str) -> tuple[TowerTensors, int]:
        rows = self._peers.all_gather_counts(len(xs[0]), f"the exchange before {stage}, forward")
        return [_all_gather(torch.cat(xs, dim=1), self._peers, rows, 0, stage)], 0

    def concat_towers(self, xs: TowerTensors, channels: int, stage: str) -> TowerTensors:
        if xs[0].ndim == 4:
            return super().concat_towers(xs, channels, stage)
        return [self._join_shards(xs[0], channels, stage)]

    def keep_own_channels(self, xs: TowerTensors, channels: int, stage: str) -> TowerTensors:
        """Joins the shards of a linear stage of this rank's tower."""
        if xs[0].ndim == 4:
            return xs
        sizes = shard_sizes(channels, self._towers)
        return [self._join_shards(xs[0], channels, stage).split(sizes, dim=1)[self._own_tower]]

    def gather_output(self, xs: TowerTensors, channels: int, stage: str) -> Tensor:
        """Joins the shards of the last linear stage, for all rows, on every rank."""
        if xs[0].ndim == 4:
            return super().gather_output(xs, channels, stage)
        return self._join_shards(xs[0], channels, stage, same_loss=True)

    def _join_shards(self, x: Tensor, channels: int, stage: str, same_loss: bool = False) -> Tensor:
        """Returns all shards (N, channels); x itself if `all_gather_rows` has joined it."""
        if x.shape[1] == channels:
            return x
        towers = shard_sizes(channels, self._towers)
        sizes = [size for tower in towers for size in shard_sizes(tower, self._shards)]
        return _all_gather(x, self._peers, sizes, 1, stage, same_loss)
