"""Weights by name: what torch.save wrote, the networks in it, and two layouts: a tensor for each tower, or grouped.

In the grouped layout, as Caffe and torchvision have it, tower k is the k-th part of each tensor along dimension 0.
"""

import argparse
import pathlib
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet_torch.errors import UserError
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.architecture import PAPER, Architecture
from alexnet_torch.model.tower import has_tower

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
        what = f"contains more than tensors, {', '.join(sorted(names)[:4])}, which is not unpickled: that can run code"
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


CONV1 = "conv1.weight"  # of the first stage of every preset
_WRAPPERS = re.compile(r"(^|\.)(?:(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+")


def towers_to_grouped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Makes `conv1.weight` of `towers.0.conv1.weight` and `towers.1.conv1.weight`."""
    towers: dict[str, list[Tensor]] = {}
    for name, value in weights.items():
        towers.setdefault(name.split(".", 2)[2], []).append(value)
    return {name: torch.cat(parts) for name, parts in towers.items()}


def grouped_to_towers(weights: Mapping[str, Tensor], towers: int) -> dict[str, Tensor]:
    """Inverts `towers_to_grouped`; of an odd number of rows, the first towers get one more."""
    return {f"towers.{k}.{name}": part for name, w in weights.items() for k, part in enumerate(w.tensor_split(towers))}


def grouped_state_dict(net: AlexNet) -> dict[str, Tensor]:
    """Returns a copy of the weights on the first tower's device; conv1's have the `input_scale` in them."""
    device = next(net.parameters()).device
    weights = towers_to_grouped({name: value.detach().to(device) for name, value in net.state_dict().items()})
    first = f"{net.architecture.stage_names[0]}.weight"
    weights[first] = weights[first] * net.architecture.input_scale
    return {name: value.contiguous() for name, value in weights.items()}


def grouped_shapes(net: Architecture, num_classes: int, image_size: int) -> dict[str, tuple[int, ...]]:
    towers = AlexNet(net, num_classes, image_size, torch.device("meta")).state_dict()
    return {name: tuple(value.shape) for name, value in towers_to_grouped(towers).items()}


def without_wrappers(name: str) -> str:
    """Returns a parameter's name without those of DataParallel, torch.compile and FSDP."""
    return _WRAPPERS.sub(r"\1", name)


def layers_by_stage(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Returns a state dict's name of each tensor of the grouped layout: by name (conv1, ...), else by order."""
    names = {without_wrappers(name): name for name in state}
    dims = dict[str, int]()  # by layer
    for short, name in names.items():
        layer, _, kind = short.rpartition(".")
        if kind not in ("weight", "bias") or not {f"{layer}.weight", f"{layer}.bias"} <= set(names):
            raise ValueError(f"{name} is not one of a layer's weight and bias")
        if kind == "weight":
            dims[layer] = state[name].ndim
    numbers = {layer: int(match[1]) for layer in dims if (match := re.fullmatch(r"(?:conv|fc)(\d+)", layer))}
    if dims and len(dims) == len(set(numbers.values())):
        stages = {layer: layer for layer in sorted(dims, key=numbers.__getitem__)}
    else:  # some networks count the linear layers from 1 again: conv1, ..., fc1, ...
        convs, linears = ([layer for layer in dims if dims[layer] == ndim] for ndim in (4, 2))
        require_alexnet(len(convs), len(linears), len(dims) - len(convs) - len(linears))
        stages = dict(zip(PAPER.stage_names, [*convs, *linears], strict=True))
    kinds = ("weight", "bias")
    return {f"{stage}.{kind}": names[f"{layer}.{kind}"] for stage, layer in stages.items() for kind in kinds}


def require_alexnet(convs: int, linears: int, others: int = 0) -> None:
    if (convs, linears, others) != (5, 3, 0):
        more = f" and {others} others with weights" if others else ""
        raise ValueError(f"it has {convs} convolutions and {linears} linear layers{more}, not AlexNet's 5 and 3")


def differences(source: Architecture, target: Architecture, stages: Sequence[str]) -> list[str]:
    """Returns what two networks compute differently with equal weights, as "norm.k 1.0 instead of 2.0"."""
    ours, theirs = _settings(source, stages), _settings(target, stages)
    return [f"{name} {ours[name]} instead of {theirs[name]}" for name in ours if ours[name] != theirs[name]]


def _settings(net: Architecture, stages: Sequence[str]) -> dict[str, Any]:
    """Returns what decides some stages' outputs besides the weights' shapes."""
    values = asdict(net.computation_only())
    groups = {name: values.pop(name) for name in ("norm", "spatial_norm")}
    groups |= {each["name"]: each for each in values.pop("convs") + values.pop("linears") if each["name"] in stages}
    values |= {f"{group}.{name}": value for group, of_group in groups.items() for name, value in of_group.items()}
    shapes = ("towers", "channels", "width")
    return {name: value for name, value in values.items() if name.rpartition(".")[2] not in shapes}
