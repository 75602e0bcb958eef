import pytest
import torch
from torch import Tensor, nn

from alexnet_torch.model.architecture import Init
from alexnet_torch.model.presets import SOURCE_2012
from alexnet_torch.model.response_norm import spatial_response_norm
from alexnet_torch.model.tower import FasterLinear, initialise


def test_the_spatial_norm_equals_an_explicit_loop() -> None:
    norm = SOURCE_2012.spatial_norm
    x = 30 * torch.randn(1, 2, 6, 7)
    expected = torch.empty_like(x, dtype=torch.float64)
    for row in range(6):
        for column in range(7):
            square = x.double()[..., max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
            scale = (1.0 + 0.001 / 25 * (square**2).sum((2, 3))) ** 0.75
            expected[..., row, column] = x[..., row, column].double() / scale
    torch.testing.assert_close(spatial_response_norm(x, norm).double(), expected, rtol=1e-5, atol=0)


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


def test_initialisation_draws_from_the_given_generator() -> None:
    def weights(generator: torch.Generator | None) -> Tensor:
        layer = nn.Linear(5, 5, device="meta").to_empty(device="cpu")
        initialise(layer, Init(), generator, 5, slice(None))
        return layer.weight.detach()

    a, b = (weights(torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, weights(torch.Generator().manual_seed(2)))
    torch.manual_seed(1)
    assert torch.equal(a, weights(None))


@pytest.mark.parametrize("rows", [8, 64])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_faster_linear_layer_equals_torchs_in_value_and_gradient(rows: int, frozen: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(96, 40)
    exact = nn.Linear(96, 40).double()
    exact.load_state_dict(layer.state_dict())
    layer.weight.requires_grad_(not frozen)
    x, g = torch.randn(rows, 96, requires_grad=True), torch.randn(rows, 40)
    wide = x.detach().double().requires_grad_()
    expected = exact(wide)
    with FasterLinear():
        y = layer(x)
    assert y.grad_fn is not None
    assert y.grad_fn.name() == "_LinearBackward"
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    y.backward(g)
    expected.backward(g.double())
    pairs = [(x, wide), (layer.bias, exact.bias), *([] if frozen else [(layer.weight, exact.weight)])]
    for ours, theirs in pairs:
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=1e-4)
    assert (layer.weight.grad is None) == frozen
