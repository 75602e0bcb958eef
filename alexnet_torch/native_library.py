"""Compiles C++ sources for this machine on first use, and finds the libraries in the cache from then on."""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from alexnet_torch.errors import UserError
from alexnet_torch.files import cache_home, explain_os_error, is_inside

BUILD_ERRORS = (OSError, RuntimeError, subprocess.CalledProcessError, UserError)  # of building and of loading a library
_FLAGS = ["-std=c++20", "-O3", "-march=native", "-fPIC", "-w"]

LinkOptions = tuple[Sequence[str], Sequence[str]]  # for the compiler, and for the linker


def native_library(
    source: Path,
    flags: Sequence[str] = (),
    version: str = "",
    options: Callable[[], LinkOptions] = lambda: ((), ()),
    before_build: Callable[[], None] = lambda: None,
) -> Path:
    """Returns the shared library of a C++ source, compiled if this machine's cache does not have it yet.

    Args:
        source: one file, without includes of its own.
        flags: the compiler's, besides those that every source gets.
        version: of the libraries that it is linked with.
        options: returns where these libraries are; called only before a build.
        before_build: called before a build, to say that it takes long.

    Raises:
        one of `BUILD_ERRORS`: there is no compiler, or it failed, or the cache cannot be written.
    """
    library = cache_home() / "native" / f"{source.stem}-{_digest(source, flags, version)}.so"
    if not library.exists():
        compiler = _compiler()
        before_build()
        _build(compiler, source, [*_FLAGS, *flags], options(), library)
    return library


def build_failure(error: BaseException) -> str:
    """Returns a line of one of `BUILD_ERRORS` that tells its cause."""
    if isinstance(error, OSError) and error.filename is not None and is_inside(error, cache_home().parent):
        return f"{explain_os_error(error)}; or set XDG_CACHE_HOME to a folder that only this user can write"
    reason = str(getattr(error, "stderr", None) or error)
    return next((line for line in reason.splitlines() if "error" in line), reason.partition("\n")[0]).strip()


def _digest(source: Path, flags: Sequence[str], version: str) -> str:
    """Identifies a library's source, flags, version and CPU: machines that differ may share a home folder."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    cpu = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    parts = [source.read_text(), *_FLAGS, *flags, version, platform.machine(), cpu]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _compiler() -> list[str]:
    """Returns the C++ compiler's command, which CXX may give with arguments, as "ccache g++".

    Raises:
        OSError: there is none.
    """
    command = shlex.split(os.environ.get("CXX", ""))
    if command and shutil.which(command[0]) is None:
        raise OSError(f"CXX names {command[0]}, which is no command here; correct or unset it")
    found = shutil.which("c++") or shutil.which("g++")
    if not command and found is None:
        raise OSError("there is no C++ compiler; install one, or name it in CXX")
    return command or [str(found)]


def _build(compiler: Sequence[str], source: Path, flags: Sequence[str], options: LinkOptions, library: Path) -> None:
    """Compiles in a temporary folder, then renames: nobody sees an incomplete library."""
    compile_options, link_options = options
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        object_file, linked = Path(folder) / "kernels.o", Path(folder) / "kernels.so"
        _run([*compiler, *flags, *compile_options, "-c", str(source), "-o", str(object_file)])
        # linked without -fopenmp, so that the threads are those of torch's own OpenMP: a second thread
        # pool would compete with it for the cores
        _run([*compiler, "-shared", str(object_file), "-o", str(linked), *link_options])
        linked.replace(library)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
