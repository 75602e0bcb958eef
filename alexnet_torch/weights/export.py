"""Writes a model for other programs: safetensors, grouped and torchvision's state dicts, ONNX, torch.export."""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_file, atomic_write, importing, writing
from alexnet_torch.model.presets import TORCHVISION
from alexnet_torch.run_folder import MODEL_DESCRIPTION, MODEL_WEIGHTS
from alexnet_torch.weights.inputs import INPUT_CONVENTIONS
from alexnet_torch.weights.model_file import TrainedModel, describe_model, safetensors_content, sealed_metadata
from alexnet_torch.weights.plain import SubtractMean
from alexnet_torch.weights.state_dicts import CONV1, grouped_state_dict

_OUR_IMAGES = "RGB images, 0..255, minus the mean image"
_PIXELS = "RGB images, 0..255, (N, 3, {0}, {0}): the graph subtracts the mean image; N is free"


def export_model(model: TrainedModel, path: Path, file_format: str | None = None) -> str:
    """Writes a model in a format, by default that of the file's ending. Returns which images it reads."""
    writers = {
        "safetensors": _write_safetensors,
        "grouped": _write_grouped,
        "torchvision": _write_torchvision,
        "onnx": _write_onnx,
        "pt2": _write_exported_program,
    }
    chosen = file_format or {".pt": "grouped", ".pth": "grouped"}.get(path.suffix, path.suffix[1:])
    if chosen not in writers:
        raise UserError(f"{path}: {chosen!r} is no format; choose one with --format: {', '.join(writers)}")
    if path.name == MODEL_WEIGHTS and (path.parent / MODEL_DESCRIPTION).exists():
        raise UserError(f"{path}: is a run's own model, which export would overwrite; name another file")
    if not path.parent.is_dir():  # before an export of minutes
        raise UserError(f"{path}: there is no folder {path.parent}; create it, or name another file")
    with writing(str(path)), importing(path):
        return writers[chosen](model, path)


def _write_safetensors(model: TrainedModel, path: Path) -> str:
    atomic_write(path, safetensors_content(model, path))
    return f"{_OUR_IMAGES}; its metadata contain the mean image, the architecture and the classes"


def _write_grouped(model: TrainedModel, path: Path) -> str:
    with atomic_file(path) as file:
        torch.save(grouped_state_dict(model.net), file)
    return _OUR_IMAGES


def _write_torchvision(model: TrainedModel, path: Path) -> str:
    net, imagenet, images_read = model.net, INPUT_CONVENTIONS["imagenet"], _OUR_IMAGES
    if net.architecture.computation_only() != TORCHVISION.computation_only():
        raise UserError(f"{path}: torchvision's alexnet is not {net.architecture.name}; use --format grouped")
    weights = grouped_state_dict(net)
    if np.allclose(model.mean, np.array(imagenet.mean), rtol=0, atol=1e-3):
        weights[CONV1] = imagenet.from_ours(weights[CONV1])
        images_read = "torchvision's images (0..1, standardised by ImageNet's mean and deviation)"
    with torch.device("meta"):
        names = torchvision.models.alexnet(num_classes=net.num_classes).state_dict()
    with atomic_file(path) as file:
        torch.save(dict(zip(names, weights.values(), strict=True)), file)
    return images_read


def _graph_arguments(model: TrainedModel) -> dict[str, Any]:
    size, mean = model.net.image_size, SubtractMean(model.centre_mean())
    return {
        "model": nn.Sequential(OrderedDict(input=mean, net=model.net)).eval(),
        "args": (torch.zeros(2, 3, size, size),),  # torch.export takes 1 for a constant
        "dynamic_shapes": ({0: torch.export.Dim("batch")},),
    }


def _write_exported_program(model: TrainedModel, path: Path) -> str:
    arguments = _graph_arguments(model)
    program = torch.export.export(mod=arguments.pop("model"), **arguments)
    with atomic_file(path) as file:
        torch.export.save(program, file, extra_files={MODEL_DESCRIPTION: json.dumps(describe_model(model))})
    return _PIXELS.format(model.net.image_size)


def _write_onnx(model: TrainedModel, path: Path) -> str:
    import onnx  # here: an optional package
    import onnxscript  # noqa: F401 - torch.onnx needs it, and would report it missing in its own way

    names: Any = {"input_names": ["images"], "output_names": ["logits"]}
    program = torch.onnx.export(**_graph_arguments(model), **names, dynamo=True, verbose=False)
    assert program is not None
    content = program.model_proto
    # the exporter merges equal tensors, as biases of 0, which import finds by name
    for node in content.graph.node:
        if len(node.input) == 3 and node.input[1].endswith(".weight"):
            node.input[2] = node.input[1].removesuffix("weight") + "bias"
    stored = {tensor.name for tensor in content.graph.initializer}
    for name, value in model.net.state_dict(prefix="net.").items():
        if name not in stored:
            content.graph.initializer.append(onnx.numpy_helper.from_array(value.numpy(), name))
    onnx.helper.set_model_props(content, sealed_metadata(model))
    atomic_write(path, content.SerializeToString())
    return _PIXELS.format(model.net.image_size)
