"""Refuses weights of a network whose training diverged: they are infinite or not a number."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from alexnet_torch.errors import UserError


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Returns the name of the first tensor with a value that is infinite or not a number; None if there is none."""
    # one sum is one pass, and is not finite if one of its terms is not
    return next((name for name, tensor in tensors.items() if not bool(tensor.sum().isfinite())), None)


def require_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Raises a UserError that names the file and a tensor if its weights are not all finite."""
    if name := first_not_finite(weights):
        raise UserError(f"{path}: {name} has values that are infinite or not numbers; use weights that did not diverge")
