"""A run's model on disk: model.pt, a plain state dict, and model.json, all else that it takes."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_write
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.architecture import Architecture
from alexnet_torch.model.devices import one_device
from alexnet_torch.run_folder import CONFIG, MODEL_DESCRIPTION, MODEL_WEIGHTS


@dataclass(frozen=True)
class TrainedModel:
    """A trained network with what it takes to use it.

    Attributes:
        net: in evaluation mode.
        classes: their names, in the order of the logits.
        mean: (S, S, 3) float32 mean image, 0..255; S is the side of the images that crops are cut from.
        mirror: whether mirror images are of the same classes, as in training: not those of digits.
    """

    net: AlexNet
    classes: tuple[str, ...]
    mean: np.ndarray
    mirror: bool = True


def describe(model: TrainedModel) -> dict[str, Any]:
    """All that a model is besides its weights, as plain values: what model.json holds."""
    net, mean = model.net, model.mean
    return {
        "architecture": asdict(net.architecture),
        "classes": list(model.classes),
        "image_size": net.image_size,
        "mirror": model.mirror,
        "mean_rgb": mean.mean((0, 1), dtype=np.float64).tolist(),
        # exact, and a quarter of the size of its numbers as text
        "mean": {"side": mean.shape[0], "float32": base64.b64encode(mean.astype("<f4").tobytes()).decode()},
    }


def to_strings(description: dict[str, Any]) -> dict[str, str]:
    """A description as files of other formats carry it in their metadata: a string of JSON for each key."""
    return {name: json.dumps(value) for name, value in description.items()}


def from_strings(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The description in a file's metadata; None if there is none of ours.

    Raises:
        ValueError: it is damaged.
    """
    if not {"architecture", "classes", "image_size", "mean"} <= set(metadata):
        return None
    return {name: json.loads(value) for name, value in metadata.items() if name != "format"}  # safetensors' own


def build(
    description: dict[str, Any], weights: dict[str, Tensor], devices: Sequence[str] | None = None
) -> TrainedModel:
    """The model that `describe` described, with its weights.

    Args:
        description: read from a file, so anything.
        weights: under their one name everywhere, `towers.0.conv1.weight` and so on.
        devices: one for all towers or one for each; a GPU if there is one, else the CPU, by default.

    Raises:
        UserError: the machine lacks a device.
        ValueError: the description is none, or is of other weights; the message says in what.
    """
    try:
        architecture = Architecture.from_dict(description["architecture"])
        classes = tuple(description["classes"])
        side = description["mean"]["side"]
        mean = np.frombuffer(base64.b64decode(description["mean"]["float32"]), "<f4").reshape(side, side, 3)
        net = AlexNet(
            architecture, len(classes), description["image_size"], one_device(devices, architecture.towers), seed=0
        )
        net.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as error:  # torch's message goes on with a line for each tensor
        raise ValueError(" ".join(str(error).split("\n")[:2])) from error
    return TrainedModel(net.eval(), classes, mean.astype(np.float32), bool(description.get("mirror", True)))


def cpu_weights(net: AlexNet) -> dict[str, Tensor]:
    """A network's weights under their one name everywhere, as contiguous CPU tensors."""
    return {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}


def save_model(
    folder: Path,
    net: AlexNet,
    classes: tuple[str, ...],
    mean: np.ndarray,
    mirror: bool = True,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Writes model.json and model.pt, each whole or not at all.

    Args:
        folder: the run's.
        net: on any devices; its weights are written as CPU tensors under their one name everywhere.
        classes: in the order of the logits.
        mean: (S, S, 3) float32, 0..255.
        mirror: whether it was trained on mirror images, too.
        weights: of all towers, contiguous, on the CPU, where `net` has not all of them.
    """
    text = json.dumps(describe(TrainedModel(net, classes, mean, mirror))).encode()
    atomic_write(folder / MODEL_DESCRIPTION, lambda file: file.write(text))
    weights = cpu_weights(net) if weights is None else weights
    atomic_write(folder / MODEL_WEIGHTS, lambda file: torch.save(weights, file))


def save_new(folder: Path, model: TrainedModel) -> None:
    """Writes a model into a folder that holds none yet, made if need be.

    Raises:
        UserError: it holds a run, or cannot be written.
    """
    if any((folder / kept).exists() for kept in (CONFIG, MODEL_WEIGHTS)):
        raise UserError(f"--output {folder}: holds a run already; name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_model(folder, model.net, model.classes, model.mean, model.mirror)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be written ({error.strerror}); name another folder") from error


def read_model(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a run's folder says of its model, and its weights on the CPU; not yet held against each other.

    Raises:
        UserError: there is no model, or a file is damaged.
    """
    try:
        description = json.loads((folder / MODEL_DESCRIPTION).read_text())
        weights = torch.load(folder / MODEL_WEIGHTS, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: no model here ({Path(error.filename).name} is missing); name a run's folder"
        ) from error
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        raise UserError(f"{folder}: its model cannot be read ({type(error).__name__}); train it again") from error
    return description, weights


def load_model(folder: Path, devices: Sequence[str] | None = None) -> TrainedModel:
    """The model of a run folder.

    Args:
        folder: with model.pt and model.json.
        devices: one for all towers or one for each; a GPU if there is one, else the CPU, by default.

    Raises:
        UserError: there is no model, its files are damaged or do not fit each other, or the machine
            lacks a device.
    """
    description, weights = read_model(folder)
    try:
        return build(description, weights, devices)
    except ValueError as error:
        raise UserError(f"{folder}: model.json and model.pt do not fit each other ({error})") from error
