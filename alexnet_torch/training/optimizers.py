"""The paper's update rule and its learning-rate schedules."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from alexnet_torch.model.parameter_names import kind_of, stage_of
from alexnet_torch.recipes.recipe import OptimizerName
from alexnet_torch.recipes.schedules import LearningRates


class PaperSGD(torch.optim.Optimizer):
    """The paper's rule (section 5): the rate is inside the velocity.

        v <- momentum v - decay lr w - lr grad;  w <- w + v

    After a change of rate the velocity already gathered keeps its scale, where torch.optim.SGD
    would scale the whole of it by the new rate.

    Args:
        groups: parameter groups, each with its own `lr` and, if it differs, `weight_decay`.
        momentum: what a velocity keeps of itself in a step.
        weight_decay: of the groups that name none.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], momentum: float = 0.9, weight_decay: float = 5e-4) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": weight_decay, "momentum": momentum})

    # torch.amp.GradScaler then sets grad_scale and found_inf here and leaves both to the fused update, which
    # need not wait to know whether to skip
    _step_supports_amp_scaling = True

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient.

        torch's fused SGD does u <- momentum u + (1 - dampening) (grad + decay w), w <- w - rate u;
        with 1 - dampening = lr and rate = 1 that is the paper's rule in one pass, and u = -v.
        """
        if closure is not None:
            raise ValueError("PaperSGD.step takes no closure")
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if not self.state[p]:
                    self.state[p]["negative_velocity"] = torch.zeros_like(p)
            buffers: list[Tensor | None] = [self.state[p]["negative_velocity"] for p in params]
            if not params:
                continue
            sgd(
                params,
                [p.grad for p in params],
                buffers,
                fused=True,
                weight_decay=group["weight_decay"],
                momentum=group["momentum"],
                lr=1.0,
                dampening=1.0 - group["lr"],
                nesterov=False,
                maximize=False,
                grad_scale=getattr(self, "grad_scale", None),
                found_inf=getattr(self, "found_inf", None),
            )


def parameter_groups(net: nn.Module, bias_decay: float, weight_decay: float) -> list[dict[str, Any]]:
    """One group for the weights of each stage and one for its biases, over all towers.

    Each group's `stage` and `kind` ("weight", "bias") say which, for the schedule to set its `lr`.

    Args:
        net: whose parameters are named `towers.<k>.<stage>.<weight or bias>`.
        bias_decay: weight decay of the biases; the 2012 source has none, the paper's text the weights'.
        weight_decay: weight decay of the weights.
    """
    groups: dict[tuple[str, str], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        groups.setdefault((stage_of(name), kind_of(name)), []).append(parameter)
    decays = {"weight": weight_decay, "bias": bias_decay}
    return [
        {"params": params, "stage": stage, "kind": kind, "weight_decay": decays[kind]}
        for (stage, kind), params in groups.items()
    ]


def build_optimizer(rule: OptimizerName, groups: list[dict[str, Any]], momentum: float) -> torch.optim.Optimizer:
    """The optimizer of a rule: the paper's, or Adam (Kingma and Ba, 2015) as TensorFlow has it by default.

    Args:
        rule: "adam" has beta1 = momentum, beta2 = 0.999 and epsilon = 1e-8; weight decay is added to the
            gradient.
        groups: of `parameter_groups`.
        momentum: what a velocity, or Adam's mean gradient, keeps of itself in a step.
    """
    if rule == "paper":
        return PaperSGD(groups, momentum)
    # fused: one pass over weights, gradients and both moments instead of a dozen
    return torch.optim.Adam(groups, betas=(momentum, 0.999), eps=1e-8, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, rates: LearningRates) -> None:
    """Sets every group's rate for the coming step.

    Args:
        optimizer: made of `parameter_groups`.
        rates: the step's.
    """
    for group in optimizer.param_groups:
        if group["kind"] == "bias":
            group["lr"] = rates.biases
        else:
            group["lr"] = rates.stages.get(group["stage"], rates.weights)
