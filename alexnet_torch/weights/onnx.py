"""Reads ONNX files: those that this package wrote, and graphs of a preset, which onnxruntime's logits tell."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor

from alexnet_torch.files import reading
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.architecture import PAPER, Architecture
from alexnet_torch.model.presets import PRESETS
from alexnet_torch.model.tower import has_tower, parameter_name
from alexnet_torch.weights.grouped import CONV1, grouped_shapes, grouped_to_towers, require_alexnet
from alexnet_torch.weights.model_file import description_from_metadata
from alexnet_torch.weights.weight_file import WeightFile, from_state

TOLERANCE = 1e-3  # of the largest logit: ten times what float32 sums in another order have shown
_EXPORTERS_NAMES = ("", "main_graph", "torch_jit", "torch-jit-export")  # of any graph


def read_onnx(path: Path, image_size: int | None) -> WeightFile:
    """Reads an ONNX file, with the size of its images where it leaves that open."""
    with reading(path, "copy it again, or name an ONNX file"):
        model = onnx.load(path)
        stored = {tensor.name.removeprefix("net."): tensor for tensor in model.graph.initializer}
        arrays = {name: numpy_helper.to_array(tensor) for name, tensor in stored.items() if has_tower(name)}
        towers = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
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
    graph, stored = model.graph, {tensor.name for tensor in model.graph.initializer}
    layers = list(_layers(graph))
    convs = sum(kind == "Conv" for kind, *_ in layers)
    require_alexnet(convs, len(layers) - convs)
    last = layers[-1][-1]
    images = [value for value in graph.input if value.name not in stored]
    if len(images) != 1 or len(graph.output) != 1:
        raise ValueError(f"its graph has {len(images)} inputs and {len(graph.output)} outputs; must be 1 and 1")
    dims = [dim.dim_value for dim in images[0].type.tensor_type.shape.dim]  # (N, 3, H, W); 0 where it is open
    rows, _, height, width = dims if len(dims) == 4 else (0, 3, 0, 0)
    size = height or image_size
    if size is None or height != width:
        raise ValueError(f"its images are {width} x {height}; must be square, or open with --image-size")
    random = torch.empty(1, 3, size, size).uniform_(-128, 128, generator=torch.Generator().manual_seed(0))
    with reading(path, "name an AlexNet weight file"):
        batch = random.expand(max(rows, 1), -1, -1, -1)
        values = _run(model, images[0].name, batch, (name for _, *tensors in layers for name in tensors))
    weights, names = dict[str, Tensor](), dict[str, str]()
    for stage, (kind, weight, bias, _) in zip(PAPER.stage_names, layers, strict=True):
        value = values[weight].T.contiguous() if kind == "transposed" else values[weight]
        values_of_bias = values[bias].flatten() if bias else torch.zeros(len(value))  # of an Add node, (C, 1, 1)
        weights |= {parameter_name(stage, "weight"): value, parameter_name(stage, "bias"): values_of_bias}
        names |= {parameter_name(stage, "weight"): weight, parameter_name(stage, "bias"): bias or f"{weight}'s bias"}
    file = WeightFile(path, weights, names, image_size=size)
    logits, output = (values[name].flatten()[: file.num_classes] for name in (last, graph.output[0].name))
    ends = (logits, logits.softmax(0), logits.log_softmax(0))
    if output.shape != logits.shape or not any(map(output.allclose, ends)):
        raise ValueError("its output is neither the last layer's nor the softmax of it")
    found = _distances(file, random, logits)
    if not found:
        return file  # whose shapes the caller compares
    difference, net = min(found, key=lambda pair: pair[0])
    numbers = f"to {difference:.2g} of {float(logits.abs().max()):.3g}"
    if not difference <= TOLERANCE * float(logits.abs().max()):  # also if either is not a number
        raise ValueError(f"no architecture here computes onnxruntime's logits; for a random image {net.name} {numbers}")
    inputs = None
    if net.name in ("caffe", "caffenet") and any(node.op_type == "LRN" for node in graph.node):
        inputs = "caffe"  # PyTorch exports its normalisation as other nodes
    elif net.name == "torchvision" and names[CONV1].endswith("features.0.weight"):
        inputs = "imagenet"
    same = f"onnxruntime computes the same logits for a random image, {numbers}"
    return replace(file, inputs=inputs, architecture=net, notes=(same,))


def _layers(graph: onnx.GraphProto) -> Iterator[tuple[str, str, str, str]]:
    """Yields for each layer: Conv, linear or transposed, which is (in, out); and its weight, bias or "", and output."""
    readers = {name: node for node in reversed(graph.node) for name in node.input}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            bias, output = "".join(node.input[2:]), node.output[0]
            add = readers.get(output)
            if not bias and add is not None and add.op_type == "Add":
                bias, output = "".join(name for name in add.input if name != output), add.output[0]
            is_linear = any(each.name == "transB" and each.i for each in node.attribute)
            kind = "Conv" if node.op_type == "Conv" else "linear" if is_linear else "transposed"
            yield kind, node.input[1], bias, output


def _run(model: onnx.ModelProto, reads: str, images: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """Returns the graph's output, and values of it by name, stored or computed, for images (N, 3, H, W)."""
    outputs = list(dict.fromkeys([model.graph.output[0].name, *filter(None, names)]))
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs[1:])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # none of its lines: the exception has them
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    values = session.run(outputs, {reads: images.numpy()})
    return {name: torch.from_numpy(value.copy()).float() for name, value in zip(outputs, values, strict=True)}


def _distances(file: WeightFile, image: Tensor, logits: Tensor) -> list[tuple[float, Architecture]]:
    """Returns how far the presets with the file's shapes, also with other roundings in pooling, are from its logits."""
    size, classes, distances = image.shape[-1], file.num_classes, []
    shapes = {name: tuple(value.shape) for name, value in file.weights.items()}
    roundings: tuple[bool | tuple[str, ...] | None, ...] = (None, False, True, ("conv5",))
    for preset, rounding in product(PRESETS.values(), roundings):
        net = preset if rounding is None else replace(preset, pool_ceil=rounding)
        if net.fits(size) and classes >= net.towers and grouped_shapes(net, classes, size) == shapes:
            network = AlexNet(net, classes, size, torch.device("meta")).eval()
            network.load_state_dict(grouped_to_towers(file.weights, net.towers), assign=True)
            with torch.no_grad():
                distances.append((float((network(image)[0] - logits).abs().max()), net))
    return distances
