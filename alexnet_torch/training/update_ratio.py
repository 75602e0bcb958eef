"""How far a step moves the weights, relative to their size: too little learns nothing, too much forgets."""

from typing import Any

import torch
from torch import Tensor

from alexnet_torch.distributed.sharded_state import ParameterStates
from alexnet_torch.model.tower import kind_of, stage_of


def update_ratios(full_state: ParameterStates, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Returns |update| / |weights| of the last step by stage, over all towers, without biases and frozen stages.

    The optimizer's tensors say what the last step did, so that training itself does no additional work.

    Args:
        full_state: of all towers, from `gather_full_state`, on the CPU.
        optimizer: the paper's, whose velocity is its update; or Adam, whose update follows from its two moments.
    """
    squares: dict[str, list[float]] = {}
    groups = {group["stage"]: group for group in optimizer.param_groups if group["kind"] == "weight"}
    for name, state in full_state.items():
        stage = stage_of(name)
        if kind_of(name) == "weight" and len(state) > 1:
            sums = squares.setdefault(stage, [0.0, 0.0])
            sums[0] += float(_update(state, groups[stage]).square().sum())
            sums[1] += float(state["value"].square().sum())
    return {stage: (update / weights) ** 0.5 for stage, (update, weights) in squares.items() if weights > 0}


def _update(state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
    if "negative_velocity" in state:
        return state["negative_velocity"]
    rate, (beta1, beta2), epsilon = group["lr"], group["betas"], group["eps"]
    steps = float(state["step"])
    mean = state["exp_avg"] / (1 - beta1**steps)
    deviation = (state["exp_avg_sq"] / (1 - beta2**steps)).sqrt()
    update: Tensor = rate * mean / (deviation + epsilon)
    return update
