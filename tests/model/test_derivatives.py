"""Derivatives of every order and torch.func, against the same network in torch's own operations, in float64."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_torch import PAPER, AlexNet
from alexnet_torch.model import cpu_kernels
from alexnet_torch.model.architecture import Architecture
from alexnet_torch.model.exchange import Exchange
from alexnet_torch.model.presets import CAFFE, SOURCE_2012, TORCHVISION
from alexnet_torch.model.response_norm import response_norm, response_norm_pool, spatial_response_norm
from tests.support.nets import narrow, with_random_weights
from tests.support.plain_net import plain_logits

NORM = PAPER.norm
EXCHANGE = Exchange(2)
OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "norm": lambda x: response_norm(30 * x, NORM),
    "ReLU and norm": lambda x: response_norm(30 * x, NORM, relu=True),
    "norm and pooling": lambda x: response_norm_pool(30 * x, NORM, False, 3, 2, False),
    "ReLU, norm and pooling": lambda x: response_norm_pool(30 * x, NORM, True, 3, 2, True),
    "spatial norm": lambda x: spatial_response_norm(30 * x, SOURCE_2012.spatial_norm),
    "exchange": lambda x: EXCHANGE.concat_towers([x**2, x**3], 2 * x.shape[1], "conv3")[1],
    "output": lambda x: EXCHANGE.gather_output([x**2, x**3], 2 * x.shape[1], "the output"),
    "halo": lambda x: EXCHANGE.channel_halo([x**2, x**3], 2, "conv1's norm")[0][0],
}


def random_map(*shape: int) -> Tensor:
    """Random numbers of float64 whose ReLU, and the maxima of whose windows, a small step does not change."""
    return torch.randperm(torch.Size(shape).numel()).view(shape).double() / 50 - 0.999


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("name", OPERATIONS)
def test_first_and_second_derivatives_of_operations(name: str, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(cpu_kernels, "available", lambda: False)
    x = random_map(1, 6, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(OPERATIONS[name], x, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(OPERATIONS[name], x, check_batched_grad=True)


def net_and_images(architecture: Architecture, rows: int) -> tuple[AlexNet, Tensor]:
    net = with_random_weights(AlexNet(narrow(architecture), 3, 64)).double().eval()
    return net, 60 * torch.randn(rows, 3, 64, 64, dtype=torch.float64)


def hessian_vector_products(loss: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Returns the products of the loss's Hessian with random vectors, after the same seed the same ones."""
    torch.manual_seed(1)
    vectors = [torch.randn_like(x, dtype=torch.float64).to(x.dtype) for x in inputs]
    gradients = torch.autograd.grad(loss(), inputs, create_graph=True)
    return list(torch.autograd.grad(gradients, inputs, vectors))


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    # not SOURCE_2012 in float32: there rounding changes a maximum, in torch's own operations too
    [(net, torch.float64) for net in (PAPER, SOURCE_2012, CAFFE, TORCHVISION)]
    + [(net, torch.float32) for net in (PAPER, CAFFE, TORCHVISION)],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_hessian_vector_products_of_the_network(architecture: Architecture, dtype: torch.dtype) -> None:
    net, images = net_and_images(architecture, 33)
    exact = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    wide_images, labels = images.clone().requires_grad_(), torch.arange(33) % 3
    expected = hessian_vector_products(
        lambda: F.cross_entropy(plain_logits(net.architecture, exact, wide_images), labels),
        [*exact.values(), wide_images],
    )
    net, images = net.to(dtype), images.to(dtype).requires_grad_()
    products = hessian_vector_products(lambda: F.cross_entropy(net(images), labels), [*net.parameters(), images])
    for ours, theirs in zip(products, expected, strict=True):
        assert (ours.double() - theirs).norm() <= (1e-10 if dtype == torch.float64 else 2e-4) * theirs.norm()


def transforms_of(function: Callable[[dict[str, Tensor], Tensor], Tensor], net: AlexNet, x: Tensor) -> list[object]:
    """Returns what torch.func makes of a function of parameters and images (N, 3, H, W): logits (N, classes)."""
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    ensemble = {name: torch.stack([p, 0.9 * p]) for name, p in parameters.items()}
    torch.manual_seed(1)
    directions = torch.randn(3, *x.shape, dtype=x.dtype)
    tangents = {name: torch.randn_like(p) for name, p in parameters.items()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return F.cross_entropy(function(parameters, x), torch.arange(len(x)) % 3)

    def along(steps: Tensor) -> Tensor:
        return loss(parameters, x + torch.tensordot(steps, directions, 1))

    def with_bias(bias: Tensor) -> Tensor:
        return loss(parameters | {"towers.0.conv1.bias": bias}, x)

    found = [
        torch.func.grad(loss)(parameters, x),
        torch.func.jvp(function, (parameters, x), (tangents, directions[0])),
        torch.vmap(partial(function, parameters))(x[:, None]),
        torch.vmap(torch.func.grad(loss), (None, 0))(parameters, x[:, None]),
        torch.vmap(function, (0, None))(ensemble, x),
        torch.func.jacrev(partial(function, parameters))(x[:1]),
        torch.func.hessian(along)(torch.zeros(3, dtype=x.dtype)),
    ]
    if torch.__version__ >= "2.14":  # before, vmap refuses to differentiate the pooling of a channels_last map twice
        found.append(torch.func.jacrev(torch.func.grad(with_bias))(parameters["towers.0.conv1.bias"]))
    return found


@pytest.mark.parametrize("architecture", [PAPER, SOURCE_2012, CAFFE, TORCHVISION], ids=lambda net: net.name)
def test_transforms_of_the_network_equal_those_of_the_plain_net(architecture: Architecture) -> None:
    net, images = net_and_images(architecture, 2)
    ours = transforms_of(lambda p, x: torch.func.functional_call(net, p, (x,)), net, images)
    theirs = transforms_of(partial(plain_logits, net.architecture), net, images)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)
    assert all(t.abs().max() > 0 for t in ours[6:] if isinstance(t, Tensor))


def test_forward_mode_in_compiled_code() -> None:
    """torch.compile traces through torch.func; the backend makes no difference to that."""
    operation, x, v = OPERATIONS["ReLU, norm and pooling"], random_map(1, 6, 4, 3), torch.randn(1, 6, 4, 3).double()
    compiled = torch.compile(lambda x, v: torch.func.jvp(operation, (x,), (v,)), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, v), torch.func.jvp(operation, (x,), (v,)))
