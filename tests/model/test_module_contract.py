"""The network as an ordinary nn.Module: how it is made, moved, copied and saved, and what its parameters look like."""

import copy
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils import prune

from alexnet_torch import CAFFE, PAPER_LITERAL, AlexNet, DropoutKey
from alexnet_torch.model.architecture import PAPER, Architecture, Init
from alexnet_torch.model.presets import TORCHVISION
from tests.support.nets import narrow, narrow_net, with_random_weights


def random_images(rows: int = 2) -> Tensor:
    """Images as the network reads them, (N, 3, H, W), float32."""
    return torch.randn(rows, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 50


def test_an_architecture_can_be_named_and_one_device_needs_no_list() -> None:
    with torch.device("meta"):
        for name, architecture in (("caffe", CAFFE), ("paper", PAPER), ("paper_literal", PAPER_LITERAL)):
            assert AlexNet(name).architecture is architecture
        assert AlexNet().architecture is PAPER
        with pytest.raises(ValueError, match=r"^no architecture 'vgg'; there are paper, .*caffe.*paper_literal"):
            AlexNet("vgg")
        with pytest.raises(TypeError, match=r"^architecture must be an Architecture or a name, not int$"):
            AlexNet(224)  # type: ignore[arg-type]
    for device in ("meta", torch.device("meta"), ["meta"], ("meta", "meta")):
        assert {p.device.type for p in AlexNet(devices=device).parameters()} == {"meta"}
    with pytest.raises(ValueError, match=r"^devices: 'c' is not a device; try cpu"):
        AlexNet(devices=["c", "p"])
    with pytest.raises(ValueError, match=r"^devices: 3 devices for 2 tower\(s\); name one device, or one for each$"):
        AlexNet(devices=["cpu"] * 3)
    with pytest.raises(TypeError, match=r"^devices: 1 is neither the name of a device nor a torch.device"):
        AlexNet(devices=[1, 1])  # type: ignore[list-item]


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


def test_every_convolution_reads_and_writes_channels_last_and_data_parallel_is_refused() -> None:
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


@pytest.mark.parametrize("rows", [4, 40])
def test_a_hook_on_a_linear_layer_changes_no_bit(rows: int) -> None:
    net, images = with_random_weights(narrow_net()).eval(), random_images(rows)
    logits = net(images)
    net.towers["0"].get_submodule("fc7").register_forward_hook(lambda *_: None)
    assert torch.equal(net(images), logits)


def test_a_stack_of_networks_under_vmap_equals_each_network() -> None:
    nets, images = [with_random_weights(narrow_net(), gain).eval() for gain in (0.9, 1.0, 1.1)], random_images()
    state, base = stack_module_state(nets), copy.deepcopy(nets[0]).to("meta")
    logits = vmap(lambda *state: functional_call(base, state, (images,)))(*state)
    torch.testing.assert_close(logits, torch.stack([net(images) for net in nets]), rtol=1e-5, atol=1e-4)


def quantised(module: nn.Module) -> nn.Module:
    """Returns a copy with torch's dynamic quantisation, of whose end torch warns."""
    with warnings.catch_warnings(action="ignore"):
        copied: nn.Module = torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, torch.qint8)
    return copied


def test_dynamic_quantisation_finds_the_linear_layers() -> None:
    """Each layer is compared with torch's own quantisation of the same layer, for the same input."""
    net, seen = with_random_weights(narrow_net()).eval(), list[tuple[nn.Module, Tensor, Tensor]]()
    small = quantised(net)
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear):
            hook = small.get_submodule(name).register_forward_hook
            hook(lambda _, x, y, layer=layer: seen.append((layer, x[0], y)))
    small(random_images())
    assert len(seen) == 6
    for layer, x, y in seen:
        assert torch.equal(y, quantised(nn.Sequential(layer))(x))


def test_fsdp2_computes_the_same_step(tmp_path: Path) -> None:
    net = with_random_weights(narrow_net()).eval()
    sharded = copy.deepcopy(net)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
        for module in (net, sharded):
            optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
            module(random_images()).square().mean().backward()
            optimizer.step()
        for name, value in sharded.state_dict().items():
            torch.testing.assert_close(value.full_tensor(), net.state_dict()[name], rtol=1e-6, atol=1e-7)
    finally:
        dist.destroy_process_group()


def losses_of_a_plain_loop(architecture: Architecture) -> list[float]:
    """Trains on 48 digits as a user would who takes the defaults; returns each step's loss."""
    digits = load_digits()
    pixels = torch.tensor(digits.images[:48] * 255 / 16).float()[:, None]  # from 8x8 pixels of 0..16
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
