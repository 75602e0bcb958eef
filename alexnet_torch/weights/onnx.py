"""Reads ONNX files: those that this package wrote, and graphs of a preset, which onnxruntime's logits tell."""

from collections.abc import Iterator
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
from alexnet_torch.model.tower import has_tower
from alexnet_torch.weights.model_file import description_from_metadata
from alexnet_torch.weights.state_dicts import CONV1, grouped_shapes, grouped_to_towers, require_alexnet
from alexnet_torch.weights.weight_file import WeightFile, from_state

TOLERANCE = 1e-3  # of the largest logit: ten times what float32 sums in another order have shown


def read_onnx(path: Path, image_size: int | None) -> WeightFile:
    """Reads an ONNX file, with the size of its images where it leaves that open."""
    with reading(path, "copy it again, or name an ONNX file"):
        model = onnx.load(path)
        stored = {tensor.name.removeprefix("net."): tensor for tensor in model.graph.initializer}
        arrays = {name: numpy_helper.to_array(tensor) for name, tensor in stored.items() if has_tower(name)}
        towers = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        description = description_from_metadata({entry.key: entry.value for entry in model.metadata_props}, towers)
    return from_state(path, towers, description) if description else _read_graph(path, model, image_size)


def _read_graph(path: Path, model: onnx.ModelProto, image_size: int | None) -> WeightFile:
    """Reads a graph's weights by the order of its layers, and finds the preset that computes its logits."""
    graph, stored = model.graph, {tensor.name for tensor in model.graph.initializer}
    layers = list(_layers(graph))
    convs = sum(kind == "Conv" for kind, *_ in layers)
    require_alexnet(convs, len(layers) - convs)
    images = [value for value in graph.input if value.name not in stored]
    if len(images) != 1 or len(graph.output) != 1:
        raise ValueError(f"its graph has {len(images)} inputs and {len(graph.output)} outputs; must be 1 and 1")
    dims = [dim.dim_value for dim in images[0].type.tensor_type.shape.dim]  # (N, 3, H, W); 0 where it is open
    rows, _, height, width = dims if len(dims) == 4 else (0, 3, 0, 0)
    size = height or image_size
    if size is None or height != width:
        raise ValueError(f"its images are {width} x {height}; must be square, or open with --image-size")
    random = torch.empty(1, 3, size, size).uniform_(-128, 128, generator=torch.Generator().manual_seed(0))
    end, last = graph.output[0].name, layers[-1][-1]
    with reading(path, "name an AlexNet weight file"):
        names = list(dict.fromkeys([end, *filter(None, (name for _, *tensors in layers for name in tensors))]))
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in names[1:])
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # none of its lines: the exception has them
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        computed = session.run(names, {images[0].name: random.repeat(max(rows, 1), 1, 1, 1).numpy()})
    values = {name: torch.from_numpy(value.copy()).float() for name, value in zip(names, computed, strict=True)}
    weights, names_in_file = dict[str, Tensor](), dict[str, str]()
    for stage, (kind, weight, bias, _) in zip(PAPER.stage_names, layers, strict=True):
        value = values[weight].T.contiguous() if kind == "transposed" else values[weight]
        values_of_bias = values[bias].flatten() if bias else torch.zeros(len(value))  # of an Add node, (C, 1, 1)
        weights |= {f"{stage}.weight": value, f"{stage}.bias": values_of_bias}
        names_in_file |= {f"{stage}.weight": weight, f"{stage}.bias": bias}
    file = WeightFile(path, weights, names_in_file, image_size=size)
    logits, output = (values[name].flatten()[: file.num_classes] for name in (last, end))
    possible = logits, logits.softmax(0), logits.log_softmax(0)
    if output.shape != logits.shape or not any(map(output.allclose, possible)):
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
    elif net.name == "torchvision" and names_in_file[CONV1].endswith("features.0.weight"):
        inputs = "imagenet"
    same = f"onnxruntime computes the same logits for a random image, {numbers}"
    return replace(file, inputs=inputs, architecture=net, notes=(same,))


def _layers(graph: onnx.GraphProto) -> Iterator[tuple[str, str, str, str]]:
    """Yields each layer: Conv, linear or transposed, which is (in, out); weight, bias or "", output."""
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


def _distances(file: WeightFile, image: Tensor, logits: Tensor) -> list[tuple[float, Architecture]]:
    """Returns how far presets with the file's shapes, in any rounding of pools, are from its logits."""
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
