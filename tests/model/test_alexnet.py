"""The towers against independent networks: plain grouped convolutions, and torchvision's AlexNet."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from alexnet_torch import AlexNet, DropoutKey
from alexnet_torch.model.architecture import PAPER, Architecture
from alexnet_torch.model.presets import CAFFE, SOURCE_2012, TENSORFLOW_POST, TORCHVISION
from tests.support.nets import count_parameters, with_random_weights


def grouped_logits(w: dict[str, Tensor], x: Tensor, padding: tuple[int, ...], alpha: float, k: float) -> Tensor:
    """The paper's net as it is usually written: groups of 2 on one device, torch's own norm."""

    def conv(stage: str, x: Tensor, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
        return F.relu(F.conv2d(x, w[f"{stage}.weight"], w[f"{stage}.bias"], stride, padding, groups=groups))

    def norm_pool(x: Tensor) -> Tensor:
        parts = x.chunk(2, dim=1) if k == 2 else (x,)  # within towers: the norm of each half of the channels
        return F.max_pool2d(torch.cat([F.local_response_norm(part, 5, alpha, 0.75, k) for part in parts], 1), 3, 2)

    x = norm_pool(conv("conv1", F.pad(x, padding), 4))
    x = conv("conv3", norm_pool(conv("conv2", x, padding=2, groups=2)), padding=1)
    x = conv("conv5", conv("conv4", x, padding=1, groups=2), padding=1, groups=2)
    x = F.max_pool2d(x, 3, 2).flatten(1)
    for stage in ("fc6", "fc7"):
        x = F.relu(F.linear(x, w[f"{stage}.weight"], w[f"{stage}.bias"]))
    return F.linear(x, w["fc8.weight"], w["fc8.bias"])


def grouped_weights(net: AlexNet) -> dict[str, Tensor]:
    """Returns the grouped layout: tower k is the k-th part of each tensor along dimension 0."""
    names = [name.split(".", 2)[2] for name in net.state_dict() if name.startswith("towers.0.")]
    towers = range(net.architecture.towers)
    return {n: torch.cat([net.state_dict()[f"towers.{k}.{n}"] for k in towers]) for n in names}


@pytest.mark.parametrize(
    ("architecture", "padding", "alpha", "k"),
    [(PAPER, (0, 3, 0, 3), 5e-4, 2.0), (CAFFE, (0, 0, 0, 0), 1e-4, 1.0)],
    ids=["norm by tower", "norm across towers"],
)
@pytest.mark.parametrize("size", [67, 99])
def test_towers_equal_the_grouped_net_in_logits_and_every_gradient(
    architecture: Architecture, padding: tuple[int, int, int, int], alpha: float, k: float, size: int
) -> None:
    net = with_random_weights(AlexNet(architecture, 11, size).double())
    weights = {name: weight.requires_grad_() for name, weight in grouped_weights(net).items()}
    images = 60 * torch.randn(3, 3, size, size, dtype=torch.float64)
    labels = torch.tensor([0, 10, 5])
    net.eval()
    ours, theirs = net(images), grouped_logits(weights, images, padding, alpha, k)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    F.cross_entropy(ours, labels).backward()
    F.cross_entropy(theirs, labels).backward()
    for name, parameter in weights.items():
        parts = [dict(net.named_parameters())[f"towers.{t}.{name}"].grad for t in (0, 1)]
        gradient = torch.cat([p for p in parts if p is not None])
        assert parameter.grad is not None
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-10, atol=1e-10)


def test_the_papers_number_of_parameters_half_in_each_tower_all_with_a_gradient() -> None:
    net = AlexNet()
    assert count_parameters(net) == 60_965_224
    assert [count_parameters(tower) for tower in net.towers.values()] == [30_482_612] * 2
    with_random_weights(net)
    net(60 * torch.randn(1, 3, 224, 224), DropoutKey(0, 0)).square().sum().backward()
    without = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


@pytest.mark.parametrize("size", [224, 256, 63])
def test_the_torchvision_preset_equals_torchvisions_alexnet(size: int) -> None:
    theirs = torchvision.models.alexnet(num_classes=7).eval()
    net = AlexNet(TORCHVISION, 7, size).eval()
    names = [f"towers.0.{stage}.{kind}" for stage in TORCHVISION.stage_names for kind in ("weight", "bias")]
    net.load_state_dict(dict(zip(names, theirs.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(net(images), theirs(images), rtol=1e-4, atol=1e-5)


def test_the_torchvision_preset_has_torchvisions_dropout() -> None:
    theirs = torchvision.models.alexnet()
    dropouts = [i for i, module in enumerate(theirs.classifier) if isinstance(module, nn.Dropout)]
    assert dropouts == [0, 3]  # before fc6 and before fc7
    assert TORCHVISION.dropout == ("conv5", "fc6")
    assert count_parameters(AlexNet(TORCHVISION)) == count_parameters(theirs)


def test_the_tensorflow_post_has_its_sizes_and_tensorflows_normalisation() -> None:
    net = with_random_weights(AlexNet(TENSORFLOW_POST, 5)).eval()
    image = 60 * torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        shapes = [tuple(net.features(image, f"conv{i}").shape[1:]) for i in (1, 2, 5)]
        pooled = net.features(image, "conv1")
        weights = net.state_dict()
        padded = F.pad(image, (3, 4, 3, 4))
        x = F.relu(F.conv2d(padded, weights["towers.0.conv1.weight"], weights["towers.0.conv1.bias"], 4)).double()
    assert x.shape[-1] == 56
    assert shapes == [(96, 28, 28), (256, 14, 14), (256, 7, 7)]
    assert weights["towers.0.fc6.weight"].shape == (4096, 12_544)
    # tf.nn.local_response_normalization: input / (bias + alpha * sum over d - 5 .. d + 5) ** beta
    normed = torch.empty_like(x)
    for d in range(96):
        normed[:, d] = x[:, d] / (1 + 1.0 * (x[:, max(0, d - 5) : d + 6] ** 2).sum(1)) ** 0.5
    # SAME pooling of 56 with 3x3, stride 2: one column and one row of padding, right and below
    same = F.max_pool2d(F.pad(normed, (0, 1, 0, 1), value=-torch.inf), 3, 2)
    torch.testing.assert_close(pooled.double(), same, rtol=1e-5, atol=1e-6)


def test_the_2012_source_has_its_order_of_operations() -> None:
    net = with_random_weights(AlexNet(replace(SOURCE_2012, towers=1), 4, 67).double()).eval()
    w = {name.split(".", 2)[2]: value for name, value in net.state_dict().items()}
    x = 60 * torch.randn(2, 3, 67, 67, dtype=torch.float64)

    def spatial(x: Tensor) -> Tensor:
        squares = F.conv2d(x.pow(2).flatten(0, 1)[:, None], torch.ones(1, 1, 5, 5).double(), padding=2)
        return x / (1 + 0.001 / 25 * squares.view_as(x)) ** 0.75

    y = F.conv2d(F.pad(x, (0, 3, 0, 3)), w["conv1.weight"], w["conv1.bias"], 4)
    y = F.relu(F.max_pool2d(F.local_response_norm(y, 5, 1e-4, 0.75, 2.0), 3, 2))
    y = F.relu(F.conv2d(y, w["conv2.weight"], w["conv2.bias"], padding=2))
    y = F.max_pool2d(spatial(F.local_response_norm(y, 5, 1e-4, 0.75, 2.0)), 3, 2)
    torch.testing.assert_close(net.features(x, "conv2"), y, rtol=1e-10, atol=1e-10)


def small(**changes: Any) -> AlexNet:
    return with_random_weights(AlexNet(PAPER, 4, 64, **changes))


def test_features_returns_the_output_of_every_stage_and_logits_for_the_last() -> None:
    net = small().eval()
    images = 60 * torch.randn(2, 3, 64, 64)
    outputs = {stage: net.features(images, stage) for stage in PAPER.stage_names}
    shapes = {stage: tuple(output.shape) for stage, output in outputs.items()}
    assert shapes == {
        "conv1": (2, 96, 7, 7),
        "conv2": (2, 256, 3, 3),
        "conv3": (2, 384, 3, 3),
        "conv4": (2, 384, 3, 3),
        "conv5": (2, 256, 1, 1),
        "fc6": (2, 4096),
        "fc7": (2, 4096),
        "fc8": (2, 4),
    }
    assert torch.equal(outputs["fc8"], net(images))
    several = net.stage_outputs(images, ("conv5", "conv1", "fc7"))
    assert set(several) == {"conv5", "conv1", "fc7"}
    assert all(torch.equal(output, outputs[stage]) for stage, output in several.items())
    for wrong, named in ((("conv9",), "conv9"), ((), "none"), (("conv5", "fc9"), "conv5, fc9")):
        with pytest.raises(ValueError, match=rf"stages must be among conv1, .*fc8, not {named}$"):
            net.stage_outputs(images, wrong)


def test_images_and_classes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images must be \(N, 3, 64, 64\), not \(2, 3, 65, 64\)"):
        small()(torch.zeros(2, 3, 65, 64))
    with pytest.raises(ValueError, match="num_classes must be at least 2"):
        AlexNet(PAPER, 1, 64)


def test_an_odd_number_of_classes_is_divided_among_towers() -> None:
    net = AlexNet(PAPER, 3, 64)
    assert [w.shape[0] for w in net.stage_weights("fc8")] == [2, 1]
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_dropout_depends_on_the_key_or_without_a_key_on_torchs_generator() -> None:
    net = small().train()
    images = 60 * torch.randn(6, 3, 64, 64)
    assert torch.equal(net(images, DropoutKey(1, 2)), net(images, DropoutKey(1, 2)))
    assert len(net.dropout_keys(1, 2).unique()) == 4  # of two towers' two stages
    assert not torch.equal(net(images, DropoutKey(1, 2)), net(images, DropoutKey(1, 3)))
    assert not torch.equal(net(images, DropoutKey(1, 2)), net(images, DropoutKey(2, 2)))
    torch.manual_seed(5)
    first = net(images)
    assert not torch.equal(first, net(images))
    torch.manual_seed(5)
    assert torch.equal(first, net(images))
    net.eval()
    assert torch.equal(net(images, DropoutKey(1, 2)), net(images))


def test_parts_of_a_batch_have_the_dropout_of_the_full_batch() -> None:
    net = small().double().train()
    images = 60 * torch.randn(6, 3, 64, 64, dtype=torch.float64)
    whole = net(images, DropoutKey(1, 2))
    parts = [net(images[:2], DropoutKey(1, 2, 0)), net(images[2:], DropoutKey(1, 2, 2))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)


def test_weights_depend_on_the_seed_or_without_a_seed_on_torchs_generator() -> None:
    def weights(seed: int | None) -> Tensor:
        return AlexNet(PAPER, 4, 64, seed=seed).stage_weights("conv2")[1].detach()

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))
    torch.manual_seed(8)
    first = weights(None)
    torch.manual_seed(8)
    assert torch.equal(first, weights(None))
    assert not torch.equal(first, weights(None))
    a, b = AlexNet(PAPER, 4, 64, seed=3).stage_weights("conv2")
    assert not torch.equal(a, b)


def test_torchvisions_dropout_comes_after_its_adaptive_pooling() -> None:
    """At 64 pixels a map of 1x1 is spread over 6x6, and each of the 36 positions has its own dropout."""
    net = AlexNet(TORCHVISION, 10, 64, seed=0).train()
    seen: list[Tensor] = []
    net.towers["0"].get_submodule("fc6").register_forward_hook(lambda _m, given, _o: seen.append(given[0]))
    net(torch.randn(2, 3, 64, 64), DropoutKey(0, 0))
    positions = seen[0].view(2, 256, 36)
    active = positions[(positions != 0).any(2)]  # channels that are not 0 after ReLU
    assert len(active) > 50
    nonzero = (active != 0).float().mean(1)
    assert 0.4 < nonzero.mean() < 0.6
    assert nonzero.max() < 1
