"""Reads weight files: Caffe's, ONNX, PyTorch's, safetensors, and those of this package."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from alexnet_torch.errors import UserError
from alexnet_torch.files import explain_missing_package
from alexnet_torch.model.presets import TORCHVISION
from alexnet_torch.model.tower import parameter_name
from alexnet_torch.run_folder import MODEL_DESCRIPTION, MODEL_WEIGHTS
from alexnet_torch.weights import caffe_network, grouped
from alexnet_torch.weights.file_network import FileNetwork
from alexnet_torch.weights.finite_weights import require_finite
from alexnet_torch.weights.grouped import without_wrappers
from alexnet_torch.weights.model_file import description_from_metadata, read_model_files, read_safetensors
from alexnet_torch.weights.state_dicts import find_network
from alexnet_torch.weights.torch_file import load_torch_file, refuse_other_format


@dataclass(frozen=True)
class WeightFile:
    """The content of a weight file.

    Attributes:
        path: the file, or a run's folder.
        weights: grouped layout, `conv1.weight` and so on, float32.
        names_in_file: the file's own name for each key of `weights`.
        description: the model's description, as in model.json, if the file contains one.
        inputs: which images the weights read, a key of `INPUT_CONVENTIONS`, if the file format determines it.
        network: how the weights are used, if the file says it.
        notes: which part of the file was read, for messages.
    """

    path: Path
    weights: dict[str, Tensor]
    names_in_file: dict[str, str]
    description: dict[str, Any] | None = None
    inputs: str | None = None
    network: FileNetwork | None = None
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """The number of outputs of the last linear layer; 0 without one."""
        return next((len(value) for value in reversed(self.weights.values()) if value.ndim == 2), 0)


def read_weight_file(path: Path, key: str | None = None) -> WeightFile:
    """Reads a run's folder, or a weight file in the format of its ending.

    Args:
        path: a folder, .caffemodel, .onnx, .safetensors, or any file that torch.load reads: a state
            dict, or a checkpoint with one under any key. Only tensors and plain values are unpickled.
        key: which network of a checkpoint, if it contains several, such as "model" or "state_dict.net".

    Raises:
        UserError: the file is missing, damaged, of another format, or not of an AlexNet, or a weight is not finite.
    """
    file = _read(path, key)
    require_finite(path, file.weights)
    return file


def _read(path: Path, key: str | None) -> WeightFile:
    if not path.exists():
        raise UserError(f"{path}: no such file; name a weight file or a run's folder")
    try:
        if path.is_dir() or (path.name == MODEL_WEIGHTS and path.with_name(MODEL_DESCRIPTION).exists()):
            description, state = read_model_files(path if path.is_dir() else path.parent)
            return _from_towers(path, state, description)
        refuse_other_format(path)
        if path.suffix == ".caffemodel":
            return _from_network(path, caffe_network.read_network(path), "caffe")
        with explain_missing_package(path):
            if path.suffix == ".onnx":
                return _read_onnx(path)
            if path.suffix == ".safetensors":
                return _read_safetensors(path, key)
        return _from_content(path, load_torch_file(path), key)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a weight file or a run's folder") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}; name an AlexNet weight file") from error


def _read_onnx(path: Path) -> WeightFile:
    from alexnet_torch.weights import onnx_file  # not at the top: see explain_missing_package

    model = onnx_file.load_onnx(path)
    description = onnx_file.read_description(model)
    if description is not None:
        return _from_towers(path, onnx_file.read_tower_weights(model), description)
    return _from_network(path, *onnx_file.read_graph(model))


def _read_safetensors(path: Path, key: str | None) -> WeightFile:
    tensors, metadata = read_safetensors(path)
    # the file sorts names alphabetically, features.10 before features.3
    state = {name: tensors[name] for name in sorted(tensors, key=_numeric_order)}
    description = description_from_metadata(metadata)
    return _from_content(path, state, key) if description is None else _from_towers(path, state, description)


def _numeric_order(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _from_content(path: Path, content: object, key: str | None) -> WeightFile:
    found = find_network(path, content, key)
    notes = []
    if found.other_tensors:
        names = f"{', '.join(found.other_tensors[:4])}{', ...' if len(found.other_tensors) > 4 else ''}"
        notes.append(f"read {found.key or 'the network'} without {len(found.other_tensors)} other tensors: {names}")
    elif found.key:
        notes.append(f"read {found.key}")
    if found.has_towers:
        state = {without_wrappers(name): value.float() for name, value in found.state.items()}
        return replace(_from_towers(path, state, None), notes=tuple(notes))
    return replace(_from_layers(path, found.layers(), None), notes=tuple(notes))


def _from_towers(path: Path, state: Mapping[str, Tensor], description: dict[str, Any] | None) -> WeightFile:
    weights = grouped.towers_to_grouped(state)
    return WeightFile(path, weights, {name: name for name in weights}, description, "rgb")


def _from_layers(path: Path, layers: Mapping[str, grouped.FileLayer], inputs: str | None) -> WeightFile:
    """Returns the content of a file with one layer for each stage."""
    weights: dict[str, Tensor] = {}
    names_in_file: dict[str, str] = {}
    for stage, layer in layers.items():
        weight, bias = parameter_name(stage, "weight"), parameter_name(stage, "bias")
        weights |= {weight: layer.weight, bias: layer.bias}
        names_in_file |= {weight: layer.weight_name, bias: layer.bias_name}
    return WeightFile(path, weights, names_in_file, None, inputs)


def _from_network(path: Path, network: FileNetwork, inputs: str | None) -> WeightFile:
    return replace(_from_layers(path, network.layers, inputs), network=network)


def shape_mismatches(file: WeightFile, shapes: Mapping[str, tuple[int, ...]], network: str) -> list[str]:
    """Returns a message for each tensor of the wrong shape, each missing tensor and each unexpected one.

    Args:
        file: the weights to check.
        shapes: the expected shapes, as `grouped_shapes` returns them.
        network: the name, for messages, of the network with these shapes.
    """
    messages = []
    for name, shape in shapes.items():
        if name not in file.weights:
            messages.append(f"{file.path} has no {name}, which {network} has: {shape}")
        elif (file_shape := tuple(file.weights[name].shape)) != shape:
            messages.append(f"{file.path}: {file.names_in_file[name]} is {file_shape}; in {network} it is {shape}")
    unexpected = [file.names_in_file[name] for name in file.weights if name not in shapes]
    return messages + [f"{file.path}: {name} is not in {network}" for name in unexpected]


def detect_inputs(file: WeightFile) -> str | None:
    """Returns which images the weights read, a key of `INPUT_CONVENTIONS`; None if the file does not say.

    torchvision's names and shapes together, which no other AlexNet has, mean torchvision's images. Its shapes
    under this package's names decide nothing: a recipe may scale that network's images.
    """
    shapes = grouped.grouped_shapes(TORCHVISION, max(file.num_classes, 1), 224)
    if file.description is not None or shape_mismatches(file, shapes, "torchvision"):
        return file.inputs
    first = file.names_in_file[parameter_name(TORCHVISION.stage_names[0], "weight")]
    return "imagenet" if without_wrappers(first) == "features.0.weight" else None
