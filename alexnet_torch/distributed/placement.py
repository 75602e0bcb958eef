"""Placements: what of the network a rank has, loads, scores, adds up and saves; and their choice."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from alexnet_torch.distributed.exchanges import HybridExchange, PartnerExchange, PeerGroup
from alexnet_torch.distributed.world import SINGLE_PROCESS, World
from alexnet_torch.errors import UserError
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.exchange import Exchange, checked_devices, working
from alexnet_torch.model.tower import stage_of


@dataclass(frozen=True)
class Placement:
    """Where the towers of a run live, seen from one of its ranks."""

    split: str  # its name, a value of `--split`
    devices: list[torch.device]  # of this rank's towers
    world: World
    towers: int  # the architecture's number of towers
    reason: str  # why it was chosen, for the user
    each_holds: str  # what each rank holds, for the user
    networks: list[range]  # the ranks of each network, in the order of its towers or shards
    gradient_groups: list[range]  # the ranks that add up their gradients and losses
    slice_of_rank: list[int]  # which slice of each batch a rank loads
    # makes the exchange with a network's other ranks; unused where each has all towers
    exchange_with: Callable[[PeerGroup], Exchange] | None = None
    # whether a rank has a shard of each linear stage, and computes the logits of all rows of a batch
    shards_linear_stages: bool = False

    @property
    def slices(self) -> tuple[int, int]:
        return self.slice_of_rank[self.world.rank], max(self.slice_of_rank) + 1

    @property
    def partners(self) -> tuple[int, int]:
        """This rank's index among those of its network that load its slice, and their number."""
        ranks = [r for r in self.network_of(self.world.rank) if self.slice_of_rank[r] == self.slices[0]]
        return ranks.index(self.world.rank), len(ranks)

    def summed_parameters(self, net: AlexNet) -> set[str]:
        """Returns the names of the parameters that a whole gradient group holds: no shards."""
        convs = {conv.name for conv in net.architecture.convs}
        return {n for n, _ in net.named_parameters() if stage_of(n) in convs or not self.shards_linear_stages}

    def saved_parameters(self, net: AlexNet) -> set[str]:
        names = {name for name, _ in net.named_parameters()}
        return names - self.summed_parameters(net) if self.shards_linear_stages and not self.world.is_main else names

    @property
    def shard_ranks(self) -> range:
        """The ranks that together hold and save every parameter, the main rank first."""
        return self.network_of(0)

    def network_of(self, rank: int) -> range:
        return next(ranks for ranks in self.networks if rank in ranks)

    def exchange(self, peers: PeerGroup | None) -> Exchange:
        return self.exchange_with(peers) if self.exchange_with and peers else Exchange(self.towers)

    @property
    def divides_network(self) -> bool:
        """Whether ranks exchange activations, which --compile and --precision fp16 exclude."""
        return self.exchange_with is not None

    def describe(self) -> str:
        if self.world.size == 1:
            return f"{self.towers} tower(s) on {_names(self.devices)} ({self.reason})"
        slices = f"{self.slices[1]} slice(s) of each batch ({self.reason})"
        return f"{self.world.size} processes, {self.each_holds} in each, {slices}"

    def describe_rank(self, rank: int) -> str:
        tower = f"tower {self.network_of(rank).index(rank)}, " if len(self.devices) < self.towers else ""
        return f"rank {rank} ({tower}batch slice {self.slice_of_rank[rank]})"


def all_towers(devices: list[torch.device], world: World, reason: str) -> Placement:
    ranks, split, holds = range(world.size), "none", "all towers"
    if len(set(devices)) > 1:
        split, holds = "devices", f"{len(devices)} towers on {_names(devices)}"
    networks = [ranks[rank : rank + 1] for rank in ranks]
    return Placement(split, devices, world, len(devices), reason, holds, networks, [ranks], list(ranks))


def tower_ranks(device: torch.device, world: World, towers: int, reason: str) -> Placement:
    """Returns the placement with one tower a rank; consecutive ranks share a network and a slice."""
    ranks, holds = range(world.size), "one tower"
    networks = [ranks[first : first + towers] for first in ranks[::towers]]
    same_tower = [ranks[tower::towers] for tower in range(towers)]
    slices = [rank // towers for rank in ranks]
    return Placement("ranks", [device], world, towers, reason, holds, networks, same_tower, slices, PartnerExchange)


def hybrid(device: torch.device, world: World, towers: int, reason: str) -> Placement:
    ranks, holds = range(world.size), "all convolutions and a shard of each linear stage"
    own = "hybrid", [device] * towers, world, towers, reason, holds
    return Placement(*own, [ranks], [ranks], list(ranks), partial(HybridExchange, towers=towers), True)


def _names(devices: list[torch.device]) -> str:
    return ", ".join(map(str, dict.fromkeys(devices)))


def choose_placement(named: Sequence[str] | None, towers: int, split: str, world: World) -> Placement:
    shown, divided, wrong = f"--devices {','.join(named or ())}", split in ("ranks", "hybrid"), ""
    if split == "ranks" and towers == 1:
        wrong = "--split ranks: this architecture has only one tower; use --split none"
    elif divided and world.size == 1:
        fix = f"start torchrun --nproc_per_node=N train.py, with N {max(2, towers)} or more"
        wrong = f"--split {split}: needs several processes, not one; {fix}, or choose another --split"
    elif divided and world.size % towers:
        fix = f"start {towers}, {2 * towers}, {3 * towers}, ... processes"
        wrong = f"--split {split}: {world.size} processes are not a multiple of {towers} towers; {fix}"
    elif named and world.local_size > 1 and any(name != "cpu" for name in named):
        shared = f"{world.local_size} processes of this machine would all use it"
        wrong = f"{shown}: {shared}; leave it out, so that each takes its own GPUs, or use --devices cpu"
    elif divided and named and len(named) > 1:
        wrong = f"{shown}: with --split {split} a process uses one device; name only one"
    if wrong:
        raise UserError(wrong)
    devices, reason = choose_devices(named, 1 if divided else towers, split, world)
    if divided:
        return (tower_ranks if split == "ranks" else hybrid)(devices[0], world, towers, reason)
    if world.size > 1 and len({device.type for device in devices}) > 1:  # DistributedDataParallel refuses them
        fix = f"name {devices[0]} alone, or start one process"
        raise UserError(f"{shown}: processes that add up gradients need devices of one kind; {fix}")
    return all_towers(devices, world, reason)


def choose_devices(
    named: Sequence[str] | None, towers: int, split: str, world: World = SINGLE_PROCESS
) -> tuple[list[torch.device], str]:
    """Returns the devices of a process's towers, and why they were chosen; a machine's processes divide its GPUs."""
    gpus, processes, rank = torch.cuda.device_count(), world.local_size, world.local_rank
    # each process sees a GPU of its own
    if gpus == 1 and ("SLURM_GPUS_PER_TASK" in os.environ or os.environ.get("CUDA_VISIBLE_DEVICES") == str(rank)):
        processes, rank = 1, 0
    per_process = f", {gpus // processes} for each process" if processes > 1 else ""
    in_all = world.size > 1  # one rank on a CPU would wait for the others' GPUs for ever
    if named:
        devices, reason = working(checked_devices(named, towers), required=True), "named by --devices"
    elif gpus // processes >= towers > 1 and split != "none":
        devices = working([torch.device("cuda", rank * towers + i) for i in range(towers)], in_all)
        reason = f"{gpus} GPUs are visible{per_process}"
    elif gpus and split != "devices":
        if gpus < processes:
            found = f"{processes} processes on this machine, but only {gpus} GPU(s) are visible"
            raise UserError(f"torchrun: {found}; use --nproc_per_node={gpus}, or --devices cpu")
        devices = working([torch.device("cuda", rank)] * towers, in_all)
        reason = f"{gpus} GPU(s) visible{per_process}, --split {split}"
    else:
        devices, reason = [torch.device("cpu")] * towers, "no GPU is visible"
    if gpus and not named and devices[0].type == "cpu":
        reason = "no visible GPU computes"
    count = len(set(devices))
    if split == "devices" and count != towers:
        raise UserError(f"--split devices: needs {towers} devices for {towers} towers, not {count}; see --devices")
    if split == "none" and count > 1:
        raise UserError(f"--split none: puts all towers on one device, but --devices names {count}; name one")
    return devices, reason
