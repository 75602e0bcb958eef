"""Reads ONNX files: those that this package wrote, and graphs of a preset, which onnxruntime's logits tell."""

from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from alexnet_torch.files import reading
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.architecture import PAPER, Architecture
from alexnet_torch.model.presets import PRESETS
from alexnet_torch.model.tower import has_tower, kind_of, parameter_name, stage_of
from alexnet_torch.weights.grouped import CONV1, grouped_shapes, grouped_to_towers, require_alexnet
from alexnet_torch.weights.model_file import description_from_metadata
from alexnet_torch.weights.weight_file import WeightFile, from_state

TOLERANCE = 1e-3
"""Of the largest logit: ten times the difference that float32 sums in another order have shown."""

_EXPORTERS_NAMES = ("", "main_graph", "torch_jit", "torch-jit-export")  # of every graph, whatever it computes


def read_onnx(path: Path, image_size: int | None) -> WeightFile:
    """Reads an ONNX file, and the data files beside it that it names.

    Args:
        path: the file.
        image_size: side of the images of a graph that leaves it open.

    Raises:
        ValueError: it is not the graph of a preset; the message says what it seems to be.
    """
    with reading(path, "copy it again, or name an ONNX file"):
        model = onnx.load(path)
        stored = {tensor.name.removeprefix("net."): tensor for tensor in model.graph.initializer}  # of PixelNet.net
        towers = {
            name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
            for name, tensor in stored.items()
            if has_tower(name)
        }
        description = description_from_metadata({entry.key: entry.value for entry in model.metadata_props}, towers)
    if description is not None:
        return from_state(path, towers, description)
    name = model.graph.name
    try:
        return _read_graph(path, model, image_size)
    except ValueError as error:
        raise ValueError(str(error) if name in _EXPORTERS_NAMES else f"it seems to be {name}: {error}") from error


def _read_graph(path: Path, model: onnx.ModelProto, image_size: int | None) -> WeightFile:
    """Reads the weights of a graph by the order of its layers, and finds the preset that computes its logits."""
    graph = model.graph
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    convs = sum(node.op_type == "Conv" for node in layers)
    require_alexnet(convs, len(layers) - convs)
    stored = {tensor.name for tensor in graph.initializer}
    images = [value for value in graph.input if value.name not in stored]
    if len(images) != 1 or len(graph.output) != 1:
        raise ValueError(f"its graph has {len(images)} inputs and {len(graph.output)} outputs; must be 1 and 1")
    dims = [dim.dim_value for dim in images[0].type.tensor_type.shape.dim]  # (N, 3, H, W); 0 where it is open
    batch, _, height, width = dims if len(dims) == 4 else (0, 3, 0, 0)
    size = height or image_size
    if size is None or height != width:
        raise ValueError(f"its images are {width} x {height}; must be square, or open with --image-size")
    readers = {name: node for node in reversed(graph.node) for name in node.input}
    names: dict[str, str] = {}
    transposed, logits = set(), ""
    for stage, node in zip(PAPER.stage_names, layers, strict=True):
        weight, bias, logits = node.input[1], "".join(node.input[2:]), node.output[0]
        add = readers.get(logits)
        if not bias and add is not None and add.op_type == "Add":
            bias, logits = "".join(name for name in add.input if name != logits), add.output[0]
        names |= {parameter_name(stage, "weight"): weight, parameter_name(stage, "bias"): bias or f"{weight} (no bias)"}
        settings = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        if node.op_type != "Conv" and not settings.get("transB"):
            transposed.add(weight)
    random = torch.empty(1, 3, size, size).uniform_(-128, 128, generator=torch.Generator().manual_seed(0))
    values = _run(path, model, [*names.values(), logits], random.expand(max(batch, 1), -1, -1, -1))
    weights: dict[str, Tensor] = {}
    for name, own in names.items():
        if own in transposed:
            weights[name] = values[own].T.contiguous()
        elif own in values:
            weights[name] = values[own].flatten() if kind_of(name) == "bias" else values[own]
        else:
            weights[name] = torch.zeros(len(weights[parameter_name(stage_of(name), "weight")]))
    expected, output = values[logits].flatten(1)[0], values[graph.output[0].name].flatten(1)[0]
    if not any(map(output.allclose, (expected, expected.softmax(0), expected.log_softmax(0)))):
        raise ValueError("its output is neither the last layer's nor the softmax of it")
    file = WeightFile(path, weights, names, image_size=size)
    found = [(float((_logits(net, file, random) - expected).abs().max()), net) for net in _candidates(file)]
    if not found:
        return file  # whose shapes the caller compares
    difference, architecture = min(found, key=lambda pair: pair[0])
    largest = float(expected.abs().max())
    if not difference <= TOLERANCE * largest:  # also if either is not a number
        raise ValueError(
            f"no architecture here computes its logits: for a random image those of {architecture.name} differ by "
            f"{difference:.3g} from onnxruntime's, whose largest is {largest:.3g}"
        )
    inputs = None
    if architecture.name in ("caffe", "caffenet") and any(node.op_type == "LRN" for node in graph.node):
        inputs = "caffe"  # PyTorch exports its normalisation as other nodes
    elif architecture.name == "torchvision" and names[CONV1].endswith("features.0.weight"):
        inputs = "imagenet"
    same = f"onnxruntime computes the same logits for a random image, to {difference:.1g} of {largest:.3g}"
    return replace(file, inputs=inputs, architecture=architecture, notes=(same,))


def _run(path: Path, model: onnx.ModelProto, names: list[str], images: Tensor) -> dict[str, Tensor]:
    """Returns values of the graph, stored or computed, and its output, for images (N, 3, H, W)."""
    graph = model.graph
    (reads,) = (value.name for value in graph.input if value.name not in {tensor.name for tensor in graph.initializer})
    known = {tensor.name for tensor in graph.initializer} | {name for node in graph.node for name in node.output}
    outputs = [graph.output[0].name, *(name for name in dict.fromkeys(names) if name in known)]
    del graph.output[1:]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name != outputs[0])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # none of its lines: the exception has them
    with reading(path, "name an AlexNet weight file"):
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        values = session.run(outputs, {reads: images.numpy()})
    return {name: torch.from_numpy(value.copy()).float() for name, value in zip(outputs, values, strict=True)}


def _candidates(file: WeightFile) -> list[Architecture]:
    """Returns the presets with the file's shapes, and as variants of them other roundings of sides in pooling."""
    size, classes = file.image_size or 0, file.num_classes
    shapes = {name: tuple(value.shape) for name, value in file.weights.items()}
    roundings: tuple[bool | tuple[str, ...], ...] = (False, True, ("conv5",))
    return [
        net
        for preset in PRESETS.values()
        for net in (preset, *(replace(preset, pool_ceil=rounding) for rounding in roundings))
        if net.fits(size) and classes >= net.towers and grouped_shapes(net, classes, size) == shapes
    ]


def _logits(architecture: Architecture, file: WeightFile, image: Tensor) -> Tensor:
    """Returns the logits (classes,) of a network with the file's weights for an image (1, 3, S, S)."""
    net = AlexNet(architecture, file.num_classes, image.shape[-1], torch.device("meta"))
    net.load_state_dict(grouped_to_towers(file.weights, architecture.towers), assign=True)
    with torch.no_grad():
        logits: Tensor = net.eval()(image)
    return logits[0]
