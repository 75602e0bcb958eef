"""One reader for every file of weights: a run's folder, PyTorch's, safetensors, ONNX and Caffe's files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from alexnet_torch.errors import UserError
from alexnet_torch.files import explain_missing_package, reading
from alexnet_torch.model.architecture import Architecture
from alexnet_torch.model.presets import TORCHVISION
from alexnet_torch.run_folder import CHECKPOINT_PARTS, MODEL_DESCRIPTION, MODEL_WEIGHTS
from alexnet_torch.weights import caffe
from alexnet_torch.weights.grouped import CONV1, grouped_shapes, layers_by_stage, towers_to_grouped, without_wrappers
from alexnet_torch.weights.model_file import read_model_files, read_safetensors, require_finite
from alexnet_torch.weights.state_dicts import find_network, has_towers, load_torch


@dataclass(frozen=True)
class WeightFile:
    """The content of a weight file; None where the file does not determine it."""

    path: Path  # of the file, or of a run's folder
    weights: dict[str, Tensor]  # grouped layout, float32
    names_in_file: dict[str, str]  # for each key of `weights`
    description: dict[str, Any] | None = None  # as in model.json
    inputs: str | None = None  # which images the weights read, a key of INPUT_CONVENTIONS
    architecture: Architecture | None = None
    image_size: int | None = None
    notes: tuple[str, ...] = ()  # what was read, for messages

    @property
    def num_classes(self) -> int:
        return next((len(value) for value in reversed(self.weights.values()) if value.ndim == 2), 0)

    def mismatches(self, shapes: Mapping[str, tuple[int, ...]], network: str) -> list[str]:
        messages = []
        for name, shape in shapes.items():
            if name not in self.weights:
                messages.append(f"{self.path} has no {name}, which {network} has: {shape}")
            elif (found := tuple(self.weights[name].shape)) != shape:
                messages.append(f"{self.path}: {self.names_in_file[name]} is {found}; in {network} it is {shape}")
        unexpected = [self.names_in_file[name] for name in self.weights if name not in shapes]
        return messages + [f"{self.path}: {name} is not in {network}" for name in unexpected]


def read_weight_file(path: Path, key: str | None = None, image_size: int | None = None) -> WeightFile:
    """Reads a file in any format; `key` chooses a network of several, `image_size` is for .onnx that leaves it open."""
    if not path.exists():
        raise UserError(f"{path}: no such file; name a weight file or a run's folder")
    try:
        file = _read(path, key, image_size)
    except ValueError as error:
        raise UserError(f"{path}: {error}; name an AlexNet weight file") from error
    require_finite(path, file.weights)
    return file


def _read(path: Path, key: str | None, image_size: int | None) -> WeightFile:
    if path.is_dir() or (path.name == MODEL_WEIGHTS and path.with_name(MODEL_DESCRIPTION).exists()):
        description, state = read_model_files(path if path.is_dir() else path.parent)
        return from_state(path, state, description)
    if path.suffix == ".caffemodel":
        state, architecture = caffe.read_network(path)
        return replace(from_state(path, state), inputs="caffe", architecture=architecture)
    if path.suffix == ".onnx":
        with explain_missing_package(path):
            from alexnet_torch.weights.onnx import read_onnx  # here: optional packages
        return read_onnx(path, image_size)
    if path.suffix == ".safetensors":
        state, own_description = read_safetensors(path)
        if own_description is not None:
            return from_state(path, state, own_description)
        # the file sorts names as text, features.10 before features.3
        by_number = sorted(state, key=lambda name: [part.zfill(9) for part in re.split(r"(\d+)", name)])
        content: object = {name: state[name] for name in by_number}
    else:
        with reading(path, "copy it again, or name a weight file"):
            content = load_torch(path)
    if isinstance(content, dict) and set(content) == CHECKPOINT_PARTS:
        raise UserError(f"{path}: is a run's checkpoint, which has no mean image or class names; name the run's folder")
    found_key, state, others = find_network(path, content, key)
    note = f"read {found_key or 'the network'}"
    if others:
        note += f" without {len(others)} other tensors: {', '.join(others[:4])}{', ...' if len(others) > 4 else ''}"
    return replace(from_state(path, state), notes=(note,) if others or found_key else ())


def from_state(path: Path, state: Mapping[str, Tensor], description: dict[str, Any] | None = None) -> WeightFile:
    """Returns the content of a state dict, of this package's names or of an AlexNet's by order."""
    if has_towers(state):
        with reading(path, "copy it again"):
            weights = towers_to_grouped({without_wrappers(name): value.float() for name, value in state.items()})
            architecture = Architecture.from_dict(description["architecture"]) if description is not None else None
        return WeightFile(path, weights, {name: name for name in weights}, description, "rgb", architecture)
    names = layers_by_stage(state)
    file = WeightFile(path, {name: state[own].float() for name, own in names.items()}, names)
    # under this package's names the shapes tell nothing: a recipe may scale the images
    has_torchvisions_names = without_wrappers(names.get(CONV1, "")) == "features.0.weight"
    if has_torchvisions_names and not file.mismatches(grouped_shapes(TORCHVISION, max(file.num_classes, 1), 224), ""):
        return replace(file, inputs="imagenet", architecture=TORCHVISION)
    return file
