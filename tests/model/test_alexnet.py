"""The towers against independent networks: plain grouped convolutions, and torchvision's AlexNet."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from alexnet_torch import AlexNet, DropoutKey
from alexnet_torch.model.architecture import PAPER, Architecture
from alexnet_torch.model.presets import CAFFE, TENSORFLOW_POST, TORCHVISION
from tests.support.nets import count_parameters, narrow, narrow_net, with_random_weights
from tests.support.plain_net import grouped_logits


@pytest.mark.parametrize(
    ("architecture", "padding", "alpha", "k"),
    [(PAPER, (0, 3, 0, 3), 5e-4, 2.0), (CAFFE, (0, 0, 0, 0), 1e-4, 1.0)],
    ids=["norm by tower", "norm across towers"],
)
@pytest.mark.parametrize("size", [67, 99])
def test_towers_equal_the_grouped_net_in_logits_and_every_gradient(
    architecture: Architecture, padding: tuple[int, int, int, int], alpha: float, k: float, size: int
) -> None:
    net = with_random_weights(AlexNet(narrow(architecture), 11, size).double()).eval()
    state, names = net.state_dict(), [f"{stage}.{kind}" for stage in PAPER.stage_names for kind in ("weight", "bias")]
    weights = {n: torch.cat([state[f"towers.{t}.{n}"] for t in (0, 1)]).requires_grad_() for n in names}
    images, labels = 60 * torch.randn(3, 3, size, size, dtype=torch.float64), torch.tensor([0, 10, 5])
    ours = net(images)
    theirs = grouped_logits(weights, F.pad(images, padding), alpha, k, halves=architecture is PAPER)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    F.cross_entropy(ours, labels).backward()
    F.cross_entropy(theirs, labels).backward()
    for name, parameter in weights.items():
        parts = [net.get_parameter(f"towers.{t}.{name}").grad for t in (0, 1)]
        gradient = torch.cat([p for p in parts if p is not None])
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


@pytest.mark.parametrize("size", [256, 63])
def test_the_torchvision_preset_equals_torchvisions_alexnet(size: int) -> None:
    theirs = torchvision.models.alexnet(num_classes=7).eval()
    net = AlexNet(TORCHVISION, 7, size).eval()
    assert [i for i, m in enumerate(theirs.classifier) if isinstance(m, nn.Dropout)] == [0, 3]  # before fc6 and fc7
    assert TORCHVISION.dropout == ("conv5", "fc6")
    names = [f"towers.0.{stage}.{kind}" for stage in TORCHVISION.stage_names for kind in ("weight", "bias")]
    net.load_state_dict(dict(zip(names, theirs.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(net(images), theirs(images), rtol=1e-4, atol=1e-5)


def test_the_tensorflow_post_has_its_sizes_and_tensorflows_normalisation() -> None:
    with torch.device("meta"):
        full = AlexNet(TENSORFLOW_POST, 5)
        assert full.get_parameter("towers.0.fc6.weight").shape == (4096, 12_544)
    net = with_random_weights(AlexNet(narrow(TENSORFLOW_POST), 5)).eval()
    image, weights = 60 * torch.randn(1, 3, 224, 224), net.state_dict()
    with torch.no_grad():
        pooled = net.features(image, "conv1")
        padded = F.pad(image, (3, 4, 3, 4))
        x = F.relu(F.conv2d(padded, weights["towers.0.conv1.weight"], weights["towers.0.conv1.bias"], 4)).double()
    assert x.shape[-1] == 56
    # tf.nn.local_response_normalization: input / (bias + alpha * sum over d - 5 .. d + 5) ** beta
    sums = [(x[:, max(0, d - 5) : d + 6] ** 2).sum(1) for d in range(x.shape[1])]
    normed = x / (1 + torch.stack(sums, 1)) ** 0.5
    # SAME pooling of 56 with 3x3, stride 2: one column and one row of padding, right and below
    same = F.max_pool2d(F.pad(normed, (0, 1, 0, 1), value=-torch.inf), 3, 2)
    torch.testing.assert_close(pooled.double(), same, rtol=1e-5, atol=1e-6)


def test_features_returns_the_output_of_every_stage_and_logits_for_the_last() -> None:
    net = with_random_weights(AlexNet(PAPER, 4, 64)).eval()
    images = 60 * torch.randn(2, 3, 64, 64)
    outputs = {stage: net.features(images, stage) for stage in PAPER.stage_names}
    convs = [(96, 7, 7), (256, 3, 3), (384, 3, 3), (384, 3, 3), (256, 1, 1)]
    assert [output.shape[1:] for output in outputs.values()] == [*convs, (4096,), (4096,), (4,)]
    assert torch.equal(outputs["fc8"], net(images))
    several = net.stage_outputs(images, ("conv5", "conv1", "fc7"))
    assert set(several) == {"conv5", "conv1", "fc7"}
    assert all(torch.equal(output, outputs[stage]) for stage, output in several.items())
    for wrong, named in ((("conv9",), "conv9"), ((), "none"), (("conv5", "fc9"), "conv5, fc9")):
        with pytest.raises(ValueError, match=rf"stages must be among conv1, .*fc8, not {named}$"):
            net.stage_outputs(images, wrong)


def test_an_odd_number_of_classes_is_divided_and_what_does_not_fit_is_refused() -> None:
    net = narrow_net(3)
    assert [w.shape[0] for w in net.stage_weights("fc8")] == [2, 1]
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    with pytest.raises(ValueError, match=r"images must be \(N, 3, 64, 64\), not \(2, 3, 65, 64\)"):
        net(torch.zeros(2, 3, 65, 64))
    with pytest.raises(ValueError, match="num_classes must be at least 2"):
        AlexNet(PAPER, 1, 64)


def test_dropout_depends_on_the_key_and_row_or_without_a_key_on_torchs_generator() -> None:
    net, images = with_random_weights(narrow_net()).train(), 60 * torch.randn(6, 3, 64, 64)
    assert torch.equal(net(images, DropoutKey(1, 2)), net(images, DropoutKey(1, 2)))
    assert len(net.dropout_keys(1, 2).unique()) == 4  # of two towers' two stages
    for other in (DropoutKey(1, 3), DropoutKey(2, 2)):
        assert not torch.equal(net(images, DropoutKey(1, 2)), net(images, other))
    parts = [net(images[:2], DropoutKey(1, 2, 0)), net(images[2:], DropoutKey(1, 2, 2))]
    torch.testing.assert_close(torch.cat(parts), net(images, DropoutKey(1, 2)), rtol=1e-5, atol=1e-5)
    torch.manual_seed(5)
    first = net(images)
    assert not torch.equal(first, net(images))
    torch.manual_seed(5)
    assert torch.equal(first, net(images))
    net.eval()
    assert torch.equal(net(images, DropoutKey(1, 2)), net(images))


def test_weights_depend_on_the_seed_or_without_a_seed_on_torchs_generator() -> None:
    def weights(seed: int | None) -> Tensor:
        return AlexNet(narrow(PAPER), 4, 64, seed=seed).stage_weights("conv2")[1].detach()

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))
    torch.manual_seed(8)
    first = weights(None)
    torch.manual_seed(8)
    assert torch.equal(first, weights(None))
    assert not torch.equal(first, weights(None))
    a, b = narrow_net(seed=3).stage_weights("conv2")
    assert not torch.equal(a, b)


def test_torchvisions_dropout_comes_after_its_adaptive_pooling() -> None:
    """At 64 pixels a map of 1x1 is spread over 6x6, and each of the 36 positions has its own dropout."""
    wide = replace(TORCHVISION, linears=narrow(TORCHVISION).linears)
    net, seen = AlexNet(wide, 10, 64, seed=0).train(), list[Tensor]()
    net.towers["0"].get_submodule("fc6").register_forward_hook(lambda _m, given, _o: seen.append(given[0]))
    net(torch.randn(2, 3, 64, 64), DropoutKey(0, 0))
    positions = seen[0].view(2, 256, 36)
    active = positions[(positions != 0).any(2)]  # channels that are not 0 after ReLU
    assert len(active) > 50
    nonzero = (active != 0).float().mean(1)
    assert 0.4 < nonzero.mean() < 0.6
    assert nonzero.max() < 1
