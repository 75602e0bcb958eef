"""Packages that only some formats need, which are installed as extras of this package."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_torch.errors import UserError


@contextmanager
def explain_missing_package(path: Path | str, extra: str = "exchange") -> Iterator[None]:
    """Raises a UserError that says what to install where the block imports a package of an extra that is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: needs the package {error.name}; pip install 'alexnet_torch[{extra}]'") from error
