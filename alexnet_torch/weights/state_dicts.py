"""Finds the networks in what a checkpoint contains: by their tensors, under whatever keys and prefixes they are."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet_torch.errors import UserError
from alexnet_torch.model.tower import has_tower
from alexnet_torch.weights.grouped import FileLayer, layers_by_stage, layers_from_state_dict, without_wrappers


@dataclass(frozen=True)
class FoundNetwork:
    """A network's tensors, found in a file.

    Attributes:
        key: where they are: the keys of dictionaries and the prefix of names, such as "state_dict.net".
        state: the tensors by the names that follow `key`.
        other_tensors: the names of tensors in the same dictionary that belong to no network.
    """

    key: str
    state: dict[str, Tensor]
    other_tensors: tuple[str, ...]

    @property
    def has_towers(self) -> bool:
        """Whether names are this package's, by tower."""
        return any(has_tower(without_wrappers(name)) for name in self.state)

    def layers(self) -> dict[str, FileLayer]:
        """Returns the layers by stage, for names that are not by tower.

        Raises:
            ValueError: they are not an AlexNet's.
        """
        return layers_by_stage(layers_from_state_dict(self.state))

    def problem(self) -> str | None:
        """Returns why the tensors are not an AlexNet's; None if they may be."""
        try:
            if not self.has_towers:
                self.layers()
        except ValueError as error:
            return str(error)
        return None

    def equals(self, other: "FoundNetwork") -> bool:
        """Returns whether both have the same names and values."""
        return list(self.state) == list(other.state) and all(
            torch.equal(value, other.state[name]) for name, value in self.state.items()
        )


def find_network(path: Path, content: object, key: str | None = None) -> FoundNetwork:
    """Returns the one AlexNet among the tensors of a file.

    Args:
        path: the file, for messages.
        content: what torch.load returned.
        key: which network, if there are several; as in the error's list.

    Raises:
        ValueError: it contains no AlexNet; the message says what it contains.
        UserError: it contains several that differ, or none with this key; the message lists the keys.
    """
    found = list(_networks(content, ()))
    if not found:
        raise ValueError(f"it contains {describe(content)}, and no network's weights")
    names = ", ".join(network.key or "the file itself" for network in found)
    if key is not None:
        chosen = [network for network in found if network.key == key]
        if not chosen:
            raise UserError(f"{path}: --key {key}: it contains no such network; choose one of {names}")
        found = chosen
    fitting = [network for network in found if network.problem() is None]
    if not fitting:
        raise ValueError("; ".join(_problem(network) for network in found))
    if not all(network.equals(fitting[0]) for network in fitting[1:]):
        keys = ", ".join(network.key or "the file itself" for network in fitting)
        raise UserError(f"{path}: it contains {len(fitting)} different networks, {keys}; choose one with import --key")
    return fitting[0]


def describe(content: object) -> str:
    """Returns what a file contains, for messages."""
    if isinstance(content, Mapping):
        if "param_groups" in content:
            return "an optimizer's state"
        keys = [str(key) for key in content]
        return f"a dictionary of {', '.join(keys[:8])}{', ...' if len(keys) > 8 else ''}" if keys else "nothing"
    if isinstance(content, Tensor):
        return f"one tensor {tuple(content.shape)}"
    return f"a {type(content).__name__}"


def _problem(network: FoundNetwork) -> str:
    problem = network.problem()
    return f"in {network.key} {problem}" if network.key else str(problem)


def _networks(content: object, keys: tuple[str, ...]) -> Iterator[FoundNetwork]:
    """Yields the networks of nested dictionaries."""
    if not isinstance(content, Mapping):
        return
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    networks = {prefix: _names(tensors, prefix) for prefix in _prefixes(tensors, "")}
    of_networks = {name for names in networks.values() for name in names}
    other_tensors = tuple(name for name in tensors if name not in of_networks)
    for prefix, names in networks.items():
        state = {name.removeprefix(prefix): tensors[name] for name in names}
        yield FoundNetwork(".".join((*keys, prefix)).strip("."), state, other_tensors)
    for key, value in content.items():
        yield from _networks(value, (*keys, str(key)))


def _names(tensors: Iterable[str], prefix: str) -> list[str]:
    """Returns the names with a prefix: only those by tower, if there are any."""
    names = [name for name in tensors if name.startswith(prefix)]
    return [name for name in names if has_tower(name.removeprefix(prefix))] or names


def _prefixes(tensors: Mapping[str, Any], prefix: str) -> list[str]:
    """Returns the prefixes of networks: the longest that have all layers of each behind them."""
    if any(has_tower(name.removeprefix(prefix)) for name in tensors):
        return [prefix]
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, dot, _ = name.removeprefix(prefix).partition(".")
        parts.setdefault(f"{prefix}{part}{dot}", {})[name] = value
    longer = [found for part, inside in parts.items() if part.endswith(".") for found in _prefixes(inside, part)]
    return longer or ([prefix] if _has_network(tensors) else [])


def _has_network(tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether there are several convolutions and several linear layers."""
    dimensions = [value.ndim for name, value in tensors.items() if name.endswith("weight")]
    return dimensions.count(4) > 1 and dimensions.count(2) > 1
