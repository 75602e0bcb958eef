"""Each ablation: its sizes, parameters and gradients, compared with plain nets that do not use our modules."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from alexnet_torch import AlexNet, DropoutKey
from alexnet_torch.errors import UserError
from alexnet_torch.model.architecture import PAPER, Architecture, Init
from alexnet_torch.model.presets import PRESETS, TENSORFLOW_POST, TORCHVISION
from alexnet_torch.recipes.catalogue import demo, paper
from alexnet_torch.recipes.recipe import ARCHITECTURE_CHANGES, apply_ablation
from tests.support.nets import count_parameters, narrow, with_random_weights
from tests.support.plain_net import plain_logits

FULL = 60_965_224
PARAMETERS = {
    "no-norm": FULL,
    "plain-pooling": FULL,
    "one-tower": 59_798_312,
    "never-meet": 60_714_408,
    "no-dropout": FULL,
    "tanh": FULL,
    "no-conv4": FULL - 384 * (192 * 9 + 1),
    "sixth-conv": FULL + 256 * (256 * 9 + 1),
}
CHANGED = {name: change(PAPER) for name, change in ARCHITECTURE_CHANGES.items()}
EVERY_CHANGE = pytest.mark.parametrize("name", CHANGED)


def sides(net: Architecture, size: int) -> list[int]:
    return [side for _, side in net.stage_sides(size)]


@pytest.mark.usefixtures("fake_gpus")
@EVERY_CHANGE
def test_parameters_and_stages_on_two_devices_at_the_papers_size(name: str) -> None:
    net = CHANGED[name]
    devices = [f"cuda:{tower}" for tower in range(net.towers)]
    with FakeTensorMode():
        assert count_parameters(AlexNet(net)) == PARAMETERS[name]
        for size, side in ((64, 1), (224, 6)):  # as in the full net
            made, images = AlexNet(net, 10, size, devices).train(), torch.empty(2, 3, size, size, device="cuda:0")
            logits = made(images, DropoutKey(0, 0))
            assert (logits.device, logits.shape) == (torch.device("cuda:0"), (2, 10))
            assert made.features(images, net.convs[-1].name).shape == (2, 256, side, side)


@EVERY_CHANGE
def test_logits_and_gradients_equal_those_of_the_plain_net(name: str) -> None:
    net = with_random_weights(AlexNet(narrow(CHANGED[name]), 7, 67).double()).eval()
    x, labels = 60 * torch.randn(3, 3, 67, 67, dtype=torch.float64), torch.tensor([0, 6, 5])
    logits, expected = net(x), plain_logits(net.architecture, dict(net.named_parameters()), x)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    parameters = list(net.parameters())
    ours, theirs = (torch.autograd.grad(F.cross_entropy(value, labels), parameters) for value in (logits, expected))
    assert all(gradient.abs().max() > 0 for gradient in theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_plain_pooling_keeps_the_input_sizes_of_conv3_conv4_and_fc6() -> None:
    plain = CHANGED["plain-pooling"]
    #                           conv1 pool conv2 pool conv3 conv4 conv5 pool
    assert sides(PAPER, 224) == [55, 27, 27, 13, 13, 13, 13, 6]
    assert sides(plain, 224) == [55, 28, 26, 13, 13, 13, 11, 6]
    assert sides(PAPER, 64) == [15, 7, 7, 3, 3, 3, 3, 1]
    assert sides(plain, 64) == [15, 8, 6, 3, 3, 3, 1, 1]
    assert plain.smallest_image() <= 64
    assert (plain.pool_size, plain.pool_stride) == (2, 2)


def test_widths_and_towers_are_those_of_the_paper_and_of_the_2012_source() -> None:
    channels = {name: [conv.channels for conv in net.convs] for name, net in CHANGED.items()}
    assert channels["one-tower"] == [48, 128, 192, 192, 256]
    assert channels["never-meet"] == [96, 2 * 160, 384, 384, 256]
    assert [linear.width for linear in CHANGED["never-meet"].linears] == [2 * 4096, 4096, None]
    assert channels["no-conv4"] == [96, 256, 384, 256]
    assert CHANGED["sixth-conv"].convs[-1].init == Init(0.03, 1.0)
    assert [stage.name for stage in CHANGED["never-meet"].stages if stage.reads_all_towers] == ["fc8"]
    assert (CHANGED["one-tower"].towers, CHANGED["no-dropout"].dropout) == (1, ())
    tanh = CHANGED["tanh"]
    assert tanh.linear_activation == "tanh"
    assert all("tanh" in conv.after and "relu" not in conv.after for conv in tanh.convs)
    assert not any("norm" in conv.after for conv in CHANGED["no-norm"].convs)


@pytest.mark.parametrize(
    ("net", "name"),
    [
        (TORCHVISION, "no-norm"),
        (TORCHVISION, "one-tower"),
        (TENSORFLOW_POST, "never-meet"),
        (replace(PAPER, dropout=()), "no-dropout"),
    ],
)
def test_an_ablation_that_changes_nothing_is_refused(net: Architecture, name: str) -> None:
    with pytest.raises(UserError, match=f"--ablation {name}: changes nothing in this recipe"):
        apply_ablation(replace(paper(), architecture=net), name)


@pytest.mark.parametrize("net", PRESETS.values(), ids=PRESETS)
def test_the_other_ablations_run_in_every_architecture(net: Architecture) -> None:
    for name in ("plain-pooling", "tanh", "no-conv4", "sixth-conv"):
        with torch.device("meta"):
            assert AlexNet(ARCHITECTURE_CHANGES[name](net), 10, 224)(torch.empty(1, 3, 224, 224)).shape == (1, 10)


def test_an_ablation_changes_nothing_else_of_the_recipe() -> None:
    changed = apply_ablation(demo(), "no-norm")
    assert replace(changed, architecture=demo().architecture) == demo()
    assert apply_ablation(demo(), None) == demo()
    assert apply_ablation(paper(), "no-colour") == replace(paper(), colour=None)
    with pytest.raises(UserError, match="--ablation no-colour: changes nothing"):
        apply_ablation(demo(), "no-colour")
    with pytest.raises(UserError, match="--ablation no-nrm: must be one of no-norm, "):
        apply_ablation(demo(), "no-nrm")
