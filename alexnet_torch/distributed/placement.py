"""Where the towers of a run live: which devices, in which processes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from alexnet_torch.distributed.world import SINGLE_PROCESS, World
from alexnet_torch.errors import UserError
from alexnet_torch.model.devices import checked_devices


@dataclass(frozen=True)
class Placement:
    """What of the network this process has, and which rows of each batch.

    Attributes:
        split: "none": all towers on one device of the process; "devices": on one each; "ranks": one in each of
            as many processes; "hybrid": all convolutions in every process, and a piece of each linear stage.
        devices: of the towers of this process.
        world: the processes.
        towers: the architecture's number.
        why: in words, this one.
    """

    split: str
    devices: list[torch.device]
    world: World
    towers: int
    why: str

    @property
    def slices(self) -> tuple[int, int]:
        """Which slice of each batch is this process's, and of how many: tower ranks share one."""
        rank, size = self.world.rank, self.world.size
        return (rank // self.towers, size // self.towers) if self.split == "ranks" else (rank, size)

    @property
    def scores_all_rows(self) -> bool:
        """Whether this rank computes the logits of all rows of a batch, not only of its slice."""
        return self.split == "hybrid"

    def describe(self) -> str:
        """In a line, with what it is chosen for."""
        where = ", ".join(map(str, dict.fromkeys(self.devices)))
        count, (_, slices) = self.world.size, self.slices
        if count == 1:
            return f"{self.towers} tower(s) on {where} ({self.why})"
        what = {
            "none": "all towers in each",
            "devices": f"{self.towers} towers on {where} in each",
            "ranks": "one tower in each",
            "hybrid": "all convolutions and a piece of each linear stage in each",
        }[self.split]
        return f"{count} processes, {what}, {slices} slice(s) of each batch ({self.why})"

    def name(self, rank: int) -> str:
        """A rank with what it has, for messages."""
        if self.split == "ranks":
            return f"rank {rank} (tower {rank % self.towers}, batch slice {rank // self.towers})"
        return f"rank {rank} (batch slice {rank})"


def place(named: Sequence[str] | None, towers: int, split: str, world: World) -> Placement:
    """The placement of a run.

    Args:
        named: what `--devices` named, or None to choose.
        towers: the architecture's number.
        split: `--split`.
        world: the processes.

    Raises:
        UserError: the processes do not fit the split, or the machine lacks a device.
    """
    _check_size(towers, split, world)
    if named and world.local_size > 1 and any(name != "cpu" for name in named):
        raise UserError(
            f"--devices {','.join(named)}: {world.local_size} processes of this machine would share it; leave it "
            "out, and each takes the GPUs of its rank, or name cpu"
        )
    if split in ("ranks", "hybrid"):
        device, why = _one_device(named, world, split)
        return Placement(split, [device] * (1 if split == "ranks" else towers), world, towers, why)
    devices, why = choose_devices(named, towers, split, world)
    apart = "devices" if len(set(devices)) > 1 else "none"
    return Placement(apart, devices, world, towers, why)


def _check_size(towers: int, split: str, world: World) -> None:
    if split not in ("ranks", "hybrid"):
        return
    launch = "torchrun --nproc_per_node=N"
    if split == "ranks" and towers == 1:
        raise UserError("--split ranks: this architecture has one tower, which one process holds; use --split none")
    if world.size == 1:
        least = max(2, towers)
        raise UserError(
            f"--split {split}: takes several processes, not one; start it by {launch}, N {least} or more, or name "
            "another --split"
        )
    if world.size % towers:
        fitting = f"{towers}, {2 * towers}, {3 * towers}, ..."
        raise UserError(
            f"--split {split}: {world.size} processes do not divide among {towers} towers; start {fitting} of them"
        )


def _one_device(named: Sequence[str] | None, world: World, split: str) -> tuple[torch.device, str]:
    """This process's device, and why."""
    gpus = torch.cuda.device_count()
    if named:
        if len(named) > 1:
            raise UserError(f"--devices {','.join(named)}: with --split {split} a process has one device; name one")
        devices, why = choose_devices(named, 1, "none", world)
        return devices[0], why
    if not gpus:
        return torch.device("cpu"), f"--split {split}, no GPU is visible"
    _require_gpus(gpus, world)
    return torch.device("cuda", world.local_rank), f"--split {split}, {gpus} GPU(s) visible"


def _require_gpus(gpus: int, world: World) -> None:
    if gpus < world.local_size:
        raise UserError(
            f"torchrun: {world.local_size} processes on this machine, which shows {gpus} GPU(s); start "
            f"--nproc_per_node={gpus}, or name --devices cpu"
        )


def choose_devices(
    named: Sequence[str] | None, towers: int, split: str, world: World = SINGLE_PROCESS
) -> tuple[list[torch.device], str]:
    """The devices of a process that has all towers and, in words, why these.

    Args:
        named: what `--devices` named, or None to choose.
        towers: the architecture's number.
        split: `--split`: "none" keeps all towers on one device, "devices" wants one for each,
            "auto" uses one for each where this process has that many GPUs to itself.
        world: the processes; those of a machine share its GPUs.

    Raises:
        UserError: the machine lacks a device that was named, or `split` and `devices` disagree.
    """
    gpus = torch.cuda.device_count()
    own, first = gpus // world.local_size, world.local_rank
    each = f", {own} a process" if world.local_size > 1 else ""
    if named:
        devices, why = checked_devices(named, towers), "as named"
    elif own >= towers > 1 and split != "none":
        devices = [torch.device("cuda", first * towers + i) for i in range(towers)]
        why = f"{gpus} GPUs are visible{each}"
    elif gpus and split != "devices":
        _require_gpus(gpus, world)
        devices, why = [torch.device("cuda", first)] * towers, f"{gpus} GPU(s) visible{each}, --split {split}"
    else:
        devices, why = [torch.device("cpu")] * towers, "no GPU is visible"
    distinct = len(set(devices))
    if split == "devices" and distinct != towers:
        raise UserError(f"--split devices: needs {towers} devices for {towers} towers; name them with --devices")
    if split == "none" and distinct > 1:
        raise UserError(f"--split none: keeps the towers together, but --devices names {distinct} devices")
    return devices, why
