"""A run's model on disk: model.pt, a plain state dict, and model.json, all else that it takes."""

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from alexnet_torch.architecture import Architecture
from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_write
from alexnet_torch.model import AlexNet
from alexnet_torch.placement import choose_devices


@dataclass(frozen=True)
class Model:
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


def save_model(folder: Path, net: AlexNet, classes: tuple[str, ...], mean: np.ndarray, mirror: bool = True) -> None:
    """Writes model.json and model.pt, each whole or not at all.

    Args:
        folder: the run's.
        net: on any devices; its weights are written as CPU tensors under their one name everywhere.
        classes: in the order of the logits.
        mean: (S, S, 3) float32, 0..255.
        mirror: whether it was trained on mirror images, too.
    """
    description = {
        "architecture": asdict(net.architecture),
        "classes": list(classes),
        "image_size": net.image_size,
        "mirror": mirror,
        "mean_rgb": mean.mean((0, 1), dtype=np.float64).tolist(),
        # exact, and a quarter of the size of its numbers as text
        "mean": {"side": mean.shape[0], "float32": base64.b64encode(mean.astype("<f4").tobytes()).decode()},
    }
    atomic_write(folder / "model.json", lambda file: _write_text(file, json.dumps(description)))
    weights = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    atomic_write(folder / "model.pt", lambda file: torch.save(weights, file))


def load_model(folder: Path, devices: Sequence[str] | None = None) -> Model:
    """The model of a run folder.

    Args:
        folder: with model.pt and model.json.
        devices: one for all towers or one for each; a GPU if there is one, else the CPU, by default.

    Raises:
        UserError: there is no model, its files are damaged or do not fit each other, or the machine
            lacks a device.
    """
    try:
        description = json.loads((folder / "model.json").read_text())
        weights = torch.load(folder / "model.pt", map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: no model here ({Path(error.filename).name} is missing); name a run's folder"
        ) from error
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        raise UserError(f"{folder}: its model cannot be read ({type(error).__name__}); train it again") from error
    try:
        architecture = Architecture.from_dict(description["architecture"])
        classes = tuple(description["classes"])
        side = description["mean"]["side"]
        mean = np.frombuffer(base64.b64decode(description["mean"]["float32"]), "<f4").reshape(side, side, 3)
        placed, _ = choose_devices(devices, architecture.towers, "auto" if devices else "none")
        net = AlexNet(architecture, len(classes), description["image_size"], placed, seed=0)
        net.load_state_dict(weights)
    except (KeyError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder}: model.json and model.pt do not fit each other ({reason})") from error
    return Model(net.eval(), classes, mean.astype(np.float32), description.get("mirror", True))


def _write_text(file: BinaryIO, text: str) -> None:
    file.write(text.encode())
