"""Graphs of ONNX files: every constant is taken into the architecture, or refused by name."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from alexnet_torch.model.presets import PRESETS
from alexnet_torch.weights import onnx_network
from alexnet_torch.weights.file_network import ActivationStep
from alexnet_torch.weights.model_file import TrainedModel
from tests.support.caffe_files import (
    CLASSES,
    GROUPS,
    SIZE,
    WIDTHS,
    random_caffe_weights,
)
from tests.support.imports import (
    BGR_MEAN,
    assert_computes,
    images_of,
    import_error,
    import_file,
    set_size,
    write_onnx,
)

CAFFES_IMAGES = ("--inputs", "caffe")


pytestmark = pytest.mark.usefixtures("narrow_presets")


def nodes(model: onnx.ModelProto, kind: str) -> Iterator[onnx.NodeProto]:
    return (node for node in model.graph.node if node.op_type == kind)


def change(node: onnx.NodeProto, **attributes: Any) -> None:
    kept = [each for each in node.attribute if each.name not in attributes]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in attributes.items())])


def assert_imports_as_onnxruntime_computes(file: Path, size: int, *options: str) -> TrainedModel:
    images = images_of(size)
    session = onnxruntime.InferenceSession(file)
    name = session.get_inputs()[0].name
    rows = [session.run(None, {name: (row[None].flip(1) - BGR_MEAN).numpy()})[0] for row in images]
    model = import_file(file, *options)
    assert model.net.image_size == size
    assert_computes(model, images, torch.cat([torch.from_numpy(row).reshape(1, -1) for row in rows]))
    return model


def stride_2(model: onnx.ModelProto) -> None:
    change(next(nodes(model, "Conv")), strides=[2, 2])
    set_size(model, 39)  # whose 15 windows are those of 67 pixels at stride 4


def alpha_times_10(model: onnx.ModelProto) -> None:
    for node in nodes(model, "LRN"):
        change(node, alpha=1e-3)


def k_2(model: onnx.ModelProto) -> None:
    for node in nodes(model, "LRN"):
        change(node, bias=2.0, size=3)


def tanh(model: onnx.ModelProto) -> None:
    for node in nodes(model, "Relu"):
        node.op_type = "Tanh"


def one_tanh(model: onnx.ModelProto) -> None:
    next(nodes(model, "Relu")).op_type = "Tanh"


def same_padding(model: onnx.ModelProto) -> None:
    for node in list(nodes(model, "Conv"))[1:]:
        change(node, auto_pad="SAME_UPPER")
        node.attribute.remove(next(each for each in node.attribute if each.name == "pads"))


def matmul_and_add(model: onnx.ModelProto) -> None:
    for node in list(nodes(model, "Gemm")):
        index = list(model.graph.node).index(node)
        data, weight, bias = node.input
        stored = next(tensor for tensor in model.graph.initializer if tensor.name == weight)
        stored.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stored).T.copy(), weight))
        product = helper.make_node("MatMul", [data, weight], [f"{weight}_product"])
        add = helper.make_node("Add", [f"{weight}_product", bias], list(node.output))
        model.graph.node.remove(node)
        model.graph.node.insert(index, product)
        model.graph.node.insert(index + 1, add)


@pytest.mark.parametrize(
    ("edit", "size", "difference"),
    [
        (stride_2, 39, "conv1.stride 2 instead of 4"),
        (alpha_times_10, SIZE, "norm.alpha 0.001 instead of 0.0001"),
        (k_2, SIZE, "norm.window 3 instead of 5, norm.k 2.0 instead of 1.0"),
        (tanh, SIZE, "linear_activation tanh instead of relu"),
        (one_tanh, SIZE, "conv1.after ('tanh', 'norm', 'pool') instead of ('relu', 'norm', 'pool')"),
        (same_padding, SIZE, ""),
        (matmul_and_add, SIZE, ""),
    ],
)
def test_a_graphs_constants_are_taken_into_the_architecture(
    edit: Callable[[onnx.ModelProto], None],
    size: int,
    difference: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "net.onnx"
    write_onnx(file, random_caffe_weights(), False)
    model = onnx.load(file)
    edit(model)
    onnx.save(model, file)
    imported = assert_imports_as_onnxruntime_computes(file, size, *CAFFES_IMAGES)
    assert "onnxruntime computes the same logits for a random image" in capsys.readouterr().out
    assert (imported.net.architecture == PRESETS["caffe"]) == (difference == "")
    if difference:
        error = import_error(capsys, file, "--architecture", "caffe", *CAFFES_IMAGES)
        assert "differs from caffe at" in error
        assert difference in error


def average_pool(model: onnx.ModelProto) -> str:
    node = next(nodes(model, "MaxPool"))
    node.op_type, node.name = "AveragePool", "pool1"
    return "AveragePool pool1 pools by the average after a stage before conv5"


def leaky(model: onnx.ModelProto) -> str:
    next(nodes(model, "Relu")).op_type = "LeakyRelu"
    return "LeakyRelu t1 cannot be represented in an AlexNet"


def rounded(model: onnx.ModelProto) -> str:
    model.graph.node.insert(0, helper.make_node("Cast", ["data_0"], ["integers"], to=onnx.TensorProto.INT32))
    model.graph.node[1].input[0] = "integers"
    return "Cast integers cannot be represented in an AlexNet"


def dilated(model: onnx.ModelProto) -> str:
    change(list(nodes(model, "Conv"))[2], dilations=[2, 2], pads=[2, 2, 2, 2])
    return "is dilated"


def different_norms(model: onnx.ModelProto) -> str:
    change(next(nodes(model, "LRN")), beta=0.5)
    return "window 5, alpha 0.0001, beta 0.75, k 1.0, but LRN t2 window 5, alpha 0.0001, beta 0.5, k 1.0; all stages"


def even_window(model: onnx.ModelProto) -> str:
    for node in nodes(model, "LRN"):
        change(node, size=4)
    return "LRN t2 cannot be represented: Norm.window must be odd"


def left_padding(model: onnx.ModelProto) -> str:
    change(next(nodes(model, "MaxPool")), pads=[1, 1, 0, 0])
    return "MaxPool t3 pads (left, right, top, bottom) by (1, 0, 1, 0)"


def branch(model: onnx.ModelProto) -> str:
    model.graph.node.insert(2, helper.make_node("Sigmoid", ["t1"], ["s"]))
    model.graph.node[3].input[0] = "s"
    model.graph.node.append(helper.make_node("Mul", ["t1", "s"], ["unused"]))
    return "Relu t1 leads to Sigmoid s, Mul unused; an AlexNet has one path from images to logits"


def mean_inside(model: onnx.ModelProto) -> str:
    model.graph.initializer.append(numpy_helper.from_array(BGR_MEAN[None].numpy(), "mean"))
    model.graph.node.insert(0, helper.make_node("Sub", ["data_0", "mean"], ["centred"]))
    model.graph.node[1].input[0] = "centred"
    return "Sub centred cannot be represented in an AlexNet"


def groups(model: onnx.ModelProto) -> str:
    change(list(nodes(model, "Conv"))[4], group=4)
    return "has 2 groups; an AlexNet of 4 towers cannot have that"


def size_option(model: onnx.ModelProto) -> str:
    set_size(model, 64)
    return f"--image-size {SIZE}"


@pytest.mark.parametrize(
    "edit",
    [
        average_pool,
        leaky,
        dilated,
        different_norms,
        even_window,
        left_padding,
        branch,
        mean_inside,
        groups,
        size_option,
    ],
)
def test_what_cannot_be_represented_is_refused_by_name(
    edit: Callable[[onnx.ModelProto], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.onnx"
    write_onnx(file, random_caffe_weights(), False)
    model = onnx.load(file)
    named = edit(model)
    onnx.save(model, file)
    assert named in import_error(capsys, file, *CAFFES_IMAGES, "--image-size", str(SIZE))


def test_an_open_image_size_is_that_of_the_option(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    write_onnx(file, random_caffe_weights(), False)
    model = onnx.load(file)
    set_size(model, "side")
    onnx.save(model, file)
    assert_imports_as_onnxruntime_computes(file, SIZE, "--image-size", str(SIZE))


def pytorch_net() -> nn.Sequential:
    """A narrow AlexNet of plain modules; its normalisation is across all channels, as Caffe's."""

    def conv(stage: str, inputs: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Conv2d:
        return nn.Conv2d(inputs, WIDTHS[stage], kernel, stride, padding, groups=GROUPS.get(stage, 1))

    def norm_and_pool() -> list[nn.Module]:
        return [nn.ReLU(), nn.LocalResponseNorm(5, 1e-3, 0.75, 2.0), nn.MaxPool2d(3, 2)]

    torch.manual_seed(0)
    layers = [
        *(conv("conv1", 3, 11, stride=4), *norm_and_pool(), conv("conv2", 16, 5, padding=2), *norm_and_pool()),
        *(conv("conv3", 32, 3, padding=1), nn.ReLU(), conv("conv4", 24, 3, padding=1), nn.ReLU()),
        *(conv("conv5", 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Dropout()),
        *(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 40), nn.ReLU(), nn.Linear(40, CLASSES, bias=False)),
    ]
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, (2 / layer.weight[0].numel()) ** 0.5)
    return nn.Sequential(*layers).eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [True, False], ids=["torch.export", "TorchScript"])
def test_pytorchs_response_normalisation_is_recognised(dynamo: bool, tmp_path: Path) -> None:
    net, file, images = pytorch_net(), tmp_path / "net.onnx", images_of(SIZE)
    names: dict[str, Any] = {"dynamic_shapes": ({0: torch.export.Dim("batch")},), "verbose": False}
    if not dynamo:
        names = {"input_names": ["images"], "dynamic_axes": {"images": {0: "batch"}}}
    torch.onnx.export(net, (torch.zeros(2, 3, SIZE, SIZE),), file, dynamo=dynamo, **names)
    model = import_file(file, "--inputs", "rgb", "--mean", "1,2,3")
    norm = model.net.architecture.norm
    assert (norm.window, norm.alpha, norm.beta, norm.k, norm.across_towers) == (5, 1e-3, 0.75, 2.0, True)
    with torch.no_grad():
        assert_computes(model, images, net(images - torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)))


def test_the_last_check_finds_a_network_that_computes_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.onnx"
    write_onnx(file, random_caffe_weights(), False)
    wrong = {"Relu": lambda node: ActivationStep(node.name, "tanh")}
    monkeypatch.setattr(onnx_network, "_CONVERSIONS", {**onnx_network._CONVERSIONS, **wrong})
    assert "for a random image onnxruntime computes logits that differ by" in import_error(capsys, file, *CAFFES_IMAGES)


def test_without_onnxruntime_a_line_says_that_nothing_was_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.onnx"
    write_onnx(file, random_caffe_weights(), False)
    monkeypatch.setattr(importlib.util, "find_spec", {}.get)
    import_file(file)
    assert "not compared with the imported network; pip install onnxruntime" in capsys.readouterr().out
