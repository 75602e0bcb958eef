"""Notices damage to model.pt and model.json, which without a check would give other predictions without an error."""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_SEAL = "sha256"  # model.json's key
CONTENT_SHA256 = "alexnet_torch_sha256"
"""The key in the metadata of a .safetensors file; other programs have digests of other things under shorter names."""


class Damaged(Exception):
    """A file was changed after it was written; the message says how it is known."""


def load_checked(path: Path) -> dict[str, Tensor]:
    """Loads a state dict that torch.save wrote, on the CPU, and checks the CRC-32 that it wrote for each tensor.

    torch.load does not check them. It takes a quarter of a second for AlexNet.

    Raises:
        Damaged: a checksum is wrong.
        Exception: of almost any kind, if the file is damaged in another way.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if name := archive.testzip():
                raise Damaged(f"the checksum of {name} is wrong")
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def seal(description: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a model's description with the SHA-256 of its content."""
    return {**description, _SEAL: _sha256(description)}


def unseal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a description without its SHA-256, which is checked; files of earlier versions have none.

    Raises:
        Damaged: it is another one's.
    """
    description = {key: value for key, value in content.items() if key != _SEAL}
    if content.get(_SEAL, _sha256(description)) != _sha256(description):
        raise Damaged(f"its checksum is wrong; if you edited it yourself, remove {_SEAL!r} from it")
    return description


def content_sha256(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Returns the SHA-256 of the tensors and the metadata of a .safetensors file, in whatever order they are."""
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sha256(description: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
