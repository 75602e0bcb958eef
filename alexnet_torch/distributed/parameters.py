"""The parameters of ranks: whose gradients are added up, and the full state that rank 0 saves."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from alexnet_torch.distributed.control import waiting_for
from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.tower import stage_of

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
    return {
        name: {k: v for k, v in state.items() if k != "value"} for name, state in full_state.items() if len(state) > 1
    }


def load_full_state(
    net: AlexNet, optimizer: torch.optim.Optimizer, weights: dict[str, Tensor], optimizer_tensors: ParameterStates
) -> None:
    """Copies this rank's shard of parameters and optimizer tensors into its network and optimizer."""
    net.load_full_parameters(weights)
    for name, parameter in net.named_parameters():
        for key, value in optimizer_tensors.get(name, {}).items():
            own = value if value.ndim == 0 else torch.empty_like(parameter).copy_(value[net.local_rows(name)])
            optimizer.state[parameter][key] = own.to(parameter.device)
