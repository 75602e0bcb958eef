"""Weights as files have them: Caffe's, ONNX's, PyTorch's, safetensors', and those of this package."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from alexnet_torch.errors import UserError
from alexnet_torch.model.presets import TORCHVISION
from alexnet_torch.run_folder import MODEL_DESCRIPTION, MODEL_WEIGHTS
from alexnet_torch.weights import caffe_file as caffe
from alexnet_torch.weights.grouped import Layer, by_stage, grouped, grouped_shapes, is_towered, layers_of
from alexnet_torch.weights.model_file import from_strings, read_model


@dataclass(frozen=True)
class Foreign:
    """Weights as a file has them.

    Attributes:
        path: of the file, or of a run's folder.
        weights: `conv1.weight` and so on, all towers together, float32.
        names: the file's own names of them.
        description: of the whole model, as model.json has it, if the file carries it.
        inputs: what images they read, a key of `INPUTS`, if the kind of file tells.
    """

    path: Path
    weights: dict[str, Tensor]
    names: dict[str, str]
    description: dict[str, Any] | None = None
    inputs: str | None = None

    @property
    def classes(self) -> int:
        """The outputs of the last linear layer; 0 if there is none."""
        return next((len(value) for value in reversed(self.weights.values()) if value.ndim == 2), 0)


def read(path: Path) -> Foreign:
    """The weights in a file, by its ending, or in a run's folder.

    Args:
        path: a folder, .caffemodel, .onnx, .safetensors, or anything that torch.load reads: a state
            dict, alone or under "state_dict" as others' checkpoints have it. Nothing but tensors and
            plain values is ever unpickled.

    Raises:
        UserError: the file is missing, damaged, of another kind, or not an AlexNet's.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such file; name one with weights, or a run's folder")
    try:
        if path.is_dir() or (path.name == MODEL_WEIGHTS and path.with_name(MODEL_DESCRIPTION).exists()):
            description, state = read_model(path if path.is_dir() else path.parent)
            return _by_tower(path, state, description)
        if path.suffix == ".caffemodel":
            return _by_layer(path, caffe.read_layers(path), "caffe")
        with extra_packages(path):
            if path.suffix == ".onnx":
                return _read_onnx(path)
            if path.suffix == ".safetensors":
                return _read_safetensors(path)
        return _from_state(path, _load_pickle(path))
    except ValueError as error:
        raise UserError(f"{path}: {error}; name an AlexNet's weights") from error


@contextlib.contextmanager
def extra_packages(path: Path) -> Iterator[None]:
    """Says what to install where a kind of file takes packages that training does not."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: takes the package {error.name}; pip install -r requirements-exchange.txt") from error


def _read_onnx(path: Path) -> Foreign:
    from alexnet_torch.weights import onnx_file as onnx_files  # not at the top: see extra_packages

    model = onnx_files.load(path)
    description = onnx_files.described(model)
    if description is not None:
        return _by_tower(path, onnx_files.towered_weights(model), description)
    return _by_layer(path, onnx_files.read_layers(model, path), "caffe" if onnx_files.has_norm(model) else None)


def _read_safetensors(path: Path) -> Foreign:
    from safetensors import SafetensorError, safe_open  # not at the top: see extra_packages

    try:
        with safe_open(path, framework="pt") as file:
            # the file sorts names by alphabet, features.10 before features.3
            state = {name: file.get_tensor(name) for name in sorted(file.keys(), key=_numerically)}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: is damaged, or no safetensors file ({error})") from error
    description = from_strings(metadata)
    return _from_state(path, state) if description is None else _by_tower(path, state, description)


def _numerically(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _load_pickle(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:  # torch's message goes on to advise unpickling it all the same
        raise UserError(f"{path}: is no file of weights, or holds more than tensors, which is not unpickled") from error
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path}: is damaged, or no file of weights ({reason})") from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if isinstance(loaded, dict) and "identity" in loaded:
        raise UserError(f"{path}: is a run's checkpoint, without what its images are; name the run's folder")
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise UserError(f"{path}: holds no state dict; save a network's state_dict()")
    return loaded


def _from_state(path: Path, state: Mapping[str, Tensor]) -> Foreign:
    plain = {name.removeprefix("module."): value for name, value in state.items()}
    if is_towered(plain):
        return _by_tower(path, plain, None)
    return _by_layer(path, layers_of(state), None)


def _by_tower(path: Path, state: Mapping[str, Tensor], description: dict[str, Any] | None) -> Foreign:
    weights = grouped(state)
    return Foreign(path, weights, {name: name for name in weights}, description, "rgb")


def _by_layer(path: Path, layers: list[Layer], inputs: str | None) -> Foreign:
    weights: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for stage, layer in by_stage(layers).items():
        weights |= {f"{stage}.weight": layer.weight, f"{stage}.bias": layer.bias}
        names |= {f"{stage}.weight": layer.weight_name, f"{stage}.bias": layer.bias_name}
    return Foreign(path, weights, names, None, inputs)


def misfit(foreign: Foreign, shapes: Mapping[str, tuple[int, ...]], whose: str) -> list[str]:
    """Each tensor that is not of the shape wanted, that is missing or that is not wanted, in a sentence.

    Args:
        foreign: weights from a file.
        shapes: by stage, as `grouped_shapes` has them.
        whose: the shapes are.
    """
    wrong = []
    for name, shape in shapes.items():
        if name not in foreign.weights:
            wrong.append(f"{foreign.path} has no {name}, which {whose} has: {shape}")
        elif (theirs := tuple(foreign.weights[name].shape)) != shape:
            wrong.append(f"{foreign.path}: {foreign.names[name]} is {theirs}; in {whose} it is {shape}")
    wrong += [f"{foreign.path}: {foreign.names[n]} is not in {whose}" for n in foreign.weights if n not in shapes]
    return wrong


def images_read(foreign: Foreign) -> str | None:
    """What images the weights read, a key of `inputs.INPUTS`; None where nothing tells.

    torchvision's names and shapes, which no other AlexNet has, are taken for torchvision's images. Its
    shapes under our names tell nothing: a recipe may scale the images of that net.
    """
    shapes = grouped_shapes(TORCHVISION, max(foreign.classes, 1), 224)
    if foreign.description is not None or misfit(foreign, shapes, "torchvision"):
        return foreign.inputs
    first = foreign.names["conv1.weight"].replace("module.", "")
    return "imagenet" if first == "features.0.weight" else None
