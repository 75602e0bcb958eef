"""Permissions that hold for root, too, who else may read and write everything; and a small disk."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_VERSION, _DAC_OVERRIDE, _DAC_READ_SEARCH = 0x20080522, 1, 2  # of linux/capability.h


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("process", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def _ordinary_user() -> Iterator[None]:
    """Takes from this thread the right to pass over permissions, and gives it back; skips where that fails."""
    if os.geteuid() != 0:
        yield
        return
    libc, header, sets = ctypes.CDLL(None), _Header(_VERSION, 0), (_Sets * 2)()
    libc.capget(ctypes.byref(header), sets)
    before = sets[0].effective
    sets[0].effective = before & ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH)
    if libc.capset(ctypes.byref(header), sets):
        pytest.skip("cannot give up root's rights here")
    try:
        yield
    finally:
        sets[0].effective = before
        libc.capset(ctypes.byref(header), sets)


@contextmanager
def permissions(path: Path, mode: int) -> Iterator[None]:
    """Gives a file or folder other permissions in a block."""
    before = path.stat().st_mode & 0o7777
    path.chmod(mode)
    try:
        with _ordinary_user():
            yield
    finally:
        path.chmod(before)


@contextmanager
def mounted_disk(folder: Path, size: int | str) -> Iterator[Path]:
    """Makes a folder a disk of a size in a block; skips the test where that is not allowed."""
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("cannot mount a small disk here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
