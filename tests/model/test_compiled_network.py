"""The compiled network gives what the network gives, and its copies compute with their own weights."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_torch import AlexNet, DropoutKey
from alexnet_torch.model import alexnet
from tests.support.nets import narrow_net, with_random_weights


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
    calls: list[AlexNet] = []

    def traced(walk: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(net: AlexNet, *arguments: Any) -> Tensor:
            calls.append(net)
            return compiled(net, *arguments)

        compiled = compile_function(walk, backend="eager")
        return call

    compile_function = torch.compile
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
