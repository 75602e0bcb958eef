"""The ranks of a run: what they add up and send, parameters too, and who of them is missing."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket, PrefixStore, Store
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from alexnet_torch.distributed.control import Control, waiting_for
from alexnet_torch.distributed.exchanges import PeerGroup
from alexnet_torch.distributed.placement import Placement
from alexnet_torch.distributed.world import World
from alexnet_torch.errors import RankLost
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.exchange import Exchange
from alexnet_torch.model.tower import stage_of

_CLOSED = 5.0  # seconds in which all ranks notice a closed connection
_SILENT = 30.0  # seconds in which the others time out as well


class Ranks:
    """The ranks of a run, seen from one of them. All call its methods together, after `connect`."""

    def __init__(self, world: World, patience: float = 600.0) -> None:
        self.world, self.control = world, Control(world, patience)  # agreement between all ranks, from the start
        self.placement: Placement
        self.peers: PeerGroup | None = None  # that hold one network with this rank; None without others
        self.gradient_group: dist.ProcessGroup | None = None  # that add up gradients with it; None without others
        self._all: dist.ProcessGroup | None = None  # of all ranks, by gloo: waits for no GPU
        self._pending: tuple[Any, Tensor] | None = None  # a call, and the flags that it changes

    def connect(self, placement: Placement, timeout: float) -> Exchange:
        """Forms the groups, whose ranks wait `timeout` seconds; returns the towers' exchange."""
        self.placement = placement
        if self.control.store is not None:
            with waiting_for("the first meeting, in the network of GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"):
                self._init_process_groups(self.control.store, timedelta(seconds=timeout))
        return placement.exchange(self.peers)

    def _init_process_groups(self, store: Store, timeout: timedelta) -> None:
        self.control.timeout = group_timeout = timeout
        device, backend = self.placement.devices[0], "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)
            backend = "cpu:gloo,cuda:nccl"
            # NCCL ends a process at its timeout: ours must report first
            group_timeout += timedelta(minutes=1)
        size, rank, store = self.world.size, self.world.rank, PrefixStore("groups", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=group_timeout)
        all_ranks = dist.new_group(backend="gloo", timeout=timeout)
        assert isinstance(all_ranks, dist.ProcessGroup)
        self._all = all_ranks
        self.gradient_group = _own_group(self.placement.gradient_groups, group_timeout)
        if network := _own_group(self.placement.networks, group_timeout):
            self.peers = PeerGroup(network, timeout)

    def read_on_main(self, read: Callable[[], Any]) -> Any:
        """Returns on all ranks what `read` returns on rank 0. Raises as `main_only`."""
        values: list[Any] = [None]
        with self.control.main_only() as is_main:
            if is_main:
                values = [read()]
        if self._all is not None:
            with waiting_for("the broadcast of weights by rank 0"):
                dist.broadcast_object_list(values, 0, self._all)
        return values[0]

    def gather_to_main(self, make: Callable[[], Any]) -> list[Any]:
        """Returns on rank 0 what `make` returns on each of `shard_ranks`; elsewhere nothing."""
        rank, (_, *others) = self.world.rank, self.placement.shard_ranks
        made: list[Any] = [make()] if rank == 0 or rank in others else []
        if rank in others:
            with waiting_for("the transfer of weights to rank 0"):
                dist.send_object_list(made, 0)
            return []
        for other in others if rank == 0 else ():
            with waiting_for(f"the weights of rank {other}"):
                dist.recv_object_list(received := [None], other)
            made += received
        return made

    def sum_over_slices(self, values: Tensor) -> Tensor:
        """Returns the sums over a batch's slices; the values themselves if each rank scores all rows."""
        return values if self.placement.shards_linear_stages else self._sum(values, self.gradient_group)

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        return self._sum(values, dist.group.WORLD if self._all else None)

    def _sum(self, values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        if group is not None:
            with waiting_for("the sum of losses and errors"):
                dist.all_reduce(values, group=group)
        return values

    def max_over_ranks(self, flag: int) -> int:
        flags = torch.tensor(flag)
        if self._all is not None:
            with waiting_for("the exchange of flags"):
                dist.all_reduce(flags, dist.ReduceOp.MAX, self._all)
        return int(flags)

    def max_over_ranks_delayed(self, *flags: int) -> list[int]:
        """Returns the previous call's maxima, at first 0, and starts the next, without a wait."""
        if self._all is None:
            return list(flags)
        result, current = [0] * len(flags), torch.tensor(flags)
        with waiting_for("the exchange of flags"):
            if self._pending:
                work, previous = self._pending
                work.wait()
                result = previous.tolist()
            work = dist.all_reduce(current, dist.ReduceOp.MAX, self._all, async_op=True)
        self._pending = work, current
        return result

    def describe_missing(self, lost: RankLost) -> str | None:
        """Returns a message that names the missing ranks, on one remaining rank; None on others."""
        store, rank, all_ranks = self.control.store, self.world.rank, set(range(self.world.size))
        assert store is not None
        seconds = _CLOSED
        if "imed out" in lost.why:  # its connection still exists
            seconds = min(_SILENT, max(_CLOSED, self.control.timeout.total_seconds()))
        deadline, missing = time.monotonic() + seconds, all_ranks - {rank}
        try:
            store.set(f"lost/{rank}", lost.what)
            while missing and time.monotonic() < deadline:
                time.sleep(0.1)
                missing = {other for other in missing if not store.check([f"lost/{other}"])}
            if rank != (speaker := min(all_ranks - missing)):
                return None
            # a rank of the same network knows best what the missing one did not reach
            peers = {peer for other in missing for peer in self.placement.network_of(other)}
            witness = min(peers - missing, default=speaker)
            what = store.get(f"lost/{witness}").decode()
        except dist.DistError:  # the store was on a machine that is lost
            return str(lost)
        if not missing:
            return str(lost)
        names = ", ".join(map(self.placement.describe_rank, sorted(missing)))
        where = f"{names} did not reach {what}, where rank {witness} waited"
        return f"{where}; torch.distributed reports: {lost.why}"

    def close(self, failed: bool = False) -> None:
        """Ends the process groups; NCCL's at once after an error: its kernels wait for a lost rank."""
        if dist.is_initialized():
            at_once = failed and self.placement.devices[0].type == "cuda"
            (dist.distributed_c10d._abort_process_group if at_once else dist.destroy_process_group)()


def _own_group(groups: list[range], timeout: timedelta) -> dist.ProcessGroup | None:
    """Forms groups that divide all ranks; returns this rank's; None if each has one rank."""
    if all(len(ranks) == 1 for ranks in groups):
        return None
    group, _ = dist.new_subgroups_by_enumeration([list(ranks) for ranks in groups], timeout=timeout)
    assert isinstance(group, dist.ProcessGroup)
    return group


ParameterStates = dict[str, dict[str, Tensor]]
"""By a parameter's name: its "value", and the optimizer's tensors by the optimizer's names for them."""


def wrap_data_parallel(net: AlexNet, ranks: Ranks) -> nn.Module:
    """Returns the network, whose backward pass then adds up the gradients of `summed_parameters`."""
    group = ranks.gradient_group
    if group is None:
        return net
    summed = ranks.placement.summed_parameters(net)
    others = [name for name, _ in net.named_parameters() if name not in summed]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(net, others)
    if not any(parameter.requires_grad for name, parameter in net.named_parameters() if name in summed):
        return net  # which DistributedDataParallel would refuse
    with waiting_for("the start of training"):
        wrapped = DistributedDataParallel(net, process_group=group, gradient_as_bucket_view=True)
    wrapped.register_comm_hook(group, _sum_gradients)
    return wrapped


def _sum_gradients(group: dist.ProcessGroup, bucket: GradBucket) -> Future[Tensor]:
    """Adds up gradients, undivided: each rank's loss is its rows' part of the mean."""
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    assert work is not None
    return work.get_future().then(lambda future: future.value()[0])


def gather_full_state(
    net: AlexNet, optimizer: torch.optim.Optimizer, ranks: Ranks, stage: str | None = None
) -> ParameterStates:
    """Returns CPU copies of the full state, or of a stage's, on rank 0, else nothing."""
    saved = ranks.placement.saved_parameters(net)

    def own_shard() -> ParameterStates:
        return {
            name: {"value": parameter.detach().cpu()}
            | {key: value.cpu() for key, value in optimizer.state.get(parameter, {}).items()}
            for name, parameter in net.named_parameters()
            if name in saved and stage in (None, stage_of(name))
        }

    shards: dict[str, list[dict[str, Tensor]]] = {}  # by parameter, in the ranks' order
    for state in ranks.gather_to_main(own_shard):
        for name, tensors in state.items():
            shards.setdefault(name, []).append(tensors)
    return {name: {key: _concatenate([shard[key] for shard in s]) for key in s[0]} for name, s in shards.items()}


def _concatenate(shards: list[Tensor]) -> Tensor:
    # a scalar, such as Adam's count of steps, is the same in all
    return shards[0] if len(shards) == 1 or shards[0].ndim == 0 else torch.cat(shards)


def weights_of(full_state: ParameterStates) -> dict[str, Tensor]:
    return {name: state["value"] for name, state in full_state.items()}


def optimizer_tensors_of(full_state: ParameterStates) -> ParameterStates:
    return {n: {k: v for k, v in of.items() if k != "value"} for n, of in full_state.items() if len(of) > 1}


def load_full_state(
    net: AlexNet, optimizer: torch.optim.Optimizer, weights: dict[str, Tensor], optimizer_tensors: ParameterStates
) -> None:
    net.load_full_parameters(weights)
    for name, parameter in net.named_parameters():
        for key, value in optimizer_tensors.get(name, {}).items():
            own = value if value.ndim == 0 else torch.empty_like(parameter).copy_(value[net.local_rows(name)])
            optimizer.state[parameter][key] = own.to(parameter.device)
