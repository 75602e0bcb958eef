import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from alexnet_torch.distributed.placement import all_towers
from alexnet_torch.distributed.ranks import Ranks, gather_full_state
from alexnet_torch.distributed.world import World
from alexnet_torch.recipes.catalogue import demo
from alexnet_torch.recipes.recipe import EpochSchedule, LearningRates, OptimizerName, PlateauSchedule, Schedule
from alexnet_torch.training.optimizers import PaperSGD, build_optimizer, parameter_groups, set_rates, update_ratios
from tests.support.nets import narrow_net, with_random_weights


def test_the_update_follows_the_papers_rule_when_the_rate_changes() -> None:
    """Where torch.optim.SGD differs: its velocity is not multiplied by the rate."""
    torch.manual_seed(0)
    weights = [torch.randn(7, 3, dtype=torch.float64), torch.randn(5, dtype=torch.float64)]
    params = [nn.Parameter(w.clone()) for w in weights]
    optimizer = PaperSGD([{"params": [params[0]]}, {"params": [params[1]], "weight_decay": 0.0}])
    velocities = [torch.zeros_like(w) for w in weights]
    for rate in (0.01, 0.01, 0.01, 0.001, 0.001, 0.0, 0.01):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for i, (w, p, decay) in enumerate(zip(weights, params, (5e-4, 0.0), strict=True)):
            grad = torch.randn_like(w)
            p.grad = grad.clone()
            velocities[i] = 0.9 * velocities[i] - decay * rate * w - rate * grad
            w += velocities[i]
        optimizer.step()
    torch.testing.assert_close([p.detach() for p in params], weights, rtol=1e-13, atol=1e-15)


def test_set_rates_gives_each_stage_and_the_biases_their_rates() -> None:
    tower = nn.ModuleDict({"conv1": nn.Conv2d(3, 4, 1), "fc8": nn.Linear(4, 2)})
    net = nn.ModuleDict({"towers": nn.ModuleList([tower])})
    optimizer = PaperSGD(parameter_groups(net, bias_decay=0.0, weight_decay=5e-4))
    set_rates(optimizer, LearningRates(0.01, 0.02, {"conv1": 0.0}))
    found = {(g["stage"], g["kind"]): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups}
    biases = {(stage, "bias"): (0.02, 0.0) for stage in ("conv1", "fc8")}
    assert found == {("conv1", "weight"): (0.0, 5e-4), ("fc8", "weight"): (0.01, 5e-4), **biases}


def test_schedules_change_the_rate_at_plateaus_and_epochs() -> None:
    plateau = PlateauSchedule(patience=2, drops=3)
    assert plateau.lr(0.01, 0, []) == 0.01
    assert plateau.lr(0.01, 0, [0.5, 0.4, 0.4]) == 0.01
    assert plateau.lr(0.01, 0, [0.5, 0.4, 0.4, 0.41]) == pytest.approx(0.001)
    assert plateau.lr(0.01, 0, [0.5, 0.4, 0.4, 0.41, 0.39, 0.38]) == pytest.approx(0.001)
    assert plateau.lr(0.01, 0, [0.5] * 100) == pytest.approx(1e-5)
    steps = EpochSchedule(factors=((2, 0.1), (4, 0.01)), stage_factors=((3, "conv1", 0.0), (5, "conv1", 1e-3)))
    assert [steps.lr(1.0, epoch, []) for epoch in range(6)] == [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    found = [steps.stage_lrs(0.01, epoch).get("conv1") for epoch in range(6)]
    assert found == [None, None, None, 0.0, 0.0, pytest.approx(1e-5)]


def test_a_schedule_may_change_the_rate_in_each_step() -> None:
    """As README's readers write one: warm-up, then a cosine."""

    class Cosine(Schedule):
        def lr(self, base: float, epoch: float, val_errors: Sequence[float]) -> float:
            del val_errors
            return base * min(1, (epoch + 0.25) / 2) * (1 + math.cos(math.pi * epoch / 10)) / 2

    recipe = replace(demo(), schedule=Cosine(), bias_lr_factor=2.0)
    rates = [recipe.rates(0.1, step / 4, []) for step in range(40)]
    assert [r.biases for r in rates] == [2 * r.weights for r in rates]
    assert len({r.weights for r in rates}) == 40
    assert (rates[0].weights, rates[20].weights) == pytest.approx((0.0125, 0.05))


@pytest.mark.parametrize("name", ["paper", "adam"])
def test_an_update_is_skipped_where_a_gradient_overflowed_on_two_devices(name: OptimizerName) -> None:
    """torch.amp.GradScaler then sets `found_inf` to 2, which torch's fused updates would take for 0."""
    p = nn.Parameter(torch.ones(3))
    optimizer = build_optimizer(name, [{"params": [p], "lr": 0.1, "weight_decay": 0.0}], 0.9)
    for found, expected in ((2.0, torch.ones(3)), (1.0, torch.ones(3)), (0.0, torch.full((3,), 0.9))):
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(found)  # type: ignore[attr-defined]
        p.grad = torch.full((3,), torch.inf if found else 1.0)
        optimizer.step()
        torch.testing.assert_close(p.detach(), expected)


def test_adam_follows_kingma_and_ba() -> None:
    torch.manual_seed(0)
    w = torch.randn(7, dtype=torch.float64)
    p = nn.Parameter(w.clone())
    optimizer = build_optimizer("adam", [{"params": [p], "weight_decay": 0.0}], 0.9)
    mean, square = torch.zeros_like(w), torch.zeros_like(w)
    for step, rate in enumerate((0.01, 0.01, 0.001, 0.0, 0.01), 1):
        optimizer.param_groups[0]["lr"] = rate
        p.grad = torch.randn_like(w)
        mean, square = 0.9 * mean + 0.1 * p.grad, 0.999 * square + 0.001 * p.grad**2
        w = w - rate * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        optimizer.step()
    torch.testing.assert_close(p.detach(), w, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["paper", "adam"])
def test_the_recorded_ratio_is_that_of_the_last_update_and_the_weights(name: OptimizerName) -> None:
    net = with_random_weights(narrow_net()).double()
    for kind in ("weight", "bias"):
        net.get_parameter(f"towers.1.conv2.{kind}").requires_grad_(False)
    optimizer = build_optimizer(name, parameter_groups(net, 0.0, 5e-4), 0.9)
    for index, group in enumerate(optimizer.param_groups):
        group["lr"] = 0.001 * (index + 1)
    images, labels = torch.randn(4, 3, 64, 64, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    for _ in range(3):
        before = {name: value.clone() for name, value in net.state_dict().items()}
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    ranks = Ranks(World.from_environment())
    ranks.connect(all_towers([torch.device("cpu")] * 2, ranks.world, ""), 1.0)
    ratios = update_ratios(gather_full_state(net, optimizer, ranks), optimizer)
    assert list(ratios) == list(net.architecture.stage_names)
    for stage, ratio in ratios.items():
        towers = (0,) if stage == "conv2" else (0, 1)  # the other one is frozen
        names = [f"towers.{k}.{stage}.weight" for k in towers]
        after = torch.cat([net.state_dict()[name].flatten() for name in names])
        update = after - torch.cat([before[name].flatten() for name in names])
        assert ratio == pytest.approx(float(update.norm() / after.norm()), rel=1e-9), stage
