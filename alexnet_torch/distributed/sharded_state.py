"""The parameters and optimizer tensors of a run: full on rank 0, and in shards on all ranks."""

import torch
from torch import Tensor

from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.tower import stage_of

ParameterStates = dict[str, dict[str, Tensor]]
"""By a parameter's name: its "value", and the optimizer's tensors by the optimizer's names for them."""


def gather_full_state(
    net: AlexNet, optimizer: torch.optim.Optimizer, ranks: Ranks, stage: str | None = None
) -> ParameterStates:
    """Returns CPU copies of the full state on rank 0, and nothing on the others. All ranks call it together.

    Copies only `stage`, if given.
    """
    saved = ranks.placement.saved_parameters(net)
    parameters = {n: p for n, p in net.named_parameters() if n in saved and stage in (None, stage_of(n))}

    def own_shard() -> ParameterStates:
        return {
            name: {"value": parameter.detach().cpu()}
            | {k: v.cpu() for k, v in optimizer.state.get(parameter, {}).items()}
            for name, parameter in parameters.items()
        }

    received = ranks.collectives.gather_to_main(own_shard)
    return _merge_shards([own_shard(), *received]) if ranks.world.is_main else {}


def _merge_shards(shards: list[ParameterStates]) -> ParameterStates:
    """Joins the ranks' shards; shards of one parameter, in the ranks' order, along their first dimension."""
    by_name: dict[str, list[dict[str, Tensor]]] = {}
    for shard in shards:
        for name, state in shard.items():
            by_name.setdefault(name, []).append(state)

    def concatenate(tensors: list[Tensor]) -> Tensor:  # a scalar, such as Adam's count of steps, is the same in all
        return tensors[0] if len(tensors) == 1 or tensors[0].ndim == 0 else torch.cat(tensors)

    return {name: {key: concatenate([shard[key] for shard in p]) for key in p[0]} for name, p in by_name.items()}


def weights_of(full_state: ParameterStates) -> dict[str, Tensor]:
    """Returns only the parameters, as a state dict."""
    return {name: state["value"] for name, state in full_state.items()}


def optimizer_tensors_of(full_state: ParameterStates) -> ParameterStates:
    """Returns only the optimizer's tensors, of the parameters that have any."""
    without_values = {name: {k: v for k, v in state.items() if k != "value"} for name, state in full_state.items()}
    return {name: state for name, state in without_values.items() if state}


def load_full_state(
    net: AlexNet, optimizer: torch.optim.Optimizer, weights: dict[str, Tensor], optimizer_tensors: ParameterStates
) -> None:
    """Copies this rank's shard of the full parameters and optimizer tensors into its network and optimizer."""
    net.load_full_parameters(weights)
    for name, parameter in net.named_parameters():
        for key, value in optimizer_tensors.get(name, {}).items():
            own = value if value.ndim == 0 else torch.empty_like(parameter).copy_(value[net.local_rows(name)])
            optimizer.state[parameter][key] = own.to(parameter.device)
