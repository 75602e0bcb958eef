"""The exchanges between processes: one tower each, or a piece of each linear stage."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from alexnet_torch.distributed.peer_group import PeerGroup
from alexnet_torch.model.exchange import Exchange, Share, TowerParts, add_halo, part_sizes


def _wire(x: Tensor, dim: int) -> Tensor:
    """As one block of memory: channels last, which our maps are anyhow, if it is channels that are joined."""
    return (x.movedim(1, -1) if dim == 1 else x).contiguous()


def _swapped(peers: PeerGroup, outgoing: list[Tensor], sizes: list[int], dim: int, what: str) -> list[Tensor]:
    """Sends each peer its tensor; receives tensors of `sizes` along `dim`."""
    wires = [_wire(x, dim) for x in outgoing]
    shape = wires[peers.index].shape
    shapes = [(*shape[:-1], size) if dim == 1 else (size, *shape[1:]) for size in sizes]
    incoming = peers.swap(wires, shapes, what)
    return [x.movedim(-1, 1) if dim == 1 else x for x in incoming]


class _Joined(torch.autograd.Function):
    """All peers' parts along a dimension, and its adjoint.

    Plain collectives have no gradient. The true one: a part is read by every peer, so its gradient is the sum
    of what they all say; but where all peers go on to compute the same loss from the same numbers
    (`same_loss`), each says the whole, and a sum would count it `size` times.
    """

    @staticmethod
    def forward(
        ctx: Any, part: Tensor, peers: PeerGroup, sizes: list[int], dim: int, stage: str, same_loss: bool
    ) -> Tensor:
        ctx.peers, ctx.sizes, ctx.dim, ctx.stage, ctx.same_loss = peers, sizes, dim, stage, same_loss
        outgoing = [part] * peers.size
        return torch.cat(_swapped(peers, outgoing, sizes, dim, f"the exchange before {stage}, forward"), dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        peers, dim = ctx.peers, ctx.dim
        theirs = list(grads[0].split(ctx.sizes, dim))
        mine = theirs[peers.index]
        if not ctx.same_loss:
            sizes = [ctx.sizes[peers.index]] * peers.size
            said = _swapped(peers, theirs, sizes, dim, f"the exchange before {ctx.stage}, backward")
            mine = said[0]
            for other in said[1:]:  # in the peers' order, so that the sum is the same in every run
                mine = mine + other
        return mine, None, None, None, None, None


class PartnerExchange(Exchange):
    """Moves activations between processes that have one tower each.

    Args:
        peers: as many as towers.
        device: of this process's.
    """

    def __init__(self, peers: PeerGroup, device: torch.device) -> None:
        self.shares = [Share(peers.index, device)]
        self.partners = peers.index, peers.size
        self._peers = peers

    def all_gather_channels(self, parts: TowerParts, channels: int, stage: str) -> TowerParts:
        """As `Exchange.all_gather_channels`; in the backward pass partners' gradients add up."""
        return [self._joined(parts[0], channels, stage, same_loss=False)]

    def merge(self, rows: Tensor) -> Tensor:
        """The rows (n, ...) of every partner, on each, in the partners' order."""
        what = "the exchange of decoded images"
        sizes = self._peers.counts(len(rows), what)
        shapes = [(size, *rows.shape[1:]) for size in sizes]
        return torch.cat(self._peers.swap([rows] * len(sizes), shapes, what))

    def gather_output(self, parts: TowerParts, channels: int, stage: str) -> Tensor:
        """As `Exchange.gather_output`, on every partner: all must go on to compute the same loss."""
        return self._joined(parts[0], channels, stage, same_loss=True)

    def channel_halo(self, parts: TowerParts, width: int, stage: str) -> list[tuple[Tensor, int]]:
        """As `Exchange.channel_halo`."""
        part, mine = parts[0], self._peers.index
        if not width:
            return [(part, 0)]
        edges = torch.cat([part[:, :width], part[:, -width:]], dim=1)
        every = self.all_gather_channels([edges], 2 * width * self._peers.size, stage)[0].split(2 * width, dim=1)
        before = every[mine - 1] if mine else None
        after = every[mine + 1] if mine + 1 < self._peers.size else None
        return [add_halo(before, part, after, width)]

    def _joined(self, part: Tensor, channels: int, stage: str, same_loss: bool) -> Tensor:
        sizes = part_sizes(channels, self._peers.size)
        out: Tensor = _Joined.apply(part, self._peers, sizes, 1, stage, same_loss)
        return out


class HybridExchange(Exchange):
    """Every process has all convolutions, for its rows of the batch, and a piece of each linear stage, for all rows.

    After Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (2014): the linear
    stages, which have nearly all weights and little to compute, never exchange gradients of weights.

    Args:
        peers: a multiple of the towers; the first of them have pieces of tower 0, and so on.
        device: of this process.
        towers: the architecture's number.
    """

    def __init__(self, peers: PeerGroup, device: torch.device, towers: int) -> None:
        self._peers, self._towers, self._pieces = peers, towers, peers.size // towers
        self._mine, piece = divmod(peers.index, self._pieces)
        self.shares = [
            Share(tower, device, piece if tower == self._mine else None, self._pieces) for tower in range(towers)
        ]

    def all_gather_rows(self, parts: TowerParts, first_row: int, stage: str) -> tuple[TowerParts, int]:
        """As `Exchange.all_gather_rows`: every rank computes all rows of the batch, in the ranks' order."""
        del first_row
        rows = self._peers.counts(len(parts[0]), f"the exchange before {stage}, forward")
        return [_Joined.apply(torch.cat(parts, dim=1), self._peers, rows, 0, stage, False)], 0

    def all_gather_channels(self, parts: TowerParts, channels: int, stage: str) -> TowerParts:
        """As `Exchange.all_gather_channels`; of a linear stage's pieces, the whole."""
        if parts[0].ndim == 4:
            return super().all_gather_channels(parts, channels, stage)
        return [self._whole(parts, channels, stage)]

    def keep_own_channels(self, parts: TowerParts, channels: int, stage: str) -> TowerParts:
        """As `Exchange.keep_own_channels`; of a linear stage's pieces, those of this process's tower."""
        if parts[0].ndim == 4:
            return parts
        return [self._whole(parts, channels, stage).split(part_sizes(channels, self._towers), dim=1)[self._mine]]

    def gather_output(self, parts: TowerParts, channels: int, stage: str) -> Tensor:
        """As `Exchange.gather_output`; of the last linear stage, on every process for all rows."""
        if parts[0].ndim == 4:
            return super().gather_output(parts, channels, stage)
        return self._whole(parts, channels, stage, same_loss=True)

    def _whole(self, parts: TowerParts, channels: int, stage: str, same_loss: bool = False) -> Tensor:
        """(N, channels) of this process's piece; or as it is, if it is whole, as it comes from `turn`."""
        if parts[0].shape[1] == channels:
            return parts[0]
        sizes = [size for tower in part_sizes(channels, self._towers) for size in part_sizes(tower, self._pieces)]
        out: Tensor = _Joined.apply(parts[0], self._peers, sizes, 1, stage, same_loss)
        return out
