"""Chooses the placement and the devices of a run."""

from collections.abc import Sequence

import torch

from alexnet_torch.distributed.placement import Placement, all_towers, hybrid, tower_ranks
from alexnet_torch.distributed.world import SINGLE_PROCESS, World
from alexnet_torch.errors import UserError
from alexnet_torch.model.devices import checked_devices


def choose_placement(named: Sequence[str] | None, towers: int, split: str, world: World) -> Placement:
    """Returns the placement of a run, seen from this rank.

    Args:
        named: the devices of `--devices`, or None to choose them.
        towers: the architecture's number of towers.
        split: the value of `--split`.

    Raises:
        UserError: the number of processes does not fit `split`, or the machine lacks a device.
    """
    if split in ("ranks", "hybrid"):
        _check_size(towers, split, world)
    if named and world.local_size > 1 and any(name != "cpu" for name in named):
        raise UserError(
            f"--devices {','.join(named)}: {world.local_size} processes of this machine would all use it; leave the "
            "option out, so that each takes the GPUs of its rank, or use --devices cpu"
        )
    if split not in ("ranks", "hybrid"):
        devices, reason = choose_devices(named, towers, split, world)
        if world.size > 1 and len({device.type for device in devices}) > 1:  # DistributedDataParallel refuses them
            raise UserError(
                f"--devices {','.join(map(str, devices))}: processes that add up gradients need devices of one kind; "
                f"name {devices[0]} alone, or start one process"
            )
        return all_towers(devices, world, reason)
    if named and len(named) > 1:
        raise UserError(f"--devices {','.join(named)}: with --split {split} a process uses one device; name only one")
    (device,), reason = choose_devices(named, 1, split, world)
    return (tower_ranks if split == "ranks" else hybrid)(device, world, towers, reason)


def _check_size(towers: int, split: str, world: World) -> None:
    """Refuses numbers of processes that do not fit towers in several processes."""
    if split == "ranks" and towers == 1:
        raise UserError("--split ranks: this architecture has only one tower; use --split none")
    if world.size == 1:
        raise UserError(
            f"--split {split}: needs several processes, not one; start torchrun --nproc_per_node=N train.py, with N "
            f"{max(2, towers)} or more, or choose another --split"
        )
    if world.size % towers:
        raise UserError(
            f"--split {split}: {world.size} processes are not a multiple of {towers} towers; start {towers}, "
            f"{2 * towers}, {3 * towers}, ... processes"
        )


def choose_devices(
    named: Sequence[str] | None, towers: int, split: str, world: World = SINGLE_PROCESS
) -> tuple[list[torch.device], str]:
    """Returns the devices of the towers in one process, and why they were chosen.

    With `--split none` all towers are on one device, with "devices" one on each, with "auto" one on each if this
    process has as many GPUs: the processes of a machine divide them. Arguments as for `choose_placement`.

    Raises:
        UserError: the machine lacks a named device, or `split` and the number of devices do not fit.
    """
    gpus, processes, rank = torch.cuda.device_count(), world.local_size, world.local_rank
    per_process = f", {gpus // processes} for each process" if processes > 1 else ""
    if named:
        devices, reason = checked_devices(named, towers), "named by --devices"
    elif gpus // processes >= towers > 1 and split != "none":
        devices = [torch.device("cuda", rank * towers + i) for i in range(towers)]
        reason = f"{gpus} GPUs are visible{per_process}"
    elif gpus and split != "devices":
        if gpus < processes:
            raise UserError(
                f"torchrun: {processes} processes on this machine, but only {gpus} GPU(s) are visible; use "
                f"--nproc_per_node={gpus}, or --devices cpu"
            )
        devices, reason = [torch.device("cuda", rank)] * towers, f"{gpus} GPU(s) visible{per_process}, --split {split}"
    else:
        devices, reason = [torch.device("cpu")] * towers, "no GPU is visible"
    count = len(set(devices))
    if split == "devices" and count != towers:
        raise UserError(f"--split devices: needs {towers} devices for {towers} towers, not {count}; see --devices")
    if split == "none" and count > 1:
        raise UserError(f"--split none: puts all towers on one device, but --devices names {count}; name one")
    return devices, reason
