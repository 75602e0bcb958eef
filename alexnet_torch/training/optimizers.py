"""The optimizers: the paper's SGD and Adam, with parameter groups by stage and kind."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from alexnet_torch.model.tower import kind_of, stage_of
from alexnet_torch.recipes.recipe import OptimizerName
from alexnet_torch.recipes.schedules import LearningRates


class PaperSGD(torch.optim.Optimizer):
    """The paper's update rule (section 5): the learning rate is inside the velocity.

        v <- momentum v - decay lr w - lr grad;  w <- w + v

    After a change of the rate the old velocity stays as it is; torch.optim.SGD would multiply all of
    it by the new rate.

    Args:
        groups: parameter groups, each with its own `lr` and, optionally, `weight_decay`.
        momentum: the factor of the old velocity in a step.
        weight_decay: the default of the groups.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], momentum: float = 0.9, weight_decay: float = 5e-4) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": weight_decay, "momentum": momentum})

    # when torch's own are first called they import torch._dynamo, 1.5 s, only to keep a compiler out of them
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's."""
        inspect.unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's."""
        inspect.unwrap(torch.optim.Optimizer.zero_grad)(self, set_to_none)

    # torch.amp.GradScaler then sets grad_scale and found_inf on this optimizer, and the fused update reads them on
    # the device: no wait to know whether to skip the step
    _step_supports_amp_scaling = True

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates all parameters that have a gradient.

        torch's fused SGD does u <- momentum u + (1 - dampening) (grad + decay w), w <- w - rate u;
        with 1 - dampening = lr and rate = 1 that is the paper's rule in one pass, and u = -v.
        """
        if closure is not None:
            raise ValueError("PaperSGD.step takes no closure")
        together: dict[tuple[float, float, float], list[Tensor]] = {}
        for group in self.param_groups:
            numbers = group["lr"], group["weight_decay"], group["momentum"]
            together.setdefault(numbers, []).extend(p for p in group["params"] if p.grad is not None)
        for numbers, params in together.items():  # a fused call costs a GPU several launches, whatever it updates
            if params:
                self._update(params, *numbers)

    def negative_velocity(self, p: Tensor) -> Tensor:
        """Returns u = -v of a parameter: 0 before its first update."""
        if not self.state[p]:
            self.state[p]["negative_velocity"] = torch.zeros_like(p)
        velocity: Tensor = self.state[p]["negative_velocity"]
        return velocity

    def _update(self, params: list[Tensor], rate: float, decay: float, momentum: float) -> None:
        buffers: list[Tensor | None] = [self.negative_velocity(p) for p in params]
        sgd(
            params,
            [p.grad for p in params if p.grad is not None],
            buffers,
            fused=True,
            weight_decay=decay,
            momentum=momentum,
            lr=1.0,
            dampening=1.0 - rate,
            nesterov=False,
            maximize=False,
            grad_scale=getattr(self, "grad_scale", None),
            found_inf=getattr(self, "found_inf", None),
        )


def parameter_groups(net: nn.Module, bias_decay: float, weight_decay: float) -> list[dict[str, Any]]:
    """Returns one group for the weights of each stage and one for its biases, over all towers.

    Each group has a `stage` and a `kind` ("weight", "bias"), by which `set_rates` sets its `lr`.

    Args:
        net: a network with parameters `towers.<k>.<stage>.<weight or bias>`.
        bias_decay: weight decay of the biases: 0 in the 2012 source, that of the weights in the paper's text.
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


def build_optimizer(name: OptimizerName, groups: list[dict[str, Any]], momentum: float) -> torch.optim.Optimizer:
    """Returns the paper's optimizer, or Adam (Kingma and Ba, 2015) with TensorFlow's defaults.

    Args:
        name: "paper"; or "adam", with beta1 = momentum, beta2 = 0.999 and epsilon = 1e-8; it adds weight decay to
            the gradient.
        groups: from `parameter_groups`.
        momentum: the factor of the old velocity, or of Adam's old mean gradient, in a step.
    """
    if name == "paper":
        return PaperSGD(groups, momentum)
    # fused: one pass over weights, gradients and both moments instead of a dozen
    return torch.optim.Adam(groups, betas=(momentum, 0.999), eps=1e-8, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, rates: LearningRates) -> None:
    """Sets the learning rates of the next step, in an optimizer with the groups of `parameter_groups`."""
    for group in optimizer.param_groups:
        is_bias = group["kind"] == "bias"
        group["lr"] = rates.biases if is_bias else rates.stages.get(group["stage"], rates.weights)
