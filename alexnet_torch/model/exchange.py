"""Devices of towers, and the exchange between them: the only place that moves activations between devices."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alexnet_torch.errors import UserError, describe_memory_error
from alexnet_torch.model.architecture import Conv, Linear

logger = logging.getLogger(__name__)

Devices = str | torch.device | Sequence[str | torch.device]
"""One device for all towers, or a sequence of one for all, or of one for each."""
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


def tower_devices(devices: Devices | None, towers: int) -> list[torch.device]:
    """Returns one device for each tower, which the machine may lack; torch's default for None."""
    if devices is None:
        devices = torch.get_default_device()
    parsed = [_device(device) for device in ([devices] if isinstance(devices, str | torch.device) else devices)]
    if len(parsed) not in (1, towers):
        raise ValueError(f"devices: {len(parsed)} devices for {towers} tower(s); name one device, or one for each")
    return parsed if len(parsed) == towers else parsed * towers


def _device(name: object) -> torch.device:
    if not isinstance(name, str | torch.device):
        raise TypeError(f"devices: {name!r} is neither the name of a device nor a torch.device")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"devices: {name!r} is not a device; try cpu, cuda:0 or cuda:0,cuda:1") from error
    return torch.device("cuda", 0) if device == torch.device("cuda") else device


def checked_devices(names: Sequence[str], towers: int) -> list[torch.device]:
    """As `tower_devices`, for `--devices`; UserError also if this machine lacks a device."""
    try:
        devices = tower_devices(names, towers)
    except ValueError as error:
        raise UserError(f"--{error}") from error
    gpus = torch.cuda.device_count()
    for device in devices:
        if device.type == "cuda" and (device.index or 0) >= gpus:
            raise UserError(f"--devices {device}: this machine shows {gpus} GPU(s); name one, or cpu")
        if device.type not in ("cpu", "cuda"):
            raise UserError(f"--devices {device}: only cpu and cuda devices are supported; name one")
    return devices


def devices_or_default(names: Sequence[str] | None, towers: int) -> list[torch.device]:
    if names:
        return working(checked_devices(names, towers), required=True)
    return working([torch.device("cuda", 0) if torch.cuda.device_count() else torch.device("cpu")] * towers)


def working(devices: list[torch.device], required: bool = False) -> list[torch.device]:
    """Returns the devices; if a GPU, perhaps too old, does not compute, CPUs, with a line; an error if `required`."""
    try:
        for device in dict.fromkeys(devices):
            torch.ones(1, device=device).add_(1).item()
    except RuntimeError as error:
        if describe_memory_error(error):  # it computes, but other programs fill it
            raise
        reason, built = str(error).partition("\n")[0], f"{torch.__version__}, built for CUDA {torch.version.cuda}"
        if required:
            raise UserError(f"{device}: torch {built}, cannot compute on it ({reason}); use --devices cpu") from error
        logger.warning("no GPU is used: torch %s, cannot (%s)", built, reason)
        return [torch.device("cpu")] * len(devices)
    return devices
