"""Devices by name."""

from collections.abc import Sequence

import torch

from alexnet_torch.errors import UserError


def tower_devices(devices: Sequence[str | torch.device] | None, towers: int) -> list[torch.device]:
    """One device for each tower, from what the user named.

    Args:
        devices: None for the CPU; one device for all towers, or one for each.
        towers: the architecture's number.

    Raises:
        UserError: another number of devices, or one that this machine lacks.
    """
    named = [_device(d) for d in devices] if devices else [torch.device("cpu")]
    if len(named) == 1:
        return named * towers
    if len(named) != towers:
        raise UserError(f"--devices: {towers} tower(s) go on 1 device or {towers}, not on {len(named)}")
    return named


def _device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--devices: {name!r} is no device; try cpu, cuda:0 or cuda:0,cuda:1") from error
    return torch.device("cuda", 0) if device == torch.device("cuda") else device


def named_devices(named: Sequence[str], towers: int) -> list[torch.device]:
    """One device for each tower, from names that a user gave on a command line.

    Raises:
        UserError: another number of devices than the towers need, or one that this machine lacks.
    """
    devices, gpus = tower_devices(named, towers), torch.cuda.device_count()
    for device in devices:
        if device.type == "cuda" and (device.index or 0) >= gpus:
            raise UserError(f"--devices {device}: this machine shows {gpus} GPU(s); name one of them, or cpu")
        if device.type not in ("cpu", "cuda"):
            raise UserError(f"--devices {device}: only cpu and cuda devices are supported")
    return devices


def one_device(named: Sequence[str] | None, towers: int) -> list[torch.device]:
    """The named devices; without names the first GPU, or the CPU where there is none, for all towers."""
    if named:
        return named_devices(named, towers)
    return [torch.device("cuda", 0) if torch.cuda.device_count() else torch.device("cpu")] * towers
