"""Each ablation: its sizes, parameters and gradients, compared with plain nets that do not use our modules."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from alexnet_torch import AlexNet, DropoutKey
from alexnet_torch.errors import UserError
from alexnet_torch.model.architecture import PAPER, Architecture, Init
from alexnet_torch.model.presets import PRESETS, TENSORFLOW_POST, TORCHVISION
from alexnet_torch.model.tower import grouped_name, tower_of
from alexnet_torch.recipes.catalogue import demo, paper
from alexnet_torch.recipes.recipe import ARCHITECTURE_CHANGES, apply_ablation
from tests.support.nets import count_parameters, with_random_weights

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
NARROW = replace(
    PAPER,
    convs=tuple(replace(conv, channels=conv.channels // 8) for conv in PAPER.convs),
    linears=(*(replace(linear, width=512) for linear in PAPER.linears[:-1]), PAPER.linears[-1]),
)
CHANGES = pytest.mark.parametrize("name", ARCHITECTURE_CHANGES)


def sides(net: Architecture, size: int) -> list[int]:
    return [side for _, side in net.stage_sides(size)]


@CHANGES
def test_parameters_at_the_papers_size(name: str) -> None:
    with FakeTensorMode():
        assert count_parameters(AlexNet(ARCHITECTURE_CHANGES[name](PAPER))) == PARAMETERS[name]


@CHANGES
@pytest.mark.parametrize("size", [64, 224])
def test_stages_on_two_devices(name: str, size: int) -> None:
    net = ARCHITECTURE_CHANGES[name](PAPER)
    with FakeTensorMode():
        devices = [f"cuda:{tower}" for tower in range(net.towers)]
        made = AlexNet(net, 10, size, devices).train()
        images = torch.empty(2, 3, size, size, device="cuda:0")
        logits = made(images, DropoutKey(0, 0))
        last = made.features(images, net.convs[-1].name)
    assert (logits.device, logits.shape) == (torch.device("cuda:0"), (2, 10))
    side = {64: 1, 224: 6}[size]  # as in the full net
    assert last.shape == (2, 256, side, side)


@CHANGES
def test_every_parameter_gets_a_gradient(name: str) -> None:
    net = with_random_weights(AlexNet(ARCHITECTURE_CHANGES[name](PAPER), 4, 64))
    net.train()(torch.randn(4, 3, 64, 64), DropoutKey(0, 0)).square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


def test_plain_pooling_keeps_the_input_sizes_of_conv3_conv4_and_fc6() -> None:
    plain = ARCHITECTURE_CHANGES["plain-pooling"](PAPER)
    #                           conv1 pool conv2 pool conv3 conv4 conv5 pool
    assert sides(PAPER, 224) == [55, 27, 27, 13, 13, 13, 13, 6]
    assert sides(plain, 224) == [55, 28, 26, 13, 13, 13, 11, 6]
    assert sides(PAPER, 64) == [15, 7, 7, 3, 3, 3, 3, 1]
    assert sides(plain, 64) == [15, 8, 6, 3, 3, 3, 1, 1]
    assert plain.smallest_image() <= 64


def test_plain_pooling_equals_torchs() -> None:
    net = with_random_weights(AlexNet(replace(ARCHITECTURE_CHANGES["plain-pooling"](NARROW), towers=1), 4, 64).double())
    weights = {grouped_name(name): value for name, value in net.state_dict().items()}
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    y = F.relu(F.conv2d(F.pad(x, (0, 3, 0, 3)), weights["conv1.weight"], weights["conv1.bias"], 4))
    y = F.local_response_norm(y, 5, 5e-4, 0.75, 2.0)  # (2, 12, 15, 15)
    y = F.pad(y, (0, 1, 0, 1), value=-torch.inf).unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    torch.testing.assert_close(net.features(x, "conv1"), y, rtol=1e-10, atol=1e-10)


def plain_tower(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Computes one tower that reads no other, up to fc7, only with torch's functions."""
    x = F.relu(F.conv2d(F.pad(x, (0, 3, 0, 3)), weights["conv1.weight"], weights["conv1.bias"], 4))
    x = F.max_pool2d(F.local_response_norm(x, 5, 5e-4, 0.75, 2.0), 3, 2)
    x = F.relu(F.conv2d(x, weights["conv2.weight"], weights["conv2.bias"], padding=2))
    x = F.max_pool2d(F.local_response_norm(x, 5, 5e-4, 0.75, 2.0), 3, 2)
    for stage in ("conv3", "conv4", "conv5"):
        x = F.relu(F.conv2d(x, weights[f"{stage}.weight"], weights[f"{stage}.bias"], padding=1))
    x = F.max_pool2d(x, 3, 2).flatten(1)
    for stage in ("fc6", "fc7"):
        x = F.relu(F.linear(x, weights[f"{stage}.weight"], weights[f"{stage}.bias"]))
    return x


def tower_weights(net: AlexNet, tower: int) -> dict[str, Tensor]:
    return {grouped_name(name): weight for name, weight in net.named_parameters() if tower_of(name) == tower}


@pytest.mark.parametrize(("name", "towers"), [("one-tower", 1), ("never-meet", 2)])
def test_separate_towers_equal_plain_nets_in_logits_and_gradients(name: str, towers: int) -> None:
    size, labels = 67, torch.tensor([0, 6, 5])
    net = with_random_weights(AlexNet(ARCHITECTURE_CHANGES[name](NARROW), 7, size).double()).eval()
    x = 60 * torch.randn(3, 3, size, size, dtype=torch.float64)
    tower_states = [tower_weights(net, tower) for tower in range(towers)]
    fc7 = torch.cat([plain_tower(weights, x) for weights in tower_states], dim=1)
    assert fc7.shape == (3, 512)
    plain_logits = torch.cat(
        [F.linear(fc7, weights["fc8.weight"], weights["fc8.bias"]) for weights in tower_states], dim=1
    )
    logits = net(x)
    torch.testing.assert_close(logits, plain_logits, rtol=1e-10, atol=1e-10)
    parameters = list(net.parameters())
    gradients = torch.autograd.grad(F.cross_entropy(logits, labels), parameters)
    plain_gradients = torch.autograd.grad(F.cross_entropy(plain_logits, labels), parameters)
    for gradient, plain_gradient in zip(gradients, plain_gradients, strict=True):
        assert plain_gradient.abs().max() > 0
        torch.testing.assert_close(gradient, plain_gradient, rtol=1e-10, atol=1e-10)


def test_widths_are_those_of_the_paper_and_of_the_2012_source() -> None:
    def channels(name: str) -> list[int]:
        return [conv.channels for conv in ARCHITECTURE_CHANGES[name](PAPER).convs]

    assert channels("one-tower") == [48, 128, 192, 192, 256]
    assert channels("never-meet") == [96, 2 * 160, 384, 384, 256]
    assert [linear.width for linear in ARCHITECTURE_CHANGES["never-meet"](PAPER).linears] == [2 * 4096, 4096, None]
    assert channels("no-conv4") == [96, 256, 384, 256]
    assert ARCHITECTURE_CHANGES["sixth-conv"](PAPER).convs[-1].init == Init(0.03, 1.0)


def test_tanh_replaces_every_relu() -> None:
    net = with_random_weights(AlexNet(ARCHITECTURE_CHANGES["tanh"](PAPER), 4, 64)).eval()
    x = torch.randn(4, 3, 64, 64)
    fc6, fc7 = net.features(x, "fc6"), net.features(x, "fc7")
    assert fc6.abs().max() <= 1
    towers = [tower_weights(net, tower) for tower in (0, 1)]
    expected = torch.cat([torch.tanh(F.linear(fc6, w["fc7.weight"], w["fc7.bias"])) for w in towers], dim=1)
    torch.testing.assert_close(fc7, expected)
    convs = [conv for conv in net.architecture.convs if "relu" in conv.after or "tanh" not in conv.after]
    assert convs == []
    for stage in ("conv3", "conv4", "conv5"):
        assert net.features(x, stage).min() < 0


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
    plain = net.with_init(
        **dict.fromkeys(net.stage_names, Init())
    )  # other initial weights do not work with fake tensors
    for name in ("plain-pooling", "tanh", "no-conv4", "sixth-conv"):
        with FakeTensorMode():
            assert AlexNet(ARCHITECTURE_CHANGES[name](plain), 10, 224)(torch.empty(1, 3, 224, 224)).shape == (1, 10)


def test_an_ablation_changes_nothing_else_of_the_recipe() -> None:
    changed = apply_ablation(demo(), "no-norm")
    assert replace(changed, architecture=demo().architecture) == demo()
    assert apply_ablation(demo(), None) == demo()
    assert apply_ablation(paper(), "no-colour") == replace(paper(), colour=None)
    with pytest.raises(UserError, match="--ablation no-colour: changes nothing"):
        apply_ablation(demo(), "no-colour")
    with pytest.raises(UserError, match="--ablation no-nrm: must be one of no-norm, "):
        apply_ablation(demo(), "no-nrm")
