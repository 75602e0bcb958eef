"""Packages that only some file formats need, which are installed with a requirements file of their own."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from alexnet_torch.errors import UserError


@contextlib.contextmanager
def explain_missing_package(path: Path, requirements: str = "requirements-exchange.txt") -> Iterator[None]:
    """Raises a UserError that says what to install if a file's format needs a package that training does not need.

    Args:
        path: the file, for the message.
        requirements: the requirements file that lists the package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: needs the package {error.name}; run pip install -r {requirements}") from error
