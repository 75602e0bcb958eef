"""What follows a stage's layer: fused operations give what the single ones give, in fewer calls."""

from dataclasses import replace

import pytest
import torch

from alexnet_torch.model.architecture import PAPER, Architecture, Operation
from alexnet_torch.model.exchange import Exchange
from alexnet_torch.model.presets import CAFFE, SOURCE_2012
from alexnet_torch.model.stage_operations import operations_after
from tests.support.plain_net import plain_operation

EXCHANGE = Exchange(2)


def calls(architecture: Architecture) -> dict[str, int]:
    return {stage.name: len(operations_after(stage, architecture)) for stage in architecture.stages}


def test_a_norm_takes_the_relu_before_it_and_the_pooling_after_it() -> None:
    linears = {"fc6": 1, "fc7": 1, "fc8": 0}
    assert calls(PAPER) == {"conv1": 1, "conv2": 1, "conv3": 1, "conv4": 1, "conv5": 2} | linears
    # (norm, pool), relu; (relu, norm), spatial_norm, pool; ...
    assert calls(SOURCE_2012) == {"conv1": 2, "conv2": 3, "conv3": 1, "conv4": 1, "conv5": 2} | linears
    # across towers a norm needs the other tower before the pooling
    assert calls(CAFFE) == {"conv1": 2, "conv2": 2, "conv3": 1, "conv4": 1, "conv5": 2} | linears


@pytest.mark.parametrize("architecture", [PAPER, SOURCE_2012, CAFFE], ids=lambda net: net.name)
@pytest.mark.parametrize(
    "names",
    [("relu", "norm", "pool"), ("norm", "pool", "relu"), ("relu", "norm"), ("tanh", "spatial_norm"), ()],
    ids=str,
)
def test_operations_are_computed_in_their_order(architecture: Architecture, names: tuple[Operation, ...]) -> None:
    conv = replace(architecture.convs[0], after=names)
    parts = expected = [30 * torch.randn(2, 8, 9, 9, dtype=torch.float64) for _ in range(2)]
    for operation in operations_after(conv, architecture):
        parts = operation(parts, EXCHANGE)
    for name in names:
        expected = plain_operation(name, expected, architecture)
    torch.testing.assert_close(parts, expected)
