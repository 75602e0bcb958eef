"""What torch records of the network is the same for every batch size."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from alexnet_torch import PAPER, AlexNet
from alexnet_torch.model.architecture import Architecture
from alexnet_torch.model.presets import CAFFE, SOURCE_2012, TORCHVISION
from tests.support.nets import narrow, with_random_weights

ARCHITECTURES = pytest.mark.parametrize(
    "architecture", [PAPER, SOURCE_2012, CAFFE, TORCHVISION], ids=lambda net: net.name
)


def net_of(architecture: Architecture) -> AlexNet:
    return with_random_weights(AlexNet(narrow(architecture), 40, 64)).eval()


def images_of(rows: int) -> Tensor:
    return 60 * torch.randn(rows, 3, 64, 64)


class Recorder(TorchDispatchMode):
    """Records the names of torch's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def recorded(net: AlexNet, rows: int) -> list[str]:
    net.zero_grad()
    recorder = Recorder()
    with recorder:
        net(images_of(rows)).sum().backward()
    return recorder.names


@ARCHITECTURES
def test_dispatch_modes_see_torchs_own_operations(architecture: Architecture, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few elements in cache, the faster operations would take 40 images in several parts."""
    monkeypatch.setattr("alexnet_torch.model.response_norm._POOLED_ELEMENTS", 10_000)
    net = net_of(architecture)
    few, many = recorded(net, 2), recorded(net, 40)
    assert few == many
    assert {name.split(".")[0] for name in few} == {"aten"}
    assert sum(name.startswith("aten.addmm") for name in few) == 3 * architecture.towers


@pytest.mark.parametrize("rows", [1, 32])
def test_flops_are_those_of_the_paper(rows: int) -> None:
    """A multiply-add is two; an image takes 724.4 million, of which 58.6 million are in the linear stages."""
    from torch.utils.flop_counter import FlopCounterMode

    net = AlexNet(seed=0).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(rows, 3, 224, 224))
    linear = 2 * (4608 * 2 * 4096 + 4096 * 4096 + 4096 * 1000)
    convolutions = 2 * (
        55**2 * 96 * 363 + 27**2 * 256 * 1200 + 13**2 * 384 * 2304 + 13**2 * 384 * 1728 + 13**2 * 256 * 1728
    )
    assert counter.get_total_flops() == rows * (linear + convolutions)
    assert (linear + convolutions) / 2e6 == pytest.approx(724.4, abs=0.05)


@ARCHITECTURES
@pytest.mark.parametrize("rows", [2, 40])
def test_a_traced_network_takes_other_batch_sizes(architecture: Architecture, rows: int) -> None:
    net = net_of(architecture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; checks of shapes are constants in a trace
        traced = torch.jit.trace(net, images_of(rows))
    for other in (1, 2, 40):
        x = images_of(other)
        torch.testing.assert_close(traced(x), net(x), rtol=1e-4, atol=1e-4)


def test_the_graph_of_derivatives_is_the_same() -> None:
    def names(rows: int) -> list[str]:
        found, nodes = [], [net_of(PAPER)(images_of(rows)).grad_fn]
        while nodes:
            node = nodes.pop()
            if node is not None:
                found.append(node.name())
                nodes += [following for following, _ in node.next_functions]
        return found

    assert names(2) == names(40)
