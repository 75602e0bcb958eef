"""The ratio of update and weights against weights before and after a step."""

import pytest
import torch
import torch.nn.functional as F

from alexnet_torch.distributed.parameters import gather_full_state
from alexnet_torch.distributed.placement import all_towers
from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.distributed.world import World
from alexnet_torch.recipes.recipe import OptimizerName
from alexnet_torch.training.optimizers import build_optimizer, parameter_groups, update_ratios
from tests.support.nets import narrow_net, with_random_weights


@pytest.mark.parametrize("name", ["paper", "adam"])
def test_the_ratio_is_that_of_the_last_step(name: OptimizerName) -> None:
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
