"""Loads what torch.save wrote, without running code, and says what other files seem to be."""

import argparse
import pathlib
import re
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from alexnet_torch.errors import UserError

_SCALAR = np.float64(0).__reduce__()[0]  # numpy's function that makes a scalar again
_RECONSTRUCT = np.zeros(1).__reduce__()[0]  # and an array
_PLAIN: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    np.ndarray,
    np.dtype,
    *{type(np.dtype(name)) for name in ("bool", "int32", "int64", "uint8", "float16", "float32", "float64", "U1")},
    # NumPy 2 has moved the two functions
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_RECONSTRUCT, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]
"""What training scripts save beside tensors and plain values. Unpickling it runs no code of the file."""

_MAGIC = {
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with git lfs pull",
    b"<!doctype html": "a web page; download the file itself",
    b"<html": "a web page; download the file itself",
    b"\x89hdf": "an HDF5 file, such as Keras writes; convert it to a PyTorch state dict",
    b"\x93numpy": "a NumPy array; convert it to a PyTorch state dict",
    b"\x89png": "an image; name a weight file",
    b"\xff\xd8\xff": "an image; name a weight file",
    b"\x1f\x8b": "a gzip archive; unpack it",
}
_ARCHIVES = {  # part of a name in a zip archive
    r".*\.npy": "an archive of NumPy arrays; convert it to a PyTorch state dict",
    r".*/?(constants\.pkl|code/.*)": "a TorchScript archive; save torch.jit.load(FILE).state_dict() instead",
    r".*/?(models/.*\.json|archive_format|serialized_exported_program\.json)": (
        "a program of torch.export; save torch.export.load(FILE).state_dict instead"
    ),
    r"model\.weights\.h5": "a Keras model; convert it to a PyTorch state dict",
}


def refuse_other_format(path: Path) -> None:
    """Refuses a file whose first bytes are those of a format that is not a weight file's.

    Raises:
        UserError: they are; the message says what the file seems to be, and a fix.
    """
    with path.open("rb") as file:
        head = file.read(300)
    for magic, meaning in _MAGIC.items():
        if head.lower().startswith(magic):
            raise UserError(f"{path}: seems to be {meaning}")
    if head[257:262] == b"ustar":
        raise UserError(f"{path}: seems to be a tar archive; unpack it")
    if head[8:10] == b'{"' and path.suffix != ".safetensors":
        raise UserError(f"{path}: seems to be a safetensors file; give its name the ending .safetensors")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        for pattern, meaning in _ARCHIVES.items():
            if any(re.fullmatch(pattern, name) for name in names):
                raise UserError(f"{path}: seems to be {meaning}")


def load_torch_file(path: Path) -> object:
    """Loads what torch.save wrote: tensors, plain values, argparse's Namespace, NumPy's scalars and arrays.

    Raises:
        UserError: the file is damaged, contains other objects, which could run code when unpickled, or is a training
            run's checkpoint of this package.
    """
    try:
        with torch.serialization.safe_globals(_PLAIN):
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:  # torch's message continues with advice to unpickle the file anyway
        raise UserError(f"{path}: {_refused_objects(path, error)}") from error
    except Exception as error:  # a damaged file can raise almost any exception
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path}: is damaged or not a weight file ({reason}); copy it again") from error
    if isinstance(content, dict) and "identity" in content:
        raise UserError(f"{path}: is a run's checkpoint, which has no mean image or class names; name the run's folder")
    return content


def _refused_objects(path: Path, error: UnpicklingError) -> str:
    """Returns which objects of a file are not unpickled, and how to save its weights without them."""
    named = set(re.findall(r"GLOBAL ([\w.]+)", str(error)))
    if zipfile.is_zipfile(path):
        with torch.serialization.safe_globals(_PLAIN):
            named |= set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    if not named:
        return "is not a weight file; name a saved state_dict()"
    modules = sorted(name for name in named if name.startswith(("torch.nn.modules.", "torchvision.models.")))
    if modules:
        others = sorted(named - set(modules))
        return (
            f"seems to be a module, pickled with its code's names ({', '.join([*others, *modules][:4])}), which "
            "is not unpickled, because that can run code; if you trust the file, save only the weights: "
            f"torch.save(torch.load({str(path)!r}, weights_only=False).state_dict(), 'weights.pt')"
        )
    return (
        f"contains more than tensors, {', '.join(sorted(named)[:4])}, which is not unpickled, because that can run "
        "code; if you trust the file, save only its dictionaries: torch.save({k: v for k, v in "
        f"torch.load({str(path)!r}, weights_only=False).items() if isinstance(v, dict)}}, 'weights.pt')"
    )
