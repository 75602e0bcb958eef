"""The exchange between towers: the only place that moves activations between devices."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alexnet_torch.model.architecture import Conv, Linear

TowerParts = list[Tensor]
"""One tensor for each share of the process, on the device of that share's parameters."""


@dataclass(frozen=True)
class Share:
    """The part of a tower that a process holds: all its convolutions; all, one piece or none of its linear stages.

    Attributes:
        tower: the tower's index, from 0.
        piece: the index of the piece of each linear stage, cut along its outputs; None without linear stages.
        pieces: the number of pieces; `part_sizes` gives their sizes.
    """

    tower: int
    piece: int | None = 0
    pieces: int = 1


def part_sizes(total: int, parts: int) -> list[int]:
    """Returns the sizes of `parts` parts of `total`; the first ones are larger by one, as with torch.tensor_split."""
    return [total // parts + (part < total % parts) for part in range(parts)]


class Exchange:
    """Moves activations between the towers of one process.

    Args:
        towers: the architecture's number of towers.

    Attributes:
        shares: the parts of towers in this process.

    An exchange remembers no device: a part is on its tower's device, which is that of the tower's parameters. With
    all towers on one device every move is a concatenation.
    """

    def __init__(self, towers: int) -> None:
        self.shares = [Share(tower) for tower in range(towers)]

    def scatter(self, images: Tensor, devices: Sequence[torch.device]) -> TowerParts:
        """Copies the images (N, 3, H, W) to the device of every share."""
        return [copied_to(device, images) for device in devices]

    def stage_inputs(self, parts: TowerParts, channels: int, stage: Conv | Linear) -> TowerParts:
        """Gives each tower what a stage reads: all towers' channels, or only its own. Arguments as below."""
        if stage.meet:
            return self.all_gather_channels(parts, channels, stage.name)
        return self.keep_own_channels(parts, channels, stage.name)

    def all_gather_channels(self, parts: TowerParts, channels: int, stage: str) -> TowerParts:
        """Gives each tower the parts of all towers, concatenated along channels.

        Args:
            parts: outputs of the stage before, (N, C, H, W) or (N, C) each.
            channels: the channels of all towers together.
            stage: the stage that reads them, for messages.
        """
        del channels, stage
        if len(parts) == 1:
            return parts
        joined: dict[torch.device, Tensor] = {}  # towers on one device use one copy
        for device in (part.device for part in parts):
            if device not in joined:
                joined[device] = _concatenate(parts, device)
        return [joined[part.device] for part in parts]

    def keep_own_channels(self, parts: TowerParts, channels: int, stage: str) -> TowerParts:
        """Gives each tower its own output, for a stage that reads no other tower. Arguments as above."""
        del channels, stage
        return parts

    def all_gather_rows(self, parts: TowerParts, first_row: int, stage: str) -> tuple[TowerParts, int]:
        """Gives the linear stages the rows of the batch that they compute.

        Args:
            parts: flattened maps (N, C) each.
            first_row: the position of their first row in the global batch.
            stage: the stage that reads them, for messages.

        Returns:
            the inputs of the first linear stage, and the position of their first row.
        """
        del stage
        return parts, first_row

    def gather_output(self, parts: TowerParts, channels: int, stage: str) -> Tensor:
        """Concatenates all parts along channels, on the first device. Arguments as for `all_gather_channels`."""
        del channels, stage
        return parts[0] if len(parts) == 1 else _concatenate(parts, parts[0].device)

    def channel_halo(self, parts: TowerParts, width: int, stage: str) -> list[tuple[Tensor, int]]:
        """Adds to each tower's channels the nearest `width` channels of the towers before and after it.

        Normalisation across towers needs them: its window reaches past a tower's last channel.

        Returns:
            for each tower, (N, before + C + after, H, W), and `before`.
        """
        del stage
        before, after = [None, *parts[:-1]], [*parts[1:], None]
        return [add_halo(*neighbours, width) for neighbours in zip(before, parts, after, strict=True)]


def add_halo(before: Tensor | None, part: Tensor, after: Tensor | None, width: int) -> tuple[Tensor, int]:
    """Returns a part between the nearest `width` channels of its neighbours, and how many come before it."""
    left = [before[:, -width:]] if before is not None and width else []
    right = [after[:, :width]] if after is not None and width else []
    return _concatenate([*left, part, *right], part.device), sum(channels.shape[1] for channels in left)


def _concatenate(parts: TowerParts, device: torch.device) -> Tensor:
    return torch.cat([copied_to(device, part) for part in parts], dim=1)


def copied_to(device: torch.device, x: Tensor) -> Tensor:
    """Returns a tensor on a device; the CPU waits only for a copy to itself, which it would else read unfinished."""
    return x.to(device, non_blocking=device.type != "cpu")
