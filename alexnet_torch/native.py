"""Compiled code: C++ sources compiled for this machine on first use, and C's allocator."""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_write, cache_home, explain_os_error

_FLAGS = ["-std=c++20", "-O3", "-march=native", "-fPIC", "-w"]
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's parameters, from malloc.h
_LARGEST_REUSED = 60 << 20  # bytes; reusing larger blocks, too, gains 2% more speed for 10% more memory

LinkOptions = tuple[Sequence[str], Sequence[str]]  # for the compiler, and for the linker
logger = logging.getLogger(__name__)


def load_compiled(
    source: Path,
    what: str,
    flags: Sequence[str] = (),
    version: str = "",
    options: Callable[[], LinkOptions] = lambda: ((), ()),
    announcement: str = "",
) -> ctypes.CDLL | None:
    """Returns the library of a C++ source, compiled on first use; None, after a line, where it cannot be compiled.

    `what` is not compiled, for that line: "the reader of crops is". `version` is that of the libraries that `options`
    link with. A build that takes long has an announcement.
    """
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    cpu = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    # machines that differ may share a home folder
    key = _digest("\n".join([source.read_text(), *_FLAGS, *flags, version, platform.machine(), cpu]).encode())
    try:
        folder, name = cache_home() / "native", f"{source.stem}-{key}"
        for library in folder.glob(f"{name}-*.so"):
            if library.stem.endswith(_digest(library.read_bytes())):  # a damaged library would end the process
                return ctypes.CDLL(str(library))
        compiler = shlex.split(os.environ.get("CXX", "")) or ["c++"]  # maybe with arguments, as "ccache g++"
        if shutil.which(compiler[0]) is None:
            raise OSError(f"there is no compiler {compiler[0]}; install one, or name it in CXX")
        if announcement:
            logger.warning(announcement)
        folder.mkdir(parents=True, exist_ok=True)
        compile_options, link_options = options()
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            object_file, linked = f"{temporary}/kernels.o", Path(temporary) / "kernels.so"
            for line in (
                [*_FLAGS, *flags, *compile_options, "-c", str(source), "-o", object_file],
                # without -fopenmp: the threads are those of torch's OpenMP, and no second pool competes for the cores
                ["-shared", object_file, "-o", str(linked), *link_options],
            ):
                subprocess.run([*compiler, *line], check=True, capture_output=True, text=True)
            content = linked.read_bytes()
        library = folder / f"{name}-{_digest(content)}.so"
        atomic_write(library, content)
        return ctypes.CDLL(str(library))
    except (OSError, RuntimeError, subprocess.CalledProcessError, UserError) as error:
        if isinstance(error, OSError) and error.filename:
            cause = f"{explain_os_error(error)}; or set XDG_CACHE_HOME to a folder that only this user can write"
        else:
            lines = str(getattr(error, "stderr", None) or error).splitlines()
            cause = next((line for line in lines if "error" in line), lines[0]).strip()
        logger.warning("%s not compiled (%s): several times slower", what, cause)
        return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def reuse_freed_memory() -> None:
    """Makes glibc reuse freed memory; does nothing with other C libraries. Call it before training.

    By default each large block, of activations for example, comes from the system, which clears it 4 KiB at a time: up
    to a fifth of a training step on the CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_REUSED)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
