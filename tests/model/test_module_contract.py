"""The network as an ordinary nn.Module: how it is made, moved, copied and saved, and what its parameters look like."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.utils import prune

from alexnet_torch import CAFFE, PAPER_LITERAL, AlexNet, DropoutKey
from alexnet_torch.model.architecture import PAPER, Architecture, Init
from alexnet_torch.model.presets import TORCHVISION
from tests.support.nets import narrow, narrow_net, with_random_weights


def random_images(rows: int = 2, size: int = 64) -> Tensor:
    """Images as the network reads them, (N, 3, H, W), float32."""
    return torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(1)) * 50


def test_an_architecture_can_be_named() -> None:
    with torch.device("meta"):
        for name, architecture in (("caffe", CAFFE), ("paper", PAPER), ("paper_literal", PAPER_LITERAL)):
            assert AlexNet(name).architecture is architecture
        assert AlexNet().architecture is PAPER
        with pytest.raises(ValueError, match=r"^no architecture 'vgg'; there are paper, .*caffe.*paper_literal$"):
            AlexNet("vgg")
        with pytest.raises(TypeError, match=r"^architecture must be an Architecture or a name, not int$"):
            AlexNet(224)  # type: ignore[arg-type]


def test_one_device_needs_no_list() -> None:
    for device in ("meta", torch.device("meta"), ["meta"], ("meta", "meta")):
        assert {p.device.type for p in AlexNet(devices=device).parameters()} == {"meta"}
    with pytest.raises(ValueError, match=r"^devices: 'c' is not a device; try cpu"):
        AlexNet(devices=["c", "p"])


def test_a_network_made_on_the_meta_device_gets_memory_later() -> None:
    expected = narrow_net(seed=3)
    with torch.device("meta"):
        net = narrow_net(seed=3)
    assert {p.device.type for p in net.parameters()} == {"meta"}
    net.to_empty(device="cpu").reset_parameters(3)
    assert torch.equal(net.eval()(random_images()), expected.eval()(random_images()))


@pytest.mark.parametrize("architecture", [PAPER, TORCHVISION], ids=lambda net: net.name)
def test_parameters_and_state_are_contiguous(architecture: Architecture) -> None:
    net = AlexNet(narrow(architecture), 5, 64, seed=0)
    net(random_images()).sum().backward()
    for tensor in (*net.parameters(), *net.state_dict().values(), *(p.grad for p in net.parameters())):
        assert tensor is not None
        assert tensor.is_contiguous()
    vector = nn.utils.parameters_to_vector(net.parameters())
    nn.utils.vector_to_parameters(vector * 2, net.parameters())
    assert torch.equal(nn.utils.parameters_to_vector(net.parameters()), vector * 2)


def test_every_convolution_reads_and_writes_channels_last() -> None:
    net, formats = narrow_net(), list[bool]()

    def record(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        formats.extend(maps.is_contiguous(memory_format=torch.channels_last) for maps in (*inputs, output))

    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(record)
    images = random_images()
    logits = net.eval()(images)
    assert formats == [True] * 20
    assert torch.equal(net(images.to(memory_format=torch.channels_last)), logits)
    assert torch.equal(net.to(memory_format=torch.channels_last)(images), logits)


def test_data_parallel_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"^AlexNet does not support nn.DataParallel; use DistributedDataParallel"):
        narrow_net()._replicate_for_data_parallel()


def test_optimisers_and_pruning_that_flatten_parameters() -> None:
    net, images, labels = with_random_weights(narrow_net()), random_images(4), torch.tensor([0, 1, 2, 0])
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=3)

    def closure() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images, DropoutKey(0, 0)), labels)
        loss.backward()
        return float(loss.detach())

    before = closure()
    optimizer.step(closure)
    assert closure() < before
    layers = [(module, "weight") for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=0.5)
    weights = torch.cat([module.weight.flatten() for module, _ in layers])
    assert abs(float((weights == 0).float().mean()) - 0.5) < 1e-3
    assert net.eval()(images).isfinite().all()


def losses_of_a_plain_loop(architecture: Architecture) -> list[float]:
    """Trains on 48 digits as a user would who takes the defaults; returns each step's loss."""
    digits = load_digits()  # 8x8 pixels of 0..16
    pixels = torch.tensor(digits.images[:48] * 255 / 16).float()[:, None]
    images = F.interpolate(pixels, 64).expand(-1, 3, -1, -1)
    images, labels = images - images.mean(dim=0), torch.tensor(digits.target[:48])
    torch.manual_seed(0)
    net = AlexNet(narrow(architecture, 64, 512), num_classes=10, image_size=64, seed=1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for _ in range(48):
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_the_default_learns_in_a_plain_loop_and_the_papers_literal_weights_do_not() -> None:
    """The loss of guessing is ln(10) = 2.30; the last five steps' mean is 0.6 with the default."""
    assert sum(losses_of_a_plain_loop(PAPER)[-5:]) / 5 < 1.2
    assert min(losses_of_a_plain_loop(PAPER_LITERAL)) > 2.1


def test_the_literal_weights_are_the_papers() -> None:
    inits = {stage.name: (stage.init.std, stage.init.bias, stage.init.by_fan_in) for stage in PAPER_LITERAL.stages}
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    assert inits == {stage: (0.01, float(stage in ones), False) for stage in PAPER.stage_names}
    assert PAPER_LITERAL.computation_only() == PAPER.computation_only()


@pytest.mark.parametrize(
    ("init", "std", "bias"),
    [
        (Init(0.03, 1.0), 0.03, 1.0),
        (Init(1.0, 0.1, by_fan_in=True), 2304**-0.5, 0.1),
        (Init(0.05, 0.0, "truncated_normal"), 0.05 * 0.8796, 0.0),  # a normal cut at two sigma
        (Init(1.0, None, "uniform", by_fan_in=True), (3 * 2304) ** -0.5, None),
    ],
    ids=str,
)
def test_initialisation_has_the_given_deviation_and_bias(init: Init, std: float, bias: float | None) -> None:
    net = AlexNet(PAPER.with_init(conv3=init), 4, 64, seed=3)
    weight, biases = (net.get_parameter(f"towers.1.conv3.{kind}") for kind in ("weight", "bias"))  # of 256 * 9 inputs
    assert weight.std().item() == pytest.approx(std, rel=0.01)
    assert abs(weight.mean().item()) < 0.02 * std
    if bias is None:
        assert 0.01 < biases.std() < biases.abs().max() <= 1 / 48
    else:
        assert (biases == bias).all()
    if init.distribution == "truncated_normal":
        assert weight.abs().max() <= 2 * init.std
