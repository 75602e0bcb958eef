"""The network as an ordinary nn.Module: how it is made, moved, copied and saved, and what its parameters look like."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from alexnet_torch import CAFFE, AlexNet, DropoutKey
from alexnet_torch.model.architecture import PAPER, Architecture
from alexnet_torch.model.presets import TORCHVISION
from tests.support.nets import narrow, narrow_net, with_random_weights


def random_images(rows: int = 2, size: int = 64) -> Tensor:
    """Images as the network reads them, (N, 3, H, W), float32."""
    return torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(1)) * 50


def test_an_architecture_can_be_named() -> None:
    with torch.device("meta"):
        assert AlexNet("caffe").architecture is CAFFE
        with pytest.raises(ValueError, match=r"^no architecture 'vgg'; there are paper, .*caffe.*torchvision$"):
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
        loss = nn.functional.cross_entropy(net(images, DropoutKey(0, 0)), labels)
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
