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
