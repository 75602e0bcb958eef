"""Graphs of ONNX files: a preset is recognised by onnxruntime's logits, and all else is refused by name."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from alexnet_torch import AlexNet, plain
from alexnet_torch.model.presets import PRESETS
from alexnet_torch.weights.model_file import TrainedModel
from tests.support.caffe_files import CLASSES, SIZE, random_caffe_weights
from tests.support.imports import (
    BGR_MEAN,
    assert_computes,
    import_error,
    import_file,
    rgb_images,
    set_size,
    write_onnx,
)
from tests.support.nets import with_random_weights

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
pytestmark = pytest.mark.usefixtures("narrow_presets")


def nodes(model: onnx.ModelProto, kind: str) -> Iterator[onnx.NodeProto]:
    return (node for node in model.graph.node if node.op_type == kind)


def edited(file: Path, edit: Callable[[onnx.ModelProto], None]) -> Path:
    write_onnx(file, random_caffe_weights(), False)
    model = onnx.load(file)
    edit(model)
    onnx.save(model, file)
    return file


def assert_imports_as_onnxruntime_computes(file: Path, size: int, *options: str, output: str = "") -> TrainedModel:
    images, graph = rgb_images(size), onnx.load(file)
    if output:  # before softmax
        graph.graph.output.append(onnx.ValueInfoProto(name=output))
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    name = session.get_inputs()[0].name
    rows = [session.run([output] if output else None, {name: (row[None].flip(1) - BGR_MEAN).numpy()}) for row in images]
    model = import_file(file, *options)
    assert model.net.image_size == size
    assert_computes(model, images, torch.cat([torch.from_numpy(row).reshape(1, -1) for (row,) in rows]))
    return model


def unchanged(_: onnx.ModelProto) -> None:
    pass


def matmul_and_add(model: onnx.ModelProto) -> None:
    for node in list(nodes(model, "Gemm")):
        index, (data, weight, bias) = list(model.graph.node).index(node), node.input
        stored = next(tensor for tensor in model.graph.initializer if tensor.name == weight)
        stored.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stored).T.copy(), weight))
        model.graph.node.remove(node)
        model.graph.node.insert(index, helper.make_node("MatMul", [data, weight], [f"{weight}_product"]))
        model.graph.node.insert(index + 1, helper.make_node("Add", [f"{weight}_product", bias], list(node.output)))


def without_a_bias(model: onnx.ModelProto) -> None:
    node = list(nodes(model, "Conv"))[3]
    del node.input[2]


def computed_weights(model: onnx.ModelProto) -> None:
    """conv3's weights are twice a stored tensor."""
    node = list(nodes(model, "Conv"))[2]
    weight = node.input[1]
    model.graph.initializer.append(numpy_helper.from_array(np.array(2, np.float32), "two"))
    model.graph.node.insert(0, helper.make_node("Mul", [weight, "two"], ["doubled"]))
    node.input[1] = "doubled"


def softmax(model: onnx.ModelProto) -> None:
    logits = model.graph.output[0].name
    model.graph.node.append(helper.make_node("Softmax", [logits], ["probabilities"]))
    model.graph.output[0].name = "probabilities"


@pytest.mark.parametrize("edit", [unchanged, matmul_and_add, without_a_bias, computed_weights, softmax])
def test_caffes_graph_is_recognised_however_it_is_written(
    edit: Callable[[onnx.ModelProto], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = edited(tmp_path / "net.onnx", edit)
    logits = "" if edit is not softmax else list(nodes(onnx.load(file), "Gemm"))[-1].output[0]
    model = assert_imports_as_onnxruntime_computes(file, SIZE, output=logits)
    assert model.net.architecture == PRESETS["caffe"]
    assert "onnxruntime computes the same logits for a random image, to" in capsys.readouterr().out
    error = import_error(capsys, file, "--architecture", "paper")
    assert f"--architecture paper: that of {file} is caffe; leave out --architecture" in error
    assert f"--image-size 64: that of {file} is {SIZE}; leave" in import_error(capsys, file, "--image-size", "64")


@pytest.mark.parametrize("transposed", [False, True], ids=["transB", "plain"])
def test_caffenet_pools_before_it_normalises(transposed: bool, tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    write_onnx(file, random_caffe_weights(), transposed, pool_first=True)
    assert assert_imports_as_onnxruntime_computes(file, SIZE).net.architecture == PRESETS["caffenet"]


def test_an_open_image_size_is_that_of_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = edited(tmp_path / "net.onnx", lambda model: set_size(model, "side"))
    assert "must be square, or open with --image-size" in import_error(capsys, file)
    assert_imports_as_onnxruntime_computes(file, SIZE, "--image-size", str(SIZE))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "dynamo"), [("caffe", False), ("source_2012", True)])
def test_a_graph_of_another_program_may_be_any_preset(name: str, dynamo: bool, tmp_path: Path) -> None:
    """PyTorch exports the normalisation as some ten nodes, and says nothing about the images."""
    net, images = with_random_weights(AlexNet(PRESETS[name], CLASSES, 64), 2**0.5, 0.5**0.5).eval(), rgb_images(64)
    file = tmp_path / "net.onnx"
    names: dict[str, Any] = {"dynamic_shapes": ({0: torch.export.Dim("batch")},), "verbose": False}
    if not dynamo:
        names = {"input_names": ["images"], "dynamic_axes": {"images": {0: "batch"}}}
    torch.onnx.export(plain(net), (torch.zeros(2, 3, 64, 64),), file, dynamo=dynamo, **names)
    model = import_file(file, "--inputs", "rgb", "--mean", "1,2,3")
    assert model.net.architecture == PRESETS[name]
    with torch.no_grad():
        assert_computes(model, images, net(images - torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)))


def light_alexnet(weights: dict[str, Tensor], size: int) -> onnx.ModelProto:
    """Returns onnx's light_bvlc_alexnet with these weights, in place of those that it computes."""
    model = onnx.load(LIGHT / "light_bvlc_alexnet.onnx")
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    stored["OC2_DUMMY_1"].CopyFrom(numpy_helper.from_array(torch.tensor([1, -1]).numpy(), "OC2_DUMMY_1"))
    for name, value in weights.items():
        stage, _, kind = name.partition(".")
        own = f"{stage}_{kind[0]}_0"
        model.graph.node.remove(next(node for node in model.graph.node if node.output[0] == own))
        model.graph.initializer.append(numpy_helper.from_array(value.numpy(), own))
    del model.graph.input[1:]  # initialisers with their full shapes, which newer files need not repeat
    model.ir_version = 8
    set_size(model, size)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    return model


def test_onnxs_own_alexnet_computes_what_onnxruntime_computes(tmp_path: Path) -> None:
    """At 224 pixels its first poolings round down and its last, with pads 0, 0, 1, 1, rounds up, as in the zoo's."""
    weights = random_caffe_weights()
    weights["fc6.weight"] = torch.randn(48, 16 * 36, generator=torch.Generator().manual_seed(3)) * (2 / 576) ** 0.5
    onnx.save(light_alexnet(weights, 224), tmp_path / "light.onnx")
    model = assert_imports_as_onnxruntime_computes(tmp_path / "light.onnx", 224, output="r24")
    assert (model.net.architecture.name, model.net.architecture.pool_ceil) == ("caffe", ("conv5",))


@pytest.mark.slow  # 61 million parameters
def test_onnxs_own_alexnet_is_imported_as_it_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are computed by the graph; all are equal."""
    monkeypatch.undo()
    file = tmp_path / "light_bvlc_alexnet.onnx"
    shutil.copy(LIGHT / file.name, file)
    model = import_file(file)
    assert sum(value.numel() for value in model.net.parameters()) == 60_965_224


def alpha_times_10(model: onnx.ModelProto) -> str:
    for node in nodes(model, "LRN"):
        next(each for each in node.attribute if each.name == "alpha").f = 1e-3
    return "no architecture here computes onnxruntime's logits"


def mean_inside(model: onnx.ModelProto) -> str:
    model.graph.initializer.append(numpy_helper.from_array(BGR_MEAN[None].numpy(), "mean"))
    model.graph.node.insert(0, helper.make_node("Sub", ["data_0", "mean"], ["centred"]))
    model.graph.node[1].input[0] = "centred"
    return "no architecture here computes onnxruntime's logits"


def sigmoid_at_the_end(model: onnx.ModelProto) -> str:
    model.graph.node.append(helper.make_node("Sigmoid", [model.graph.output[0].name], ["scores"]))
    model.graph.output[0].name = "scores"
    return "its output is neither the last layer's nor the softmax of it"


def unknown_operator(model: onnx.ModelProto) -> str:
    next(nodes(model, "Relu")).op_type = "NoSuchOperator"
    return "net.onnx: is damaged ("


def two_outputs(model: onnx.ModelProto) -> str:
    model.graph.output.append(onnx.ValueInfoProto(name=model.graph.node[0].output[0]))
    return "its graph has 1 inputs and 2 outputs; must be 1 and 1"


def narrower(model: onnx.ModelProto) -> str:
    kept: dict[str, Any] = {"fc7_w_0": np.s_[:-1], "fc7_b_0": np.s_[:-1], "fc8_w_0": np.s_[:, :-1]}
    for tensor in model.graph.initializer:
        if tensor.name in kept:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[kept[tensor.name]], tensor.name))
    return "fc7_w_0 is (39, 48); in paper at 67 pixels it is (40, 48)"


@pytest.mark.parametrize(
    "edit",
    [alpha_times_10, mean_inside, sigmoid_at_the_end, unknown_operator, two_outputs, narrower],
)
def test_a_graph_of_no_preset_is_refused(
    edit: Callable[[onnx.ModelProto], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    file = edited(tmp_path / "net.onnx", lambda model: said.append(edit(model)))
    assert said[0] in import_error(capsys, file)


def test_another_network_is_refused_by_its_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "light_vgg19.onnx"
    shutil.copy(LIGHT / file.name, file)
    error = import_error(capsys, file)
    assert "it has 16 convolutions and 3 linear layers, not AlexNet's 5 and 3" in error


def test_without_onnxruntime_a_line_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = edited(tmp_path / "net.onnx", unchanged)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "alexnet_torch.weights.onnx", raising=False)
    assert "needs the package onnxruntime; pip install 'alexnet_torch[exchange]'" in import_error(capsys, file)
