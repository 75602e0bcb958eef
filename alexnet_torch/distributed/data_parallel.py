"""Data parallel training: gradients added up over the ranks that hold the same parameters."""

import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from alexnet_torch.distributed.peer_group import waiting_for
from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.model.alexnet import AlexNet


def wrap_data_parallel(net: AlexNet, ranks: Ranks) -> nn.Module:
    """Returns the network, wrapped so that the backward pass adds up gradients as the placement says.

    Only those of `summed_parameters`: neither towers nor shards of linear stages are added together.
    """
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
    """Adds up gradients, without dividing by the number of ranks: each rank's loss is its rows' part of the mean."""
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    assert work is not None
    return work.get_future().then(lambda future: future.value()[0])
