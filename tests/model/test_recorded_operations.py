"""What torch records and compiles of the network is the same for every batch size."""

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from alexnet_torch import PAPER, AlexNet, DropoutKey
from alexnet_torch.model import alexnet
from alexnet_torch.model.architecture import Architecture
from alexnet_torch.model.presets import CAFFE, SOURCE_2012, TORCHVISION
from tests.support.nets import narrow, narrow_net, with_random_weights

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


def derivatives(net: AlexNet, rows: int) -> list[str]:
    """Returns the names of the nodes of autograd's graph."""
    logits = net(images_of(rows))  # keeps the graph: before torch 2.14, a node of ours does not
    found, nodes = [], [logits.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None:
            found.append(node.name())
            nodes += [following for following, _ in node.next_functions]
    return found


@ARCHITECTURES
def test_dispatch_modes_see_torchs_own_operations(architecture: Architecture, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few elements in cache, the faster operations would take 40 images in several parts."""
    monkeypatch.setattr("alexnet_torch.model.response_norm._POOLED_ELEMENTS", 10_000)
    net = net_of(architecture)
    few, many = recorded(net, 2), recorded(net, 40)
    assert few == many
    assert {name.split(".")[0] for name in few} == {"aten"}
    assert sum(name.startswith("aten.addmm") for name in few) == 3 * architecture.towers
    assert derivatives(net, 2) == derivatives(net, 40)


@pytest.mark.parametrize("rows", [1, 8])
def test_flops_are_those_of_the_paper(rows: int) -> None:
    """A multiply-add is two; an image takes 724.4 million, of which 58.6 million are in the linear stages."""
    with torch.device("meta"):
        net, images = AlexNet().eval(), torch.zeros(rows, 3, 224, 224)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(images)
    linear = 4608 * 2 * 4096 + 4096 * 4096 + 4096 * 1000
    maps = 55**2 * 96 * 363 + 27**2 * 256 * 1200 + 13**2 * 384 * 2304 + 13**2 * 384 * 1728 + 13**2 * 256 * 1728
    assert counter.get_total_flops() == rows * 2 * (linear + maps)
    assert (linear + maps) / 1e6 == pytest.approx(724.4, abs=0.05)


@ARCHITECTURES
def test_a_traced_network_takes_other_batch_sizes(architecture: Architecture) -> None:
    net = net_of(architecture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; checks of shapes are constants in a trace
        traced = torch.jit.trace(net, images_of(2))
    for other in (1, 2, 40):
        x = images_of(other)
        torch.testing.assert_close(traced(x), net(x), rtol=1e-4, atol=1e-4)


# the compiled network gives what the network gives, and its copies compute with their own weights


@pytest.mark.slow
def test_the_compiled_network_gives_the_same_and_is_compiled_once() -> None:
    images, labels = 60 * torch.randn(4, 3, 64, 64), torch.arange(4)
    nets = [with_random_weights(narrow_net(4)).train() for _ in range(2)]
    nets[1].compile_stages()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step in range(3):
            logits = [net(images, DropoutKey(0, step)) for net in nets]
            torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)
            for net, values in zip(nets, logits, strict=True):
                net.zero_grad()
                F.cross_entropy(values, labels).backward()
    assert list(nets[0].state_dict()) == list(nets[1].state_dict())
    for ours, theirs in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_of_a_compiled_network_has_its_own_weights(
    copied: Callable[[AlexNet], AlexNet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced, but not compiled: that takes a minute."""
    calls, compile_function = list[AlexNet](), torch.compile

    def traced(walk: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(net: AlexNet, *arguments: Any) -> Tensor:
            calls.append(net)
            return compiled(net, *arguments)

        compiled = compile_function(walk, backend="eager")
        return call

    monkeypatch.setattr(torch, "compile", traced)
    alexnet._compiled_run_stages.cache_clear()
    net, images = narrow_net().eval(), 60 * torch.randn(2, 3, 64, 64)
    expected = [net(images), with_random_weights(copy.deepcopy(net))(images)]
    net.compile_stages()
    copied_net = with_random_weights(copied(net))
    torch.testing.assert_close([net(images), copied_net(images)], expected)
    assert calls == [net, copied_net]
    assert (expected[0] - expected[1]).abs().max() > 0.1
    alexnet._compiled_run_stages.cache_clear()
