"""The native kernels: compiled for this machine on first use, kept, and loaded from then on."""

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from alexnet_torch.files import cache_home

SOURCE = Path(__file__).parent / "native" / "response_norm.cpp"
# -ffast-math is not among them: it would lose NaNs, by which a run sees that it diverged
_FLAGS = ["-std=c++20", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC", "-w"]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def available() -> bool:
    """Whether `torch.ops.alexnet_torch` has the kernels; the first call builds and loads them.

    Building takes some ten seconds, once for a machine and version of torch. Where it fails, for want
    of a compiler say, a line on stderr says so, and what is slower instead.
    """
    return _loaded()


@functools.cache
def _loaded() -> bool:
    library = cache_home() / "native" / f"response_norm-{_digest()}.so"
    try:
        if not library.exists():
            _build(library)
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        first = next((line for line in reason.splitlines() if "error" in line), reason.partition("\n")[0])
        print(
            f"response normalisation is not compiled ({first.strip()}): it runs several times slower, in eager mode",
            file=sys.stderr,
        )
        return False
    for name, like in (("norm", 0), ("norm_backward", 1)):  # for torch.compile, which asks for shapes
        torch.library.register_fake(f"alexnet_torch::{name}", lambda *maps, at=like: torch.empty_like(maps[at]))
    return True


def _digest() -> str:
    """Names what a library was built from and for; a home folder may be shared by machines that differ."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    cpu = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    parts = [SOURCE.read_text(), *_FLAGS, torch.__version__, platform.machine(), cpu]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _build(library: Path) -> None:
    """Compiles into a folder of its own, then renames: other processes see a whole library or none."""
    from torch.utils import cpp_extension  # takes a second, which a library that is there can do without

    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        raise OSError("there is no C++ compiler")
    print("compiling response normalisation for this machine, once", file=sys.stderr, flush=True)
    library.parent.mkdir(parents=True, exist_ok=True)
    includes = [f"-isystem{path}" for path in cpp_extension.include_paths()]
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        object_file, linked = Path(folder) / "kernels.o", Path(folder) / "kernels.so"
        _run([compiler, *_FLAGS, *includes, "-c", str(SOURCE), "-o", str(object_file)])
        # linked without -fopenmp, so that threads are those of the OpenMP that torch brings: a second
        # pool would fight it for the cores
        torch_library = f"-L{cpp_extension.TORCH_LIB_PATH}"
        _run([compiler, "-shared", str(object_file), "-o", str(linked), torch_library, "-ltorch_cpu", "-lc10"])
        linked.replace(library)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
