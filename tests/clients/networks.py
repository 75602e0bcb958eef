"""The networks that clients get, and the marks of their tests."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from alexnet_torch import AlexNet, plain
from alexnet_torch.model.architecture import PAPER, Architecture
from tests.support.nets import narrow, with_random_weights

SIZE, CLASSES = 64, 6
Networks = Callable[[AlexNet], nn.Module]


def itself(net: AlexNet) -> nn.Module:
    """Returns the network itself."""
    return net


def make_net(architecture: Architecture = PAPER, dropout: bool = True) -> AlexNet:
    """Returns a narrow network in evaluation mode, with weights with which every unit matters."""
    small = narrow(architecture)
    net = AlexNet(small if dropout else replace(small, dropout=()), CLASSES, SIZE)
    return with_random_weights(net, gain=2**0.5, bias_std=0.5).eval()


def make_images(n: int, seed: int = 1) -> Tensor:
    """Returns random images (n, 3, 64, 64): RGB of 0..255 minus a mean."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, SIZE, SIZE), generator=generator).float() - 120


def client(name: str, use: str, package: str = "torch") -> pytest.MarkDecorator:
    """Marks a test as a row of the table in docs/clients.md: the client, what it does, its package on PyPI."""
    return pytest.mark.client(name, use, package)


def on_both(**fails: str) -> pytest.MarkDecorator:
    """Runs a test twice: its argument `network` makes from an AlexNet what the client gets, itself or its plain copy.

    Args:
        fails: for "AlexNet" or "plain", why the client cannot use it; if it can, the test fails.
    """
    functions: dict[str, Networks] = {"AlexNet": itself, "plain": plain}
    marks = {name: [pytest.mark.xfail(strict=True, reason=reason)] for name, reason in fails.items()}
    return pytest.mark.parametrize(
        "network", [pytest.param(function, id=name, marks=marks.get(name, [])) for name, function in functions.items()]
    )
