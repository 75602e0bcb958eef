"""Devices of towers, from their names."""

import logging
from collections.abc import Sequence

import torch

from alexnet_torch.errors import UserError, describe_memory_error

logger = logging.getLogger(__name__)

Devices = str | torch.device | Sequence[str | torch.device]
"""One device for all towers, or a sequence of one for all, or of one for each."""


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
