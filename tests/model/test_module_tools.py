"""PyTorch's tools that replace, flatten, shard, stack or save a module's layers and parameters."""

import copy
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.func import functional_call, stack_module_state, vmap

from alexnet_torch import AlexNet
from tests.support.nets import narrow_net, with_random_weights


def random_net(gain: float = 1.0) -> AlexNet:
    return with_random_weights(narrow_net(), gain).eval()


def images() -> Tensor:
    """(4, 3, 64, 64), of 0..255 less the mean."""
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 50


def quantised(module: nn.Module) -> nn.Module:
    """Returns a copy with torch's dynamic quantisation, of whose end torch warns."""
    with warnings.catch_warnings(action="ignore"):
        copied: nn.Module = torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, torch.qint8)
    return copied


def test_dynamic_quantisation_finds_the_linear_layers() -> None:
    """Each layer is compared with torch's own quantisation of the same layer, for the same input."""
    net = random_net()
    small = quantised(net)
    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, nn.Linear)}
    assert len(layers) == 6
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []
    for name in layers:
        small.get_submodule(name).register_forward_hook(lambda layer, x, y: seen.append((layer, x[0], y)))
    logits, expected = small(images()), net(images())
    assert len(seen) == 6
    names = {layer: name for name, layer in small.named_modules()}
    for layer, x, y in seen:
        assert torch.equal(y, quantised(nn.Sequential(layers[names[layer]]))(x))
    assert (logits - expected).abs().max() < 0.1 * expected.abs().max()  # 8 bits, three layers


@pytest.mark.parametrize("rows", [4, 40])
def test_a_hook_on_a_linear_layer_changes_no_bit(rows: int) -> None:
    net, batch = random_net(), images().repeat(10, 1, 1, 1)[:rows]
    logits = net(batch)
    net.towers["0"].get_submodule("fc7").register_forward_hook(lambda *_: None)
    assert torch.equal(net(batch), logits)


def test_a_stack_of_networks_under_vmap_equals_each_network() -> None:
    nets = [random_net(gain) for gain in (0.9, 1.0, 1.1)]
    parameters, buffers = stack_module_state(nets)
    base = copy.deepcopy(nets[0]).to("meta")

    batch = images()

    def logits(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        out: Tensor = functional_call(base, (parameters, buffers), (batch,))
        return out

    expected = torch.stack([net(batch) for net in nets])
    torch.testing.assert_close(vmap(logits)(parameters, buffers), expected, rtol=1e-5, atol=1e-4)


def test_fsdp2_computes_the_same_step(tmp_path: Path) -> None:
    net = random_net()
    sharded = copy.deepcopy(net)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
        for module in (net, sharded):
            optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
            module(images()).square().mean().backward()
            optimizer.step()
        for name, value in sharded.state_dict().items():
            torch.testing.assert_close(value.full_tensor(), net.state_dict()[name], rtol=1e-6, atol=1e-7)
    finally:
        dist.destroy_process_group()


def test_safetensors_saves_the_state_dict(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    net, other = random_net(), narrow_net().eval()
    safetensors.save_file(net.state_dict(), tmp_path / "net.safetensors")
    other.load_state_dict(safetensors.load_file(tmp_path / "net.safetensors"))
    assert torch.equal(other(images()), net(images()))
