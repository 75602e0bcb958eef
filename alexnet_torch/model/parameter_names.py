"""Names of parameters: `towers.0.conv1.weight`; `conv1.weight` in the grouped layout of Caffe and torchvision."""

import re


def tower_of(name: str) -> int:
    """Returns the tower of a parameter, from 0: 1 for `towers.1.fc7.bias`."""
    return int(name.split(".")[1])


def stage_of(name: str) -> str:
    """Returns the stage of a parameter: `fc7` for `towers.1.fc7.bias` and for `fc7.bias`."""
    return name.split(".")[-2]


def kind_of(name: str) -> str:
    """Returns the kind of a parameter, "weight" or "bias"."""
    return name.split(".")[-1]


def has_tower(name: str) -> bool:
    """Returns whether the name contains a tower: true for `towers.1.fc7.bias`, false for `fc7.bias`."""
    return re.fullmatch(r"towers\.\d+\..+", name) is not None


def grouped_name(name: str) -> str:
    """Returns the name without its tower: `fc7.bias` for `towers.1.fc7.bias`.

    Raises:
        ValueError: the name contains no tower.
    """
    if not has_tower(name):
        raise ValueError(f"{name} contains no tower")
    return name.split(".", 2)[2]


def tower_name(tower: int, grouped: str) -> str:
    """Returns the name of one tower's parameter: `towers.1.fc7.bias` for tower 1 and `fc7.bias`."""
    return f"towers.{tower}.{grouped}"


def parameter_name(stage: str, kind: str) -> str:
    """Returns the name in the grouped layout: `fc7.bias` for stage "fc7" and kind "bias"."""
    return f"{stage}.{kind}"
