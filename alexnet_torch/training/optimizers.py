"""The optimizers, with parameter groups by stage and kind; which stages they move, and how far."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from alexnet_torch.distributed.ranks import ParameterStates
from alexnet_torch.errors import UserError
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.architecture import parse_stages
from alexnet_torch.model.tower import stage_of
from alexnet_torch.recipes.recipe import LearningRates, OptimizerName


class PaperSGD(torch.optim.Optimizer):
    """The paper's update rule (section 5): the learning rate is inside the velocity.

        v <- momentum v - decay lr w - lr grad;  w <- w + v

    After a change of the rate the old velocity stays as it is; torch.optim.SGD would multiply all of
    it by the new rate. The groups have an `lr` each and, optionally, a `weight_decay`.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], momentum: float = 0.9, weight_decay: float = 5e-4) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": weight_decay, "momentum": momentum})

    # when torch's own are first called they import torch._dynamo, 1.5 s, only to keep a compiler out of them
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        inspect.unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        inspect.unwrap(torch.optim.Optimizer.zero_grad)(self, set_to_none)

    # torch.amp.GradScaler then sets grad_scale and found_inf here, which the fused update reads without a wait
    _step_supports_amp_scaling = True

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates all parameters that have a gradient; takes no closure.

        torch's fused SGD does u <- momentum u + (1 - dampening) (grad + decay w), w <- w - rate u;
        with 1 - dampening = lr and rate = 1 that is the paper's rule in one pass, and u = -v.
        """
        assert closure is None
        together: dict[tuple[float, float, float], list[Tensor]] = {}
        for group in self.param_groups:
            numbers = group["lr"], group["weight_decay"], group["momentum"]
            together.setdefault(numbers, []).extend(p for p in group["params"] if p.grad is not None)
        for (rate, decay, momentum), params in together.items():
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p]["negative_velocity"] = torch.zeros_like(p)
            sgd(  # one call for all of the same rate: it costs a GPU several launches, whatever it updates
                params,
                [p.grad for p in params if p.grad is not None],
                [self.state[p]["negative_velocity"] for p in params],
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


def parameter_groups(
    net: nn.Module, bias_decay: float, weight_decay: float, stage_decay: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Returns a group for each `stage` and `kind` ("weight", "bias"); `set_rates` sets its `lr`."""
    groups: dict[tuple[str, str], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        groups.setdefault((stage_of(name), name.rpartition(".")[2]), []).append(parameter)
    decays = {(stage, "weight"): decay for stage, decay in (stage_decay or {}).items()}
    by_kind = {"weight": weight_decay, "bias": bias_decay}
    return [
        {"params": params, "stage": stage, "kind": kind, "weight_decay": decays.get((stage, kind), by_kind[kind])}
        for (stage, kind), params in groups.items()
    ]


def freeze_stages(net: AlexNet, text: str | None) -> str:
    stages = parse_stages("--freeze", text, net.architecture.stage_names) or ()
    if set(stages) == set(net.architecture.stage_names):
        raise UserError("--freeze: names all stages, so that nothing can learn; leave out at least one")
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(stage_of(name) not in stages)
    return f"\nfrozen, their weights and biases do not change: {', '.join(stages)}" if stages else ""


def build_optimizer(name: OptimizerName, groups: list[dict[str, Any]], momentum: float) -> torch.optim.Optimizer:
    """Returns the paper's optimizer, or Adam with TensorFlow's defaults and beta1 = momentum."""
    optimizer: torch.optim.Optimizer = PaperSGD(groups, momentum)
    if name == "adam":  # fused: one pass over weights, gradients and both moments instead of a dozen
        optimizer = torch.optim.Adam(groups, betas=(momentum, 0.999), eps=1e-8, fused=True)
    optimizer.register_step_pre_hook(_skip_overflow_of_any_device)
    return optimizer


def _skip_overflow_of_any_device(optimizer: Any, *_: object) -> None:
    """GradScaler adds up the devices' `found_inf`; the fused update skips the step only where it is 1."""
    if getattr(optimizer, "found_inf", None) is not None:
        optimizer.found_inf = (optimizer.found_inf > 0).float()


def set_rates(optimizer: torch.optim.Optimizer, rates: LearningRates) -> None:
    for group in optimizer.param_groups:
        is_bias = group["kind"] == "bias"
        group["lr"] = rates.biases if is_bias else rates.stages.get(group["stage"], rates.weights)


def update_ratios(full_state: ParameterStates, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Returns |update| / |weights| of the last step by stage, of all towers, without biases and frozen stages."""
    squares: dict[str, list[float]] = {}
    groups = {group["stage"]: group for group in optimizer.param_groups if group["kind"] == "weight"}
    for name, state in full_state.items():
        if name.endswith(".weight") and len(state) > 1:
            sums, group = squares.setdefault(stage_of(name), [0.0, 0.0]), groups[stage_of(name)]
            if (update := state.get("negative_velocity")) is None:
                steps, (beta1, beta2) = float(state["step"]), group["betas"]
                deviation = (state["exp_avg_sq"] / (1 - beta2**steps)).sqrt() + group["eps"]
                update = group["lr"] * state["exp_avg"] / (1 - beta1**steps) / deviation
            sums[0] += float(update.square().sum())
            sums[1] += float(state["value"].square().sum())
    return {stage: (update / weights) ** 0.5 for stage, (update, weights) in squares.items() if weights > 0}
