"""The processes of a run: their groups, what they agree on, and who is missing when one is lost."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import GradBucket, PrefixStore, Store
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from alexnet_torch.distributed.exchanges import HybridExchange, PartnerExchange
from alexnet_torch.distributed.missing_ranks import roll_call
from alexnet_torch.distributed.peer_group import PeerGroup, waiting
from alexnet_torch.distributed.placement import Placement
from alexnet_torch.distributed.rendezvous import LONG, meet
from alexnet_torch.distributed.world import World
from alexnet_torch.errors import OtherRankFailed, RankLost, UserError
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.exchange import Exchange
from alexnet_torch.model.parameter_names import stage_of

T = TypeVar("T")


class Ranks:
    """The processes of a run, as one of them sees them; alone, it agrees with itself at once.

    Until `connect` they have a store in common, which waits for as long as it takes.

    Args:
        world: who they are.
    """

    def __init__(self, world: World) -> None:
        self.world, self._turn = world, 0
        self._pending: tuple[Any, Tensor] | None = None  # an answer on its way
        self._data: dist.ProcessGroup | None = None
        self._store: Store | None = None
        self._patience = LONG
        self._launch: Store | None = None
        if world.size > 1 or world.torchrun:
            store, self._launch = meet(world)
            self._store = store if world.size > 1 else None

    @property
    def is_restart(self) -> bool:
        """Whether this launch of torchrun has begun the run before, and so goes on with it. The first rank asks."""
        return self._launch is not None and self._launch.check(["begun"])

    def mark_started(self) -> None:
        """Notes that this launch has begun the run, for the processes that torchrun starts in place of these."""
        if self._launch is not None:
            self._launch.set("begun", "")

    @property
    def is_single_process(self) -> bool:
        """Whether this is the only process."""
        return self.world.size == 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.world.rank == 0

    def broadcast_from_main(self, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What the first rank makes, on all; plain values, as JSON has them.

        Raises:
            UserError: on the first rank, where it was raised.
            Elsewhere: on the others then.
        """
        made: dict[str, Any] = {}
        with self.main_only() as (first, said):
            if first:
                made = make()
                said.append(json.dumps(made))
        return made if self.is_main else json.loads(said[0])

    @contextmanager
    def main_only(self) -> Iterator[tuple[bool, list[str]]]:
        """A block that the first rank alone goes through with; whether it failed, all know after it.

        Yields:
            whether this is the first rank, and a list for it to put a word in for the others, who have it
            after the block.

        Raises:
            Elsewhere: on the others, when the block failed on the first.
        """
        said: list[str] = []
        if self._store is None:
            yield True, said
            return
        self._turn += 1
        name = f"first/{self._turn}"
        if not self.is_main:
            yield False, said
            with waiting("what rank 0 writes"):
                self._store.wait([name], self._patience)
            status, *words = json.loads(self._store.get(name))
            if status:
                raise OtherRankFailed(status)
            said.extend(words)
            return
        status = 1
        try:
            yield True, said
            status = 0
        except UserError:
            status = 2
            raise
        finally:
            self._store.set(name, json.dumps([status, *said]))

    def run_on_all(self, work: Callable[[], T]) -> T:
        """What each rank makes of its own, if none of them failed.

        Raises:
            UserError: on the first of the ranks where it was raised.
            Elsewhere: on the others then.
        """
        if self._store is None:
            return work()
        self._turn += 1
        name, error = f"all/{self._turn}", None
        try:
            made = work()
        except UserError as failed:
            error = failed
        self._store.set(f"{name}/{self.world.rank}", "2" if error else "0")
        if self.is_main:
            every = [f"{name}/{rank}" for rank in range(self.world.size)]
            self._store.wait(every, LONG)
            failed_ranks = [rank for rank, one in enumerate(every) if int(self._store.get(one))]
            self._store.set(name, json.dumps(failed_ranks))
        self._store.wait([name], LONG)
        failed_ranks = json.loads(self._store.get(name))
        if error and failed_ranks[0] == self.world.rank:  # the others would say the same
            raise error
        if failed_ranks:
            raise OtherRankFailed(2)
        return made

    def connect(self, placement: Placement, timeout: float) -> Exchange:
        """Forms the groups of a placement.

        Args:
            placement: of the run.
            timeout: seconds that a rank waits for another from now on.

        Returns:
            the exchange between this process's towers and the others.
        """
        self.placement, device = placement, placement.devices[0]
        if self._store is None:
            return Exchange(placement.devices)
        self._patience = timedelta(seconds=timeout)
        patience = self._patience
        if device.type == "cuda":
            torch.cuda.set_device(device)
            patience += timedelta(minutes=1)  # NCCL ends a process that waits in vain: who speaks is to do so first
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore("groups", self._store),
            rank=self.world.rank,
            world_size=self.world.size,
            timeout=patience,
        )
        control = dist.new_group(backend="gloo", timeout=self._patience)
        assert isinstance(control, dist.ProcessGroup)
        self._control = control
        towers = placement.towers if placement.split == "ranks" else 1
        shape = (self.world.size // towers, towers)
        mesh = init_device_mesh(device.type, shape, mesh_dim_names=("data", "tower"))
        for axis in ("data", "tower"):
            dist.set_timeout(patience, mesh.get_group(axis))
        if placement.split == "hybrid":  # whose linear stages see all rows: their losses are one
            return HybridExchange(PeerGroup(mesh.get_group("data"), self._patience), device, placement.towers)
        self._data = mesh.get_group("data")
        if placement.split == "ranks":
            return PartnerExchange(PeerGroup(mesh.get_group("tower"), self._patience), device)
        return Exchange(placement.devices)

    def sum_over_slices(self, values: Tensor) -> Tensor:
        """Sums over the slices of a batch, on all ranks; where each has the whole batch, the values themselves."""
        if self._data is not None and dist.get_world_size(self._data) > 1:
            with waiting("the sum of losses"):
                dist.all_reduce(values, group=self._data)
        return values

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """Sums over all ranks, on all of them."""
        if self._store is not None:
            with waiting("the sum of errors"):
                dist.all_reduce(values)
        return values

    def max_over_ranks(self, flag: int) -> int:
        """The largest that any rank says; all ask together."""
        if self._store is None:
            return flag
        word = torch.tensor(flag)
        with waiting("a word on how to go on"):
            dist.all_reduce(word, dist.ReduceOp.MAX, self._control)
        return int(word)

    def max_over_ranks_delayed(self, *flags: int) -> list[int]:
        """The largest that any rank said of each flag *the last time*, so that nobody waits; alone, this time.

        Every rank asks alike often. The first answer is 0.
        """
        if self._store is None:
            return list(flags)
        answer, words = [0] * len(flags), torch.tensor(flags)
        with waiting("a word on how to go on"):
            if self._pending:
                work, said = self._pending
                work.wait()
                answer = said.tolist()
            self._pending = dist.all_reduce(words, dist.ReduceOp.MAX, self._control, async_op=True), words
        return answer

    @property
    def num_shards(self) -> int:
        """How many ranks, the first ones, have together everything of the network."""
        _, slices = self.placement.slices
        return self.world.size if self.placement.split == "hybrid" else self.world.size // slices

    def gather_to_main(self, make: Callable[[], Tensor]) -> list[Tensor]:
        """Bytes (n,) uint8 that the other sources make, in their order, on the first rank; elsewhere nothing."""
        sources = self.num_shards
        if self.is_main:
            brought = []
            for source in range(1, sources):
                with waiting(f"the weights of rank {source}"):
                    size = torch.zeros(1, dtype=torch.int64)
                    dist.recv(size, source)
                    brought.append(torch.empty(int(size), dtype=torch.uint8))
                    dist.recv(brought[-1], source)
            return brought
        if self.world.rank < sources:
            mine = make()
            with waiting("rank 0, to save"):
                dist.send(torch.tensor([len(mine)]), 0)
                dist.send(mine, 0)
        return []

    def broadcast_bytes(self, bytes_of_first: Tensor | None) -> Tensor | None:
        """The first rank's bytes (n,) uint8, or its None, on all."""
        if self._store is None:
            return bytes_of_first
        with waiting("what rank 0 has read"):
            size = torch.tensor([-1 if bytes_of_first is None else len(bytes_of_first)])
            dist.broadcast(size, 0)
            if int(size) < 0:
                return None
            out = torch.empty(int(size), dtype=torch.uint8) if bytes_of_first is None else bytes_of_first
            dist.broadcast(out, 0)
        return out

    def wrap_data_parallel(self, net: AlexNet) -> torch.nn.Module:
        """The network, made to add up its gradients over those who have the same weights.

        Not over all: towers are never added together, nor pieces of linear stages.
        """
        if self._store is None or self.placement.slices[1] == 1:
            return net
        group = self._data or dist.group.WORLD
        if self.placement.split == "hybrid":
            convs = {conv.name for conv in net.architecture.convs}
            alone = [name for name, _ in net.named_parameters() if stage_of(name) not in convs]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(net, alone)
            if not any(p.requires_grad for name, p in net.named_parameters() if name not in alone):
                return net
        with waiting("the start of training"):
            replicated = DistributedDataParallel(net, process_group=group, gradient_as_bucket_view=True)
        replicated.register_comm_hook(group, _sum)
        return replicated

    def describe_missing(self, lost: RankLost) -> str | None:
        """Which ranks were lost, in a message, on one of the others; None on the rest of them."""
        assert self._store is not None
        try:
            return roll_call(self._store, self.placement, lost, self._patience.total_seconds())
        except dist.DistError:  # the store is gone with the machine that had it
            return str(lost)

    def close(self) -> None:
        """Ends the groups."""
        if dist.is_initialized():
            dist.destroy_process_group()


def _sum(group: dist.ProcessGroup, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """Gradients added up, not averaged: each rank's loss is its rows' part of the batch's mean."""
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    assert work is not None
    return work.get_future().then(lambda future: future.value()[0])
