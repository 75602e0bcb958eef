"""What torch.save wrote, and the networks in it: by their tensors, under whatever keys and prefixes they are."""

import argparse
import pathlib
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from alexnet_torch.errors import UserError
from alexnet_torch.model.tower import has_tower
from alexnet_torch.weights.grouped import layers_by_stage, without_wrappers

_SCALAR = np.float64(0).__reduce__()[0]  # numpy's function that makes a scalar again
_RECONSTRUCT = np.zeros(1).__reduce__()[0]  # and an array
# what training scripts save beside tensors and plain values; unpickling it runs no code of the file
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
    """Returns what torch.save wrote, on the CPU, without running code of the file.

    torch does not check each tensor's CRC-32; here it is. That takes a quarter of a second for AlexNet.

    Raises:
        UserError: it contains objects that are not unpickled.
        Exception: of almost any kind, if the file is damaged.
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
    with torch.serialization.safe_globals(_PLAIN):
        try:
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


class FoundNetwork(NamedTuple):
    """A network's tensors in a file, by the names that follow `key`: keys and prefix, such as "state_dict.net"."""

    key: str
    state: dict[str, Tensor]
    others: list[str]  # names of tensors in the same dictionary that belong to no network

    def problem(self) -> str:
        """Returns why the tensors are not an AlexNet's; "" if they may be."""
        try:
            if not has_towers(self.state):
                layers_by_stage(self.state)
        except ValueError as error:
            return f"in {self.key} {error}" if self.key else str(error)
        return ""


def has_towers(state: Mapping[str, Any]) -> bool:
    """Returns whether names are this package's, by tower."""
    return any(has_tower(without_wrappers(name)) for name in state)


def find_network(path: Path, content: object, key: str | None = None) -> FoundNetwork:
    """Returns the one AlexNet, or with a key the one of this key, in what `load_torch` returned.

    Raises:
        ValueError: it contains no AlexNet; the message says what it contains.
        UserError: it contains several that differ, or none with this key; the message lists the keys.
    """
    found = list(_networks(content, ()))
    if not found:
        kind = f"a {type(content).__name__}"
        if isinstance(content, Mapping):
            kind = f"a dictionary of {', '.join(map(str, list(content)[:8]))}" if content else "nothing"
        raise ValueError(f"it contains {kind}, and no network's weights")
    if key is not None:
        chosen = [network for network in found if network.key == key]
        if not chosen:
            raise UserError(f"{path}: --key {key}: it contains no such network; choose one of {_keys(found)}")
        found = chosen
    fitting = [network for network in found if not network.problem()]
    if not fitting:
        raise ValueError("; ".join(network.problem() for network in found))
    first, *others = fitting
    for other in others:
        values = zip(first.state.values(), other.state.values(), strict=False)
        if list(first.state) != list(other.state) or not all(torch.equal(*pair) for pair in values):
            several = f"it contains {len(fitting)} networks, {_keys(fitting)}"
            raise UserError(f"{path}: {several}; choose one with import --key")
    return first


def _keys(networks: list[FoundNetwork]) -> str:
    return ", ".join(network.key or "the file itself" for network in networks)


def _networks(content: object, keys: tuple[str, ...]) -> Iterator[FoundNetwork]:
    """Yields the networks of nested dictionaries."""
    if not isinstance(content, Mapping):
        return
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    networks: dict[str, list[str]] = {}
    for prefix in _prefixes(tensors, ""):
        names = [name for name in tensors if name.startswith(prefix)]
        networks[prefix] = [name for name in names if has_tower(name.removeprefix(prefix))] or names
    others = [name for name in tensors if not any(name in names for names in networks.values())]
    for prefix, names in networks.items():
        state = {name.removeprefix(prefix): tensors[name] for name in names}
        yield FoundNetwork(".".join((*keys, prefix)).strip("."), state, others)
    for key, value in content.items():
        yield from _networks(value, (*keys, str(key)))


def _prefixes(tensors: Mapping[str, Tensor], prefix: str) -> list[str]:
    """Returns the prefixes of networks: the longest that have several convolutions and linear layers behind them."""
    if any(has_tower(name.removeprefix(prefix)) for name in tensors):
        return [prefix]
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, dot, _ = name.removeprefix(prefix).partition(".")
        if dot:
            parts.setdefault(f"{prefix}{part}.", {})[name] = value
    longer = [found for part, inside in parts.items() for found in _prefixes(inside, part)]
    dimensions = [value.ndim for name, value in tensors.items() if name.endswith("weight")]
    return longer or ([prefix] if dimensions.count(4) > 1 and dimensions.count(2) > 1 else [])
