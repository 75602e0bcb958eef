"""Clients that trace, compile or export the network's graph."""

from pathlib import Path

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import fx
from torch.export import Dim
from torchvision.models.feature_extraction import create_feature_extractor

from alexnet_torch import plain
from tests.clients.networks import Networks, client, make_images, make_net, on_both
from tests.clients.reference import assert_near, float64_weights, logits, stage_outputs

_NO_FX = "its walk over towers and stages depends on shapes, which fx does not know"


@client("torch.fx", "`symbolic_trace`")
@on_both(AlexNet=_NO_FX)
def test_fx(network: Networks) -> None:
    net, images = make_net(), make_images(3)
    traced = fx.symbolic_trace(network(net))
    assert_near(traced(images), logits(net, images))


@client("torchvision", "`create_feature_extractor`", "torchvision")
@on_both(AlexNet=_NO_FX)
def test_feature_extractor(network: Networks) -> None:
    net, images = make_net(), make_images(3)
    names = ["norm1", "relu3", "pool5", "relu7", "fc8"]
    outputs = create_feature_extractor(network(net), return_nodes=names)(images)
    expected = stage_outputs(float64_weights(net), images)
    for name in names:
        assert_near(outputs[name], expected[name])


@client("torch.jit", "`trace`, `save`, `load`; another batch size")
@on_both()
def test_jit_trace(network: Networks, tmp_path: Path) -> None:
    net, images = make_net(), make_images(40)
    torch.jit.save(torch.jit.trace(network(net), images[:2]), tmp_path / "traced.pt")
    assert_near(torch.jit.load(tmp_path / "traced.pt")(images), logits(net, images))


@client("torch.jit", "`script`, `save`, `load`")
@on_both(AlexNet="its Python, such as its autograd functions, is more than TorchScript reads")
def test_jit_script(network: Networks, tmp_path: Path) -> None:
    net, images = make_net(), make_images(3)
    torch.jit.save(torch.jit.script(network(net)), tmp_path / "scripted.pt")
    assert_near(torch.jit.load(tmp_path / "scripted.pt")(images), logits(net, images))


@client("torch.export", "`export` with any batch size")
@on_both()
def test_export(network: Networks) -> None:
    net, images = make_net(), make_images(40)
    program = torch.export.export(network(net), (images[:2],), dynamic_shapes=({0: Dim("batch")},))
    assert_near(program.module()(images), logits(net, images))


@client("torch.compile", "logits and gradients")
def test_compile() -> None:
    net, images, labels = make_net(), make_images(3), torch.tensor([0, 3, 5])
    weights = float64_weights(net)
    expected = stage_outputs(weights, images)["fc8"]
    F.cross_entropy(expected, labels).backward()
    outputs = torch.compile(net)(images)
    F.cross_entropy(outputs, labels).backward()
    assert_near(outputs, expected)
    for name in ("conv1.weight", "conv4.bias", "fc6.weight"):
        parts = [net.get_parameter(f"towers.{tower}.{name}").grad for tower in (0, 1)]
        gradient = weights[name].grad
        assert gradient is not None
        assert_near(torch.cat([part for part in parts if part is not None]), gradient, 1e-4)


@client("torch.compile", "logits")  # compiling the backward pass too would take as long as all other tests
@pytest.mark.parametrize("network", [pytest.param(plain, id="plain")])
def test_compile_plain(network: Networks) -> None:
    net, images = make_net(), make_images(3)
    with torch.no_grad():
        assert_near(torch.compile(network(net))(images), logits(net, images))


@client("onnx and onnxruntime", "`torch.onnx.export`, run with any batch size", "onnxruntime")
@on_both()
def test_onnxruntime(network: Networks, tmp_path: Path) -> None:
    net, images = make_net(), make_images(5)
    file = tmp_path / "net.onnx"
    torch.onnx.export(
        network(net), (images[:2],), file, input_names=["images"], dynamic_shapes=({0: Dim("batch")},), verbose=False
    )
    (outputs,) = onnxruntime.InferenceSession(file).run(None, {"images": images.numpy()})
    assert_near(torch.from_numpy(outputs), logits(net, images))
