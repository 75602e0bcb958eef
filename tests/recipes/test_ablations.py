"""Each ablation: its sizes and parameters, its gradients, and plain nets written without ours."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from alexnet_torch import AlexNet, DropoutKey
from alexnet_torch.errors import UserError
from alexnet_torch.model.alexnet import count_parameters
from alexnet_torch.model.architecture import PAPER, Architecture, Init
from alexnet_torch.model.presets import PRESETS, TENSORFLOW_POST, TORCHVISION
from alexnet_torch.recipes.ablations import ARCHITECTURE_CHANGES, apply_ablation
from alexnet_torch.recipes.catalogue import demo, paper
from tests.support.nets import with_random_weights

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


def test_plain_pooling_keeps_the_sides_that_convolutions_and_fc6_read() -> None:
    plain = ARCHITECTURE_CHANGES["plain-pooling"](PAPER)
    #                           conv1 pool conv2 pool conv3 conv4 conv5 pool
    assert sides(PAPER, 224) == [55, 27, 27, 13, 13, 13, 13, 6]
    assert sides(plain, 224) == [55, 28, 26, 13, 13, 13, 11, 6]
    assert sides(PAPER, 64) == [15, 7, 7, 3, 3, 3, 3, 1]
    assert sides(plain, 64) == [15, 8, 6, 3, 3, 3, 1, 1]
    assert plain.smallest_image() <= 64


def test_plain_pools_are_torchs() -> None:
    net = with_random_weights(AlexNet(replace(ARCHITECTURE_CHANGES["plain-pooling"](NARROW), towers=1), 4, 64).double())
    w = {name.split(".", 2)[2]: value for name, value in net.state_dict().items()}
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    y = F.relu(F.conv2d(F.pad(x, (0, 3, 0, 3)), w["conv1.weight"], w["conv1.bias"], 4))
    y = F.local_response_norm(y, 5, 5e-4, 0.75, 2.0)  # (2, 12, 15, 15)
    y = F.pad(y, (0, 1, 0, 1), value=-torch.inf).unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    torch.testing.assert_close(net.features(x, "conv1"), y, rtol=1e-10, atol=1e-10)


def plain_tower(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """One tower by itself up to fc7, with torch's functions alone."""
    x = F.relu(F.conv2d(F.pad(x, (0, 3, 0, 3)), w["conv1.weight"], w["conv1.bias"], 4))
    x = F.max_pool2d(F.local_response_norm(x, 5, 5e-4, 0.75, 2.0), 3, 2)
    x = F.relu(F.conv2d(x, w["conv2.weight"], w["conv2.bias"], padding=2))
    x = F.max_pool2d(F.local_response_norm(x, 5, 5e-4, 0.75, 2.0), 3, 2)
    for stage in ("conv3", "conv4", "conv5"):
        x = F.relu(F.conv2d(x, w[f"{stage}.weight"], w[f"{stage}.bias"], padding=1))
    x = F.max_pool2d(x, 3, 2).flatten(1)
    for stage in ("fc6", "fc7"):
        x = F.relu(F.linear(x, w[f"{stage}.weight"], w[f"{stage}.bias"]))
    return x


def tower_weights(net: AlexNet, tower: int) -> dict[str, Tensor]:
    named = dict(net.named_parameters())
    return {n.split(".", 2)[2]: p for n, p in named.items() if n.startswith(f"towers.{tower}.")}


@pytest.mark.parametrize(("name", "towers"), [("one-tower", 1), ("never-meet", 2)])
def test_towers_by_themselves_are_plain_nets_in_logits_and_gradients(name: str, towers: int) -> None:
    size, labels = 67, torch.tensor([0, 6, 5])
    net = with_random_weights(AlexNet(ARCHITECTURE_CHANGES[name](NARROW), 7, size).double()).eval()
    x = 60 * torch.randn(3, 3, size, size, dtype=torch.float64)
    weights = [tower_weights(net, tower) for tower in range(towers)]
    read = torch.cat([plain_tower(w, x) for w in weights], dim=1)  # (3, 512), by fc8
    assert read.shape == (3, 512)
    theirs = torch.cat([F.linear(read, w["fc8.weight"], w["fc8.bias"]) for w in weights], dim=1)
    ours = net(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    parameters = list(net.parameters())
    gradients = torch.autograd.grad(F.cross_entropy(ours, labels), parameters)
    expected = torch.autograd.grad(F.cross_entropy(theirs, labels), parameters)
    for gradient, other in zip(gradients, expected, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-10)


def test_kernels_are_the_papers_and_the_sources() -> None:
    def channels(name: str) -> list[int]:
        return [conv.channels for conv in ARCHITECTURE_CHANGES[name](PAPER).convs]

    assert channels("one-tower") == [48, 128, 192, 192, 256]
    assert channels("never-meet") == [96, 2 * 160, 384, 384, 256]
    assert [linear.width for linear in ARCHITECTURE_CHANGES["never-meet"](PAPER).linears] == [2 * 4096, 4096, None]
    assert channels("no-conv4") == [96, 256, 384, 256]
    assert ARCHITECTURE_CHANGES["sixth-conv"](PAPER).convs[-1].init == Init(0.03, 1.0)


def test_tanh_is_everywhere_and_relu_nowhere() -> None:
    net = with_random_weights(AlexNet(ARCHITECTURE_CHANGES["tanh"](PAPER), 4, 64)).eval()
    x = torch.randn(4, 3, 64, 64)
    fc6, fc7 = net.features(x, "fc6"), net.features(x, "fc7")
    assert fc6.abs().max() <= 1
    w = [tower_weights(net, tower) for tower in (0, 1)]
    expected = torch.cat([torch.tanh(F.linear(fc6, v["fc7.weight"], v["fc7.bias"])) for v in w], dim=1)
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
def test_an_ablation_of_what_is_not_there_is_refused(net: Architecture, name: str) -> None:
    with pytest.raises(UserError, match=f"--ablation {name}: changes nothing in this recipe"):
        apply_ablation(replace(paper(), architecture=net), name)


@pytest.mark.parametrize("net", PRESETS.values(), ids=PRESETS)
def test_the_rest_runs_in_every_architecture(net: Architecture) -> None:
    plain = net.with_init(**dict.fromkeys(net.stage_names, Init()))  # others cannot be drawn as fakes
    for name in ("plain-pooling", "tanh", "no-conv4", "sixth-conv"):
        with FakeTensorMode():
            assert AlexNet(ARCHITECTURE_CHANGES[name](plain), 10, 224)(torch.empty(1, 3, 224, 224)).shape == (1, 10)


def test_a_recipe_keeps_all_else() -> None:
    changed = apply_ablation(demo(), "no-norm")
    assert replace(changed, architecture=demo().architecture) == demo()
    assert apply_ablation(demo(), None) == demo()
    assert apply_ablation(paper(), "no-colour") == replace(paper(), colour=None)
    with pytest.raises(UserError, match="--ablation no-colour: changes nothing"):
        apply_ablation(demo(), "no-colour")
    with pytest.raises(UserError, match="--ablation no-nrm: there is no such ablation; choose one of no-norm, "):
        apply_ablation(demo(), "no-nrm")
