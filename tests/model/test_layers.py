import pytest
import torch
from torch import nn

from alexnet_torch.model.architecture import Init
from alexnet_torch.model.tower import initialise


@pytest.mark.parametrize(
    ("init", "std", "bias"),
    [
        (Init(0.03, 1.0), 0.03, 1.0),
        (Init(1.0, 0.1, by_fan_in=True), 900**-0.5, 0.1),
        (Init(0.05, 0.0, "truncated_normal"), 0.05 * 0.8796, 0.0),  # a normal cut at two sigma
        (Init(1.0, None, "uniform", by_fan_in=True), (3 * 900) ** -0.5, None),
    ],
    ids=str,
)
def test_initialisation_has_the_given_deviation_and_bias(init: Init, std: float, bias: float | None) -> None:
    layer = nn.Conv2d(100, 64, 3)
    initialise(layer, init, torch.Generator().manual_seed(3), 64, slice(None))
    assert layer.weight.std().item() == pytest.approx(std, rel=0.01)
    assert abs(layer.weight.mean().item()) < 0.02 * std
    assert layer.bias is not None
    if bias is None:
        assert 0 < layer.bias.abs().max() <= 1 / 30
        assert layer.bias.std() > 0.01
    else:
        assert (layer.bias == bias).all()
    if init.distribution == "truncated_normal":
        assert layer.weight.abs().max() <= 2 * init.std
