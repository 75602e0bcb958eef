"""A run's model on disk: model.pt, a plain state dict, and model.json, which describes the rest of the model."""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet_torch.data.augment import centre_slice
from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_write, explain_missing_package, explain_os_error
from alexnet_torch.model.alexnet import AlexNet, empty_network
from alexnet_torch.model.architecture import Architecture
from alexnet_torch.model.devices import devices_or_default
from alexnet_torch.run_folder import (
    CONFIG,
    MODEL_CARD,
    MODEL_DESCRIPTION,
    MODEL_WEIGHTS,
    PRETRAINED_WEIGHTS,
    claimed,
    fix_of_damage,
)
from alexnet_torch.weights.class_labels import distinct_names
from alexnet_torch.weights.finite_weights import require_finite
from alexnet_torch.weights.intact import CONTENT_SHA256, Damaged, content_sha256, load_checked, seal, unseal
from alexnet_torch.weights.model_card import model_card


@dataclass(frozen=True)
class TrainedModel:
    """A trained network and what is needed to use it.

    Attributes:
        net: the network, in evaluation mode.
        classes: the classes' identities, in the order of the logits: WordNet IDs, or names.
        mean: mean image (S, S, 3), float32, 0..255; S is the side of the images that crops are cut from.
        mirror: whether a mirrored image has the same class, as training assumed; False for digits.
    """

    net: AlexNet
    classes: tuple[str, ...]
    mean: np.ndarray
    mirror: bool = True
    names: tuple[str, ...] = ()  # what people call the classes; () if that is their identities

    @property
    def labels(self) -> tuple[str, ...]:
        """What predictions call the classes: two classes of one name, as the two cranes, have their identities, too."""
        return distinct_names(self.classes, self.names) if self.names else self.classes

    def centre_mean(self) -> Tensor:
        """Returns the mean image of a centre crop, (3, H, W) float32, contiguous, in memory of its own."""
        centre = centre_slice(len(self.mean), self.net.image_size)
        return torch.from_numpy(self.mean[centre, centre].transpose(2, 0, 1).copy())

    def save_pretrained(self, folder: Path | str, run: Path | str | None = None) -> None:
        """Writes model.safetensors, which contains the full model, and a model card, README.md, into a folder.

        Args:
            folder: created if needed; a model that this function wrote there is replaced.
            run: the folder of the run that trained the model; the card then contains its settings and errors.

        Raises:
            UserError: the folder is not writable or has another README.md, or the run cannot be read.
        """
        folder = Path(folder)
        weights, card = folder / PRETRAINED_WEIGHTS, folder / MODEL_CARD
        if card.exists() and not weights.exists():
            raise UserError(f"{folder}: has a {MODEL_CARD} of something else; name another folder")
        content = safetensors_content(self, weights)
        parameters, sha256 = sum(value.numel() for value in self.net.parameters()), hashlib.sha256(content).hexdigest()
        text = model_card(describe_model(self), parameters, sha256, None if run is None else Path(run))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(weights, lambda file: file.write(content))
            atomic_write(card, lambda file: file.write(text.encode("utf-8", "backslashreplace")))
        except OSError as error:
            raise UserError(f"{folder}: {explain_os_error(error)}") from error

    @classmethod
    def from_pretrained(cls, folder: Path | str, devices: Sequence[str] | None = None) -> "TrainedModel":
        """Loads a model that `save_pretrained` wrote. Nothing is downloaded: the folder is on this machine.

        Args:
            folder: the folder, with model.safetensors.
            devices: as for `load_model`.

        Raises:
            UserError: the file is missing, damaged or of another program, or the machine lacks a device.
        """
        path = Path(folder) / PRETRAINED_WEIGHTS
        if not path.is_file():
            raise UserError(f"{path}: no such file, and nothing is downloaded; name a folder of save_pretrained")
        weights, metadata = read_safetensors(path)
        require_finite(path, weights)
        try:
            description = description_from_metadata(metadata)
            if description is None:
                raise UserError(f"{path}: describes no model; make a run's folder of it with the command import")
            return build_model(description, weights, devices)
        except ValueError as error:
            raise UserError(f"{path}: its weights and its description do not fit ({error}); copy it again") from error


def describe_model(model: TrainedModel) -> dict[str, Any]:
    """Returns everything about a model except its weights, as plain values: the content of model.json."""
    net, mean = model.net, model.mean
    return {
        "architecture": asdict(net.architecture),
        "classes": list(model.classes),
        **({"names": list(model.names)} if model.names not in ((), model.classes) else {}),
        "image_size": net.image_size,
        "mirror": model.mirror,
        "mean_rgb": mean.mean((0, 1), dtype=np.float64).tolist(),
        # exact, and a quarter of the size of the numbers as text
        "mean": {"side": mean.shape[0], "float32": base64.b64encode(mean.astype("<f4").tobytes()).decode()},
    }


def model_sha256(model: TrainedModel) -> str:
    """Returns the SHA-256 of a model's description and weights: of all that decides what it computes.

    It is the hash of the description's JSON with sorted keys, then of each tensor's name and little-endian float32
    values, in alphabetical order of the names; the file format that the model was loaded from does not matter.
    """
    digest = hashlib.sha256(json.dumps(describe_model(model), sort_keys=True).encode())
    for name, value in sorted(cpu_state_dict(model.net).items()):
        digest.update(name.encode())
        digest.update(value.float().numpy().astype("<f4", copy=False).data)
    return digest.hexdigest()


def model_metadata(model: TrainedModel) -> dict[str, str]:
    """Returns the model's description with each value as JSON text, for the metadata of other file formats."""
    return {name: json.dumps(value) for name, value in describe_model(model).items()}


def description_from_metadata(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """Returns the description in a file's metadata; None if this package did not write the file.

    Raises:
        ValueError: the description is damaged.
    """
    if not {"architecture", "classes", "image_size", "mean"} <= set(metadata):
        return None
    return {name: json.loads(value) for name, value in metadata.items() if name != "format"}  # safetensors' own key


def safetensors_content(model: TrainedModel, path: Path) -> bytes:
    """Returns the content of a .safetensors file of the full model: the state dict, with the description as metadata.

    Raises:
        UserError: the package safetensors is missing; the message names `path`.
    """
    with explain_missing_package(path):
        from safetensors.torch import save  # not at the top: an optional package
    tensors, metadata = cpu_state_dict(model.net), {"format": "pt", **model_metadata(model)}
    return save(tensors, {**metadata, CONTENT_SHA256: content_sha256(tensors, metadata)})


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the tensors of a .safetensors file, in its order, and its metadata.

    Raises:
        UserError: the file is damaged, or the package safetensors is missing.
    """
    with explain_missing_package(path):
        from safetensors import SafetensorError, safe_open  # not at the top: an optional package
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: is damaged or not a safetensors file ({error}); copy it again") from error
    expected = metadata.pop(CONTENT_SHA256, None)  # other programs, and earlier versions, write none
    if expected is not None and expected != content_sha256(tensors, metadata):
        raise UserError(f"{path}: is damaged (its checksum is wrong); copy it again")
    return tensors, metadata


def build_model(
    description: dict[str, Any], weights: dict[str, Tensor], devices: Sequence[str] | None = None
) -> TrainedModel:
    """Builds a model from its description and its weights.

    Args:
        description: as `describe_model` returns it; it comes from a file, so it may be wrong.
        weights: state dict with names by tower, such as `towers.0.conv1.weight`.
        devices: one device for all towers, or one for each tower; default: the first GPU, else the CPU.

    Raises:
        UserError: the machine lacks a device.
        ValueError: the description is damaged or does not fit the weights; the message says where.
    """
    try:
        architecture = Architecture.from_dict(description["architecture"])
        classes, names = tuple(description["classes"]), tuple(description.get("names", ()))
        side = description["mean"]["side"]
        mean = np.frombuffer(base64.b64decode(description["mean"]["float32"]), "<f4").reshape(side, side, 3)
        tower_devices = devices_or_default(devices, architecture.towers)
        net = empty_network(architecture, len(classes), description["image_size"], tower_devices)
        net.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as error:  # torch's message has one more line for each tensor
        raise ValueError(" ".join(str(error).split("\n")[:2])) from error
    if names and (len(names) != len(classes) or not all(isinstance(name, str) for name in names)):
        raise ValueError(f"it has {len(names)} names of {len(classes)} classes")
    return TrainedModel(net.eval(), classes, mean.astype(np.float32), bool(description.get("mirror", True)), names)


def cpu_state_dict(net: AlexNet) -> dict[str, Tensor]:
    """Returns a network's state dict with contiguous CPU tensors."""
    return {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}


def save_model(folder: Path, model: TrainedModel, weights: dict[str, Tensor] | None = None) -> None:
    """Writes model.json and model.pt; each file appears complete or not at all.

    Args:
        folder: the run's folder.
        model: the model, on any devices.
        weights: full state dict, contiguous CPU tensors, for a network that holds only some of the parameters.
    """
    text = json.dumps(seal(describe_model(model))).encode()
    atomic_write(folder / MODEL_DESCRIPTION, lambda file: file.write(text))
    weights = cpu_state_dict(model.net) if weights is None else weights
    atomic_write(folder / MODEL_WEIGHTS, lambda file: torch.save(weights, file))


def save_new_model(folder: Path, model: TrainedModel) -> None:
    """Writes a model into a folder without a run; creates the folder if needed.

    Raises:
        UserError: the folder contains a run, another process writes it, or it is not writable.
    """
    with claimed(folder):
        if any((folder / name).exists() for name in (CONFIG, MODEL_WEIGHTS)):
            raise UserError(f"--output {folder}: contains a run already; name another folder")
        try:
            save_model(folder, model)
        except OSError as error:
            raise UserError(f"--output {folder}: {explain_os_error(error)}") from error


def read_model_files(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads a run's description and its weights, on the CPU; does not check whether they fit each other.

    Raises:
        UserError: a file is missing or damaged.
    """
    description = _read(folder / MODEL_DESCRIPTION, lambda path: unseal(json.loads(path.read_text())))
    return description, _read(folder / MODEL_WEIGHTS, load_checked)


def _read(path: Path, load: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    folder = path.parent
    if folder.is_file():
        run = f"its run, {folder.parent}" if (folder.parent / MODEL_DESCRIPTION).exists() else "the folder of a run"
        raise UserError(f"{folder}: is a file; name {run}")
    try:
        return load(path)
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no model here ({path.name} is missing); name a run's folder") from error
    except OSError as error:
        raise UserError(explain_os_error(error)) from error
    except Exception as error:  # a damaged file can raise almost any exception
        reason = str(error) if isinstance(error, Damaged) else "the file is damaged"
        fix = fix_of_damage(folder, "restore it from a backup")
        raise UserError(f"{path}: cannot be read ({reason}); {fix}") from error


def load_model(folder: Path, devices: Sequence[str] | None = None) -> TrainedModel:
    """Loads the model of a run.

    Args:
        folder: the run's folder, with model.pt and model.json.
        devices: one device for all towers, or one for each tower; default: the first GPU, else the CPU.

    Raises:
        UserError: a file is missing or damaged, a weight is not finite, the files do not fit each other, or the machine
            lacks a device.
    """
    description, weights = read_model_files(folder)
    require_finite(folder / MODEL_WEIGHTS, weights)
    try:
        return build_model(description, weights, devices)
    except ValueError as error:
        raise UserError(
            f"{folder}: model.json and model.pt do not fit each other ({error}); copy both from the same run"
        ) from error
