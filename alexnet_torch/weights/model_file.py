"""A model on disk: model.pt and model.json in a run's folder, or one file; checksums notice damage."""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet_torch.data.augment import centre_slice
from alexnet_torch.data.sources.classes import in_one_line
from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_file, atomic_write, importing, reading, write_json, writing
from alexnet_torch.model.alexnet import AlexNet, empty_network
from alexnet_torch.model.architecture import Architecture
from alexnet_torch.model.exchange import devices_or_default
from alexnet_torch.run_folder import (
    CONFIG,
    MODEL_DESCRIPTION,
    MODEL_WEIGHTS,
    PRETRAINED_WEIGHTS,
    claimed,
    fix_of_damage,
)
from alexnet_torch.weights.state_dicts import load_torch

_SEAL = "sha256"  # in model.json; earlier versions wrote none
METADATA_SEAL = "alexnet_torch_sha256"  # in files that other programs write, too


@dataclass(frozen=True)
class TrainedModel:
    """A trained network and what is needed to use it.

    Attributes:
        net: the network, in evaluation mode.
        classes: WordNet IDs or names of the classes, in the order of the logits.
        mean: mean image (S, S, 3), float32, 0..255; crops are cut from squares of S pixels.
        mirror: whether a mirrored image has the same class; False for digits.
        names: what people call the classes; () if that is `classes`.
    """

    net: AlexNet
    classes: tuple[str, ...]
    mean: np.ndarray
    mirror: bool = True
    names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        net = self.net
        return f"TrainedModel({net.architecture.name}, {net.image_size} pixels, {len(self.classes)} classes)"

    @property
    def labels(self) -> tuple[str, ...]:
        """What predictions call the classes; equal names, as of the two cranes, have `classes` in brackets."""
        pairs, count = zip(self.classes, self.names or self.classes, strict=True), Counter(self.names)
        return tuple(in_one_line(name if count[name] < 2 else f"{name} ({own})") for own, name in pairs)

    @cached_property
    def _means(self) -> dict[tuple[torch.device, torch.dtype], Tensor]:
        return {}

    def device_mean(self) -> Tensor:
        """Returns the mean image (S, S, 3) on the network's first device."""
        place = self.net.devices[0], torch.get_default_dtype()
        if place not in self._means:
            self._means[place] = torch.from_numpy(self.mean).to(*place, non_blocking=True)
        return self._means[place]

    def centre_mean(self) -> Tensor:
        """Returns a copy of the mean image of a centre crop, (3, H, W) float32."""
        centre = centre_slice(len(self.mean), self.net.image_size)
        return torch.from_numpy(self.mean[centre, centre].transpose(2, 0, 1).copy())

    def save_pretrained(self, folder: Path | str) -> None:
        """Writes model.safetensors into a folder; UserError if it cannot."""
        path = Path(folder) / PRETRAINED_WEIGHTS
        content = safetensors_content(self, path)
        with writing(str(folder)):
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, content)

    @classmethod
    def from_pretrained(cls, folder: Path | str, devices: Sequence[str] | None = None) -> "TrainedModel":
        """Loads what `save_pretrained` wrote, as `load_model` does; nothing is downloaded."""
        path = Path(folder) / PRETRAINED_WEIGHTS
        weights, description = read_safetensors(path)
        if description is None:
            raise UserError(f"{path}: describes no model; make a run's folder of it with the command import")
        return build_model(path, description, weights, devices)


def load_model(folder: Path | str, devices: Sequence[str] | None = None) -> TrainedModel:
    """Loads the model of a run.

    Args:
        folder: the run's folder, with model.pt and model.json.
        devices: one device for all towers, or one for each tower; default: the first GPU, else the CPU.

    Raises:
        UserError: a file is missing, damaged or of another run, a weight is not finite, or a device is missing.
    """
    return build_model(Path(folder), *read_model_files(folder), devices)


def read_model_files(folder: Path | str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    folder = Path(folder)
    if folder.is_file():
        run = folder.parent if (folder.parent / MODEL_DESCRIPTION).exists() else "the folder of a run"
        raise UserError(f"{folder}: is a file; name {run}")
    description, weights = folder / MODEL_DESCRIPTION, folder / MODEL_WEIGHTS
    for path in (description, weights):
        if not path.exists():
            raise UserError(f"{folder}: no model here ({path.name} is missing); name a run's folder")
    fix = fix_of_damage(folder, "restore it from a backup")
    with reading(description, fix):
        content = json.loads(description.read_text())
        if content.pop(_SEAL, None) not in (None, _sha256(content)):
            raise ValueError(f"its checksum is wrong; if you edited it yourself, remove {_SEAL!r} from it")
    with reading(weights, fix):
        return content, load_torch(weights)


def save_model(folder: Path, model: TrainedModel, weights: dict[str, Tensor] | None = None) -> None:
    """Writes model.json and model.pt; `weights`: the full state dict on the CPU where the network has a part of it."""
    description = describe_model(model)
    write_json(folder / MODEL_DESCRIPTION, {**description, _SEAL: _sha256(description)})
    with atomic_file(folder / MODEL_WEIGHTS) as file:
        torch.save(weights or cpu_state_dict(model.net), file)


def save_new_model(folder: Path, model: TrainedModel) -> None:
    with claimed(folder), writing(f"--output {folder}"):
        if any((folder / name).exists() for name in (CONFIG, MODEL_WEIGHTS)):
            raise UserError(f"--output {folder}: contains a run already; name another folder")
        save_model(folder, model)


def describe_model(model: TrainedModel) -> dict[str, Any]:
    net, mean = model.net, model.mean
    return {
        "architecture": asdict(net.architecture),
        "classes": list(model.classes),
        **({"names": list(model.names)} if model.names not in ((), model.classes) else {}),
        "image_size": net.image_size,
        "mirror": model.mirror,
        "mean_rgb": mean.mean((0, 1), dtype=np.float64).tolist(),
        "mean": {"side": len(mean), "float32": base64.b64encode(mean.astype("<f4").tobytes()).decode()},
    }


def build_model(
    path: Path, description: dict[str, Any], weights: Mapping[str, Tensor], devices: Sequence[str] | None = None
) -> TrainedModel:
    """Builds a model from the description and the weights by tower of a file, perhaps wrong."""
    with reading(path, "copy it again, with model.json and model.pt of the same run"):
        architecture = Architecture.from_dict(description["architecture"])
        classes, names = tuple(description["classes"]), tuple(description.get("names", ()))
        if not all(isinstance(name, str) for name in classes + names) or len(names) not in (0, len(classes)):
            raise ValueError(f"it has {len(names)} names of {len(classes)} classes, which must be texts")
        side, size = description["mean"]["side"], description["image_size"]
        mean = np.frombuffer(base64.b64decode(description["mean"]["float32"]), "<f4").reshape(side, side, 3)
        expected = AlexNet(architecture, len(classes), size, torch.device("meta")).state_dict()
        for name in {**expected, **weights}:
            found, fits = (tuple(state[name].shape) if name in state else "missing" for state in (weights, expected))
            if found != fits:
                raise ValueError(f"weights and description do not fit each other: {name} is {found}, not {fits}")
    require_finite(path, weights)
    net = empty_network(architecture, len(classes), size, devices_or_default(devices, architecture.towers))
    net.load_state_dict(weights)
    return TrainedModel(net.eval(), classes, mean.astype(np.float32), bool(description.get("mirror", True)), names)


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Returns the name of the first tensor with a value, and so a sum, that is not finite."""
    finite = [tensor.sum().isfinite() for tensor in tensors.values()]
    known = torch.stack([each.to(finite[0].device) for each in finite]).tolist() if finite else []  # one wait
    return next((name for name, is_finite in zip(tensors, known, strict=True) if not is_finite), None)


def require_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    if name := first_not_finite(weights):
        raise UserError(f"{path}: {name} has values that are infinite or not numbers; use weights that did not diverge")


def cpu_state_dict(net: AlexNet) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}


def sealed_metadata(model: TrainedModel) -> dict[str, str]:
    """Returns the description as a file's metadata, with a checksum of all that a model computes with."""
    metadata = {"format": "pt"} | {name: json.dumps(value) for name, value in describe_model(model).items()}
    return metadata | {METADATA_SEAL: _sha256(sorted(metadata.items()), cpu_state_dict(model.net))}


def description_from_metadata(metadata: Mapping[str, str], weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Returns the description in metadata of this package, else None; ValueError if changed."""
    if not {"architecture", "classes", "image_size", "mean"} <= set(metadata):
        return None
    content = dict(metadata)
    if content.pop(METADATA_SEAL, None) not in (None, _sha256(sorted(content.items()), weights)):
        raise ValueError("its checksum is wrong")
    return {name: json.loads(value) for name, value in content.items() if name != "format"}


def safetensors_content(model: TrainedModel, path: Path) -> bytes:
    with importing(path):
        from safetensors.torch import save  # here: an optional package
    return save(cpu_state_dict(model.net), sealed_metadata(model))


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    with importing(path):
        from safetensors import safe_open  # here: an optional package
    with reading(path, "copy it again, or name a safetensors file"), safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, description_from_metadata(file.metadata() or {}, tensors)


def _sha256(description: object, weights: Mapping[str, Tensor] | None = None) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, tensor in sorted((weights or {}).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
