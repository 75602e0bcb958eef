"""Devices of towers, from their names."""

from collections.abc import Sequence

import torch

from alexnet_torch.errors import UserError


def tower_devices(devices: Sequence[str | torch.device] | None, towers: int) -> list[torch.device]:
    """Returns one device for each tower; does not check that this machine has it.

    Args:
        devices: one device for all towers, or one for each; None for the CPU.
        towers: the architecture's number of towers.

    Raises:
        UserError: the number of devices does not fit the towers, or a name is not that of a device.
    """
    parsed = [_device(device) for device in devices] if devices else [torch.device("cpu")]
    if len(parsed) not in (1, towers):
        raise UserError(f"--devices: {len(parsed)} devices for {towers} tower(s); name one device, or one for each")
    return parsed if len(parsed) == towers else parsed * towers


def checked_devices(names: Sequence[str], towers: int) -> list[torch.device]:
    """As `tower_devices`; checks that this machine has the devices, and that they are supported.

    Raises:
        UserError: as `tower_devices`, or a device is missing on this machine or not supported.
    """
    devices, gpus = tower_devices(names, towers), torch.cuda.device_count()
    for device in devices:
        if device.type == "cuda" and (device.index or 0) >= gpus:
            raise UserError(f"--devices {device}: this machine shows {gpus} GPU(s); name one of them, or cpu")
        if device.type not in ("cpu", "cuda"):
            raise UserError(f"--devices {device}: only cpu and cuda devices are supported; name one of these")
    return devices


def devices_or_default(names: Sequence[str] | None, towers: int) -> list[torch.device]:
    """As `checked_devices`; without names, the first GPU for all towers, or the CPU where there is no GPU."""
    if names:
        return checked_devices(names, towers)
    return [torch.device("cuda", 0) if torch.cuda.device_count() else torch.device("cpu")] * towers


def _device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--devices: {name!r} is not a device; try cpu, cuda:0 or cuda:0,cuda:1") from error
    return torch.device("cuda", 0) if device == torch.device("cuda") else device
