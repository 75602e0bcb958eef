"""The exchange between towers: the only place that moves activations between devices."""

from dataclasses import dataclass

import torch
from torch import Tensor

from alexnet_torch.model.architecture import Conv, Linear

TowerTensors = list[Tensor]
"""One tensor for each shard of the process, on the device of that shard's parameters."""


@dataclass(frozen=True)
class Shard:
    """What a process has of a tower: all convolutions; all, one shard or none of each linear stage."""

    tower: int  # from 0
    index: int | None = 0  # of the shard, cut along the outputs; None without linear stages
    count: int = 1  # of shards


def shard_sizes(total: int, shards: int) -> list[int]:
    """Returns the sizes of shards of `total`, the first larger by one, as with torch.tensor_split."""
    return [total // shards + (shard < total % shards) for shard in range(shards)]


class Exchange:
    """Moves activations between the towers of one process: on one device by concatenation.

    A tensor is on its tower's device. In all methods `channels` counts those of all towers
    together, and `stage` is the stage that reads the result, for messages.
    """

    def __init__(self, towers: int) -> None:
        self.shards = [Shard(tower) for tower in range(towers)]  # in this process

    def stage_inputs(self, xs: TowerTensors, channels: int, stage: Conv | Linear) -> TowerTensors:
        """Gives each tower what a stage reads: all towers' channels, or its own; (N, C, ...)."""
        move = self.concat_towers if stage.reads_all_towers else self.keep_own_channels
        return move(xs, channels, stage.name)

    def concat_towers(self, xs: TowerTensors, channels: int, stage: str) -> TowerTensors:
        """Gives each tower the outputs of all towers, concatenated along channels."""
        if len(xs) == 1:
            return xs
        joined = {device: _concatenate(xs, device) for device in dict.fromkeys(x.device for x in xs)}
        return [joined[x.device] for x in xs]  # towers on one device use one copy

    def keep_own_channels(self, xs: TowerTensors, channels: int, stage: str) -> TowerTensors:
        return xs

    def all_gather_rows(self, xs: TowerTensors, first_row: int, stage: str) -> tuple[TowerTensors, int]:
        """Returns the rows (N, C) of the linear stages, and the first's position in the global batch."""
        return xs, first_row

    def gather_output(self, xs: TowerTensors, channels: int, stage: str) -> Tensor:
        """Concatenates all outputs along channels, on the first device."""
        return xs[0] if len(xs) == 1 else _concatenate(xs, xs[0].device)

    def channel_halo(self, xs: TowerTensors, width: int, stage: str) -> list[tuple[Tensor, int]]:
        """Adds to each tower's channels the nearest `width` of the towers before and after it.

        Returns for each, for normalisation across towers, (N, before + C + after, H, W) and `before`.
        """
        before, after = [None, *xs[:-1]], [*xs[1:], None]
        return [add_halo(*neighbours, width) for neighbours in zip(before, xs, after, strict=True)]


def add_halo(before: Tensor | None, x: Tensor, after: Tensor | None, width: int) -> tuple[Tensor, int]:
    """Returns x between its neighbours' nearest `width` channels, and how many come before it."""
    left = [before[:, -width:]] if before is not None and width else []
    right = [after[:, :width]] if after is not None and width else []
    return _concatenate([*left, x, *right], x.device), sum(channels.shape[1] for channels in left)


def _concatenate(xs: TowerTensors, device: torch.device) -> Tensor:
    return torch.cat([copied_to(device, x) for x in xs], dim=1)


def copied_to(device: torch.device, x: Tensor) -> Tensor:
    return x.to(device, non_blocking=device.type != "cpu")
