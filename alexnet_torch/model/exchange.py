"""The exchange between towers: the only place where devices, and processes, meet."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TowerParts = list[Tensor]
"""One tensor for each share of the process, on its share's device."""


@dataclass(frozen=True)
class Share:
    """What a process holds of a tower: its convolutions, and all, one piece or nothing of its linear stages.

    Attributes:
        tower: which, from 0.
        device: where.
        piece: of the `pieces` in which each linear stage is cut along its outputs; None for nothing.
        pieces: in how many, as `split` divides.
    """

    tower: int
    device: torch.device
    piece: int | None = 0
    pieces: int = 1


def split(total: int, parts: int) -> list[int]:
    """Sizes of parts of a whole, the first ones larger by one where it does not divide; as torch.tensor_split."""
    return [total // parts + (part < total % parts) for part in range(parts)]


class Exchange:
    """Moves activations between the towers of one process.

    Args:
        devices: one for each tower, the first of which takes images and returns logits; the same
            device twice makes every move a concatenation.

    Attributes:
        shares: what of the towers is in this process.
        whole_batch: whether linear stages see the rows of all processes.
    """

    whole_batch = False

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self.shares = [Share(tower, device) for tower, device in enumerate(devices)]

    @property
    def devices(self) -> list[torch.device]:
        """Of each share."""
        return [share.device for share in self.shares]

    def scatter(self, images: Tensor) -> TowerParts:
        """Gives all towers the images (N, 3, H, W): each sees the whole of them."""
        return [images.to(device, non_blocking=True) for device in self.devices]

    def all_gather_channels(self, parts: TowerParts, channels: int, stage: str) -> TowerParts:
        """Gives each tower the parts of all, concatenated along channels.

        Args:
            parts: (N, C, H, W) or (N, C) each.
            channels: of all towers together.
            stage: that reads them, for messages.
        """
        del channels, stage
        if len(parts) == 1:
            return parts
        joined: dict[torch.device, Tensor] = {}  # towers on one device share one copy
        for device in self.devices:
            if device not in joined:
                joined[device] = _cat(parts, device)
        return [joined[device] for device in self.devices]

    def keep_own_channels(self, parts: TowerParts, channels: int, stage: str) -> TowerParts:
        """Gives each tower what it put out itself: `join` for a stage that reads its own tower alone."""
        del channels, stage
        return parts

    def all_gather_rows(self, parts: TowerParts, stage: str) -> TowerParts:
        """Takes the flattened maps (N, C) of the towers from the convolutions to the linear stages."""
        del stage
        return parts

    def gather_output(self, parts: TowerParts, channels: int, stage: str) -> Tensor:
        """All parts concatenated along channels, on the first device. Arguments as for `join`."""
        del channels, stage
        return parts[0] if len(parts) == 1 else _cat(parts, self.devices[0])

    def channel_halo(self, parts: TowerParts, width: int, stage: str) -> list[tuple[Tensor, int]]:
        """Gives each tower the nearest `width` channels of its neighbours, around its own.

        What normalisation across towers needs: a window that reaches past the tower's last channel.

        Returns:
            for each tower, (N, before + C + after, H, W), and `before`.
        """
        del stage
        return [
            _widened(parts[tower - 1] if tower else None, part, parts[tower + 1] if parts[tower + 1 :] else None, width)
            for tower, part in enumerate(parts)
        ]


def _cat(parts: TowerParts, device: torch.device) -> Tensor:
    return torch.cat([part.to(device, non_blocking=True) for part in parts], dim=1)


def _widened(before: Tensor | None, part: Tensor, after: Tensor | None, width: int) -> tuple[Tensor, int]:
    """A part between the nearest channels of its neighbours, and how many come before it."""
    left = [before[:, -width:]] if before is not None and width else []
    right = [after[:, :width]] if after is not None and width else []
    return _cat([*left, part, *right], part.device), sum(p.shape[1] for p in left)
