"""What torch.save wrote, and the networks in it: by their tensors, under whatever keys and prefixes they are."""

import argparse
import pathlib
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet_torch.errors import UserError
from alexnet_torch.model.tower import has_tower
from alexnet_torch.weights.grouped import layers_by_stage, without_wrappers

_SCALAR = np.float64(0).__reduce__()[0]  # numpy's function that makes a scalar again
_RECONSTRUCT = np.zeros(1).__reduce__()[0]  # and an array
# what training scripts save beside tensors; unpickling it runs no code of the file
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


def load_torch(path: Path) -> Any:
    """Returns what torch.save wrote, on the CPU, without running code of the file; a UserError names what it refuses.

    torch does not check each tensor's CRC-32; here it is, in a quarter of a second for AlexNet.
    """
    with path.open("rb") as file:
        head = file.read(20)
    if is_zip := head.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            if broken := archive.testzip():
                raise ValueError(f"the checksum of {broken} is wrong")
            files = {name.rpartition("/")[2] for name in archive.namelist()}
        if "data.pkl" not in files or "constants.pkl" in files:
            raise UserError(f"{path}: is of torch.export, TorchScript or another program; name a saved state_dict()")
    try:
        with torch.serialization.safe_globals(_PLAIN):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:  # torch's message continues with advice to unpickle the file anyway
        names = set(re.findall(r"GLOBAL ([\w.]+)", str(error)))
        if is_zip:
            names |= set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        if not names:
            raise ValueError(f"it begins with {head!r}, not as torch.save's files") from error
        loaded = f"torch.load({str(path)!r}, weights_only=False)"
        kept = f"{{k: v for k, v in {loaded}.items() if isinstance(v, dict)}}"
        if any(name.startswith(("torch.nn.modules.", "torchvision.models.")) for name in names):
            kept = f"{loaded}.state_dict()"
        raise UserError(
            f"{path}: contains more than tensors, {', '.join(sorted(names)[:4])}, which is not unpickled, because "
            f"that can run code; if you trust it, save only the weights: torch.save({kept}, 'weights.pt')"
        ) from error


def has_towers(state: Iterable[str]) -> bool:
    """Returns whether names are this package's, by tower."""
    return any(has_tower(without_wrappers(name)) for name in state)


def find_network(path: Path, content: object, key: str | None = None) -> tuple[str, dict[str, Tensor], list[str]]:
    """Finds the one AlexNet, or the one of a key, in what `load_torch` returned: key, tensors, names of other tensors.

    Without one, a ValueError says what it contains; of several that differ, a UserError lists the keys, as "model.net".
    """
    tensors = _flat(content, "") if isinstance(content, Mapping) else {}
    found, folders = dict[str, dict[str, Tensor]](), dict[str, str]()
    for prefix in _prefixes(tensors, ""):
        names = [name for name in tensors if name.startswith(prefix) and "/" not in name.removeprefix(prefix)]
        names = [name for name in names if has_tower(name.removeprefix(prefix))] or names
        own = prefix.strip("./").replace("/", ".")
        folders[own] = prefix.rpartition("/")[0]
        found[own] = {name.removeprefix(prefix): tensors.pop(name) for name in names}
    if not found:
        kind = f"a {type(content).__name__}"
        if isinstance(content, Mapping):
            kind = f"a dictionary of {', '.join(map(str, list(content)[:8]))}" if content else "nothing"
        raise ValueError(f"it contains {kind}, and no network's weights")
    if key is not None and key not in found:
        raise UserError(f"{path}: --key {key}: it contains no such network; choose one of {', '.join(found) or 'none'}")
    fitting, problems = dict[str, dict[str, Tensor]](), []
    for name in found if key is None else [key]:
        try:
            if not has_towers(found[name]):
                layers_by_stage(found[name])
            fitting[name] = found[name]
        except ValueError as error:
            problems.append(f"in {name} {error}" if name else str(error))
    if not fitting:
        raise ValueError("; ".join(problems))
    (chosen, first), *others = fitting.items()
    for _, state in others:
        if list(state) != list(first) or not all(torch.equal(state[name], first[name]) for name in first):
            several = f"it contains {len(fitting)} networks, {', '.join(fitting)}"
            raise UserError(f"{path}: {several}; choose one with import --key")
    paths = [name.rpartition("/") for name in tensors]
    return chosen, first, [name for folder, _, name in paths if folder == folders[chosen]]


def _flat(content: Mapping[Any, Any], folder: str) -> dict[str, Tensor]:
    """Returns the tensors of nested dictionaries by their keys, as "optimizer/state/0/momentum_buffer"."""
    tensors: dict[str, Tensor] = {}
    for key, value in content.items():
        if isinstance(value, Tensor):
            tensors[f"{folder}{key}"] = value
        elif isinstance(value, Mapping):
            tensors |= _flat(value, f"{folder}{key}/")
    return tensors


def _prefixes(tensors: Mapping[str, Tensor], prefix: str) -> list[str]:
    """Returns the prefixes of networks: the longest that have several convolutions and linear layers behind them."""
    if any(has_tower(name.removeprefix(prefix)) for name in tensors):
        return [prefix]
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if part := re.match(r"[^./]*[./]", name.removeprefix(prefix)):
            parts.setdefault(prefix + part[0], {})[name] = value
    longer = [found for part, behind in parts.items() for found in _prefixes(behind, part)]
    inside = {name.removeprefix(prefix): value.ndim for name, value in tensors.items() if name.endswith("weight")}
    dimensions = [ndim for name, ndim in inside.items() if "/" not in name]
    return longer or [prefix] * (dimensions.count(4) > 1 and dimensions.count(2) > 1)
