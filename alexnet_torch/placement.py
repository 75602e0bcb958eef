"""Where towers live: devices, and the exchange between them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from alexnet_torch.errors import UserError

TowerParts = list[Tensor]
"""One tensor a tower, each on its tower's device."""


class Exchange:
    """Moves activations between the towers of one process; the only place where devices meet.

    Args:
        devices: one for each tower, the first of which takes images and returns logits; the same
            device twice makes every move a concatenation.
    """

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self.devices = list(devices)

    def scatter(self, images: Tensor) -> TowerParts:
        """Gives all towers the images (N, 3, H, W): each sees the whole of them."""
        return [images.to(device, non_blocking=True) for device in self.devices]

    def join(self, parts: TowerParts) -> TowerParts:
        """Gives each tower the parts of all, concatenated along channels."""
        if len(parts) == 1:
            return parts
        joined: dict[torch.device, Tensor] = {}  # towers on one device share one copy
        for device in self.devices:
            if device not in joined:
                joined[device] = self._cat(parts, device)
        return [joined[device] for device in self.devices]

    def gather(self, parts: TowerParts) -> Tensor:
        """All parts concatenated along channels, on the first device."""
        return parts[0] if len(parts) == 1 else self._cat(parts, self.devices[0])

    def halo(self, parts: TowerParts, width: int) -> list[tuple[Tensor, int]]:
        """Gives each tower the nearest `width` channels of its neighbours, around its own.

        What normalisation across towers needs: a window that reaches past the tower's last channel.

        Returns:
            for each tower, (N, before + C + after, H, W), and `before`.
        """
        widened = []
        for tower, part in enumerate(parts):
            device = self.devices[tower]
            before = [p[:, -width:] for p in parts[max(tower - 1, 0) : tower] if width]
            after = [p[:, :width] for p in parts[tower + 1 : tower + 2] if width]
            pieces = [*before, part, *after]
            widened.append((self._cat(pieces, device), sum(p.shape[1] for p in before)))
        return widened

    @staticmethod
    def _cat(parts: TowerParts, device: torch.device) -> Tensor:
        return torch.cat([part.to(device, non_blocking=True) for part in parts], dim=1)


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


def choose_devices(named: Sequence[str] | None, towers: int, split: str) -> tuple[list[torch.device], str]:
    """The devices of a run and, in words, why these.

    Args:
        named: what `--devices` named, or None to choose.
        towers: the architecture's number.
        split: `--split`: "none" keeps all towers on one device, "devices" wants one for each,
            "auto" uses one for each where that many GPUs are visible.

    Raises:
        UserError: the machine lacks a device that was named, or `split` and `devices` disagree.
    """
    gpus = torch.cuda.device_count()
    if named:
        devices = tower_devices(named, towers)
        for device in devices:
            if device.type == "cuda" and (device.index or 0) >= gpus:
                raise UserError(f"--devices {device}: this machine shows {gpus} GPU(s); name one of them, or cpu")
            if device.type not in ("cpu", "cuda"):
                raise UserError(f"--devices {device}: only cpu and cuda devices are supported")
        why = "as named"
    elif gpus >= towers > 1 and split != "none":
        devices, why = [torch.device("cuda", i) for i in range(towers)], f"{gpus} GPUs are visible"
    elif gpus and split != "devices":
        devices, why = [torch.device("cuda", 0)] * towers, f"{gpus} GPU(s) visible, --split {split}"
    else:
        devices, why = [torch.device("cpu")] * towers, "no GPU is visible"
    distinct = len(set(devices))
    if split == "devices" and distinct != towers:
        raise UserError(f"--split devices: needs {towers} devices for {towers} towers; name them with --devices")
    if split == "none" and distinct > 1:
        raise UserError(f"--split none: keeps the towers together, but --devices names {distinct} devices")
    return devices, why
