"""Weights are converted between the layouts, in both directions."""

import pytest
import torch

from alexnet_torch import AlexNet
from alexnet_torch.model.architecture import PAPER
from alexnet_torch.model.presets import CAFFE, TORCHVISION
from alexnet_torch.weights.grouped import (
    grouped_shapes,
    grouped_to_towers,
    layers_by_stage,
    towers_to_grouped,
)


def test_the_conversions_are_inverse_with_an_odd_number_of_classes() -> None:
    net = AlexNet(PAPER, 5, 64, seed=1)
    grouped = towers_to_grouped(net.state_dict())
    assert grouped["conv2.weight"].shape == (256, 48, 5, 5)  # a convolution of two groups
    assert grouped["fc8.bias"].shape == (5,)
    assert torch.equal(grouped["conv2.weight"][128:], net.stage_weights("conv2")[1])
    towers = grouped_to_towers(grouped, 2)
    assert set(towers) == set(net.state_dict())
    assert all(torch.equal(towers[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize(("architecture", "classes", "size"), [(PAPER, 5, 64), (CAFFE, 4, 99), (TORCHVISION, 3, 63)])
def test_grouped_shapes_are_those_of_the_network(architecture: object, classes: int, size: int) -> None:
    assert isinstance(architecture, type(PAPER))
    net = AlexNet(architecture, classes, size)
    shapes = {name: tuple(value.shape) for name, value in towers_to_grouped(net.state_dict()).items()}
    assert grouped_shapes(architecture, classes, size) == shapes


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("infix", ["", "module."])
def test_data_parallels_prefixes_are_removed(prefix: str, infix: str) -> None:
    layers = {f"{prefix}features.{infix}{3 * index}": 4 for index in range(5)}
    layers |= {f"{prefix}classifier.{index}": 2 for index in range(3)}
    state: dict[str, torch.Tensor] = {}
    for layer, dimensions in layers.items():
        state |= {f"{layer}.weight": torch.zeros((1,) * dimensions), f"{layer}.bias": torch.zeros(1)}
    names = layers_by_stage(state)  # as the file has them
    assert [names[f"{stage}.weight"] for stage in PAPER.stage_names] == [f"{layer}.weight" for layer in layers]


def test_layers_match_stages_by_our_names_or_else_by_order() -> None:
    def stages(*names: str) -> dict[str, str]:
        weights: dict[str, torch.Tensor] = {}
        for name in names:
            shape = (2, 1, 1, 1) if name.startswith("conv") else (2, 1)
            weights |= {f"{name}.weight": torch.zeros(shape), f"{name}.bias": torch.zeros(2)}
        own_names = layers_by_stage(weights).items()
        return {stage.removesuffix(".bias"): own[:-5] for stage, own in own_names if stage.endswith("bias")}

    assert list(stages("fc7", "conv2", "conv1")) == ["conv1", "conv2", "fc7"]
    fc_from_1 = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc1", "fc2", "fc3")
    assert stages(*fc_from_1) == dict(zip(PAPER.stage_names, fc_from_1, strict=True))


def test_a_tower_that_does_not_fit_is_named() -> None:
    weights = {"towers.0.fc6.weight": torch.zeros(2, 3), "towers.1.fc6.weight": torch.zeros(2, 4)}
    with pytest.raises(ValueError, match=r"towers\.1\.fc6\.weight is \(2, 4\), which does not fit tower 0's \(2, 3\)"):
        towers_to_grouped(weights)
    with pytest.raises(ValueError, match=r"conv1\.weight contains no tower"):
        towers_to_grouped({"conv1.weight": torch.zeros(1)})
