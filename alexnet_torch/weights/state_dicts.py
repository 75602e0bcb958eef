"""What torch.save wrote, and the networks in it: by their tensors, under whatever keys and prefixes they are."""

import argparse
import pathlib
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet_torch.errors import UserError
from alexnet_torch.model.tower import has_tower
from alexnet_torch.weights.grouped import layers_by_stage, without_wrappers

_NUMPY = [(np.float64(0).__reduce__()[0], "scalar"), (np.zeros(1).__reduce__()[0], "_reconstruct")]
# what training scripts save beside tensors; unpickling it runs no code of the file
_PLAIN: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    np.ndarray,
    np.dtype,
    *{type(np.dtype(name)) for name in ("bool", "int32", "int64", "uint8", "float16", "float32", "float64", "U1")},
    # NumPy 2 has moved the two functions
    *((function, f"numpy.{core}.multiarray.{name}") for function, name in _NUMPY for core in ("core", "_core")),
]


def load_torch(path: Path) -> Any:
    """Returns what torch.save wrote, on the CPU, without running its code; checks CRC-32, as torch does not."""
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
    except UnpicklingError as error:  # torch's message advises to unpickle the file anyway
        names = set(re.findall(r"GLOBAL ([\w.]+)", str(error)))
        if is_zip:
            names |= set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        if not names:
            raise ValueError(f"it begins with {head!r}, not as torch.save's files") from error
        loaded = f"torch.load({str(path)!r}, weights_only=False)"
        kept = f"{{k: v for k, v in {loaded}.items() if isinstance(v, dict)}}"
        if any(name.startswith(("torch.nn.modules.", "torchvision.models.")) for name in names):
            kept = f"{loaded}.state_dict()"
        what = f"contains more than tensors, {', '.join(sorted(names)[:4])}, which can run code: not unpickled"
        fix = f"if you trust it, save only the weights: torch.save({kept}, 'weights.pt')"
        raise UserError(f"{path}: {what}; {fix}") from error


def has_towers(state: Iterable[str]) -> bool:
    return any(has_tower(without_wrappers(name)) for name in state)


def find_network(path: Path, content: object, key: str | None = None) -> tuple[str, dict[str, Tensor], list[str]]:
    """Finds the one AlexNet, or that of a key as "model.net": returns key, tensors, names of others beside it."""
    groups: dict[str, dict[str, Tensor]] = {}  # of each dictionary, and of each prefix of names in it
    for folder, name, tensor in _tensors(content):
        head = re.split(r"\btowers\.\d", name)[0]
        for end in (0, *(dot.end() for dot in re.finditer(r"\.", head))):
            groups.setdefault(folder + name[:end], {})[name[end:]] = tensor
    found = {}
    for prefix, state in groups.items():
        dims = [value.ndim for name, value in state.items() if name.endswith("weight")]
        towers = {name: value for name, value in state.items() if has_tower(name)}
        if towers or (dims.count(4) > 1 and dims.count(2) > 1):
            found[prefix] = towers or state
    longest = [prefix for prefix in found if not any(p.startswith(prefix) for p in found if p != prefix)]
    prefixes = {prefix.strip("./").replace("/", "."): prefix for prefix in longest}  # by key
    if not prefixes:
        kind = f"a {type(content).__name__}"
        if isinstance(content, Mapping):
            kind = f"a dictionary of {', '.join(map(str, list(content)[:8]))}" if content else "nothing"
        raise ValueError(f"it contains {kind}, and no network's weights")
    if key is not None and key not in prefixes:
        raise UserError(f"{path}: --key {key}: it contains no such network; choose one of {', '.join(prefixes)}")
    fitting, problems = dict[str, dict[str, Tensor]](), []
    for name in prefixes if key is None else [key]:
        state = found[prefixes[name]]
        try:
            if not has_towers(state):
                layers_by_stage(state)
            fitting[name] = state
        except ValueError as error:
            problems.append(f"in {name} {error}" if name else str(error))
    if not fitting:
        raise ValueError("; ".join(problems))
    (chosen, first), *others = fitting.items()
    for _, state in others:
        if list(state) != list(first) or not all(torch.equal(state[name], first[name]) for name in first):
            several = f"it contains {len(fitting)} networks, {', '.join(fitting)}"
            raise UserError(f"{path}: {several}; choose one with import --key")
    folder, slash, prefix = prefixes[chosen].rpartition("/")
    return chosen, first, [name for name in groups[folder + slash] if name.removeprefix(prefix) not in first]


def _tensors(content: object, folder: str = "") -> Iterator[tuple[str, str, Tensor]]:
    """Yields the tensors of nested dictionaries: ("optimizer/state/0/", "momentum_buffer", tensor)."""
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Tensor):
            yield folder, str(key), value
        yield from _tensors(value, f"{folder}{key}/")
