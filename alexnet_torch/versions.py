"""Versions of the libraries whose code decides results."""

from importlib.metadata import version

import torch


def library_versions() -> dict[str, str]:
    """Returns the versions of torch (with its build), torchvision, numpy and pillow, by name."""
    return {"torch": torch.__version__} | {name: version(name) for name in ("torchvision", "numpy", "pillow")}
