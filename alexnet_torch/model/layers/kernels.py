"""The native kernels: compiled for this machine on first use, and loaded from the cache from then on."""

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
# without -ffast-math, which would lose the NaNs by which a run sees that it diverged
_FLAGS = ["-std=c++20", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC", "-w"]


def available() -> bool:
    """Returns whether `torch.ops.alexnet_torch` has the kernels; the first call builds and loads them.

    The build takes some ten seconds, once for each machine and version of torch. Where it fails, for example
    without a compiler, a line on stderr gives the cause and what runs slower instead.
    """
    return _load()


# as torch.compiler.assume_constant_result does, which imports all of torch.compile: 1.3 s
available._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _load() -> bool:
    library = cache_home() / "native" / f"response_norm-{_digest()}.so"
    try:
        if not library.exists():
            _build(library)
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        cause = next((line for line in reason.splitlines() if "error" in line), reason.partition("\n")[0])
        print(
            f"response normalisation is not compiled ({cause.strip()}): it runs several times slower, in eager mode",
            file=sys.stderr,
        )
        return False
    for name, argument in (("norm", 0), ("norm_backward", 1)):  # for torch.compile, which asks for shapes
        torch.library.register_fake(f"alexnet_torch::{name}", lambda *maps, at=argument: torch.empty_like(maps[at]))
    return True


def _digest() -> str:
    """Identifies a library's source, flags, torch and CPU: machines that differ may share a home folder."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    cpu = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    parts = [SOURCE.read_text(), *_FLAGS, torch.__version__, platform.machine(), cpu]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _build(library: Path) -> None:
    """Compiles in a temporary folder, then renames: nobody sees an incomplete library."""
    from torch.utils import cpp_extension  # takes a second, and is not needed where the library exists

    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        raise OSError("there is no C++ compiler; install one, or name it in CXX")
    print("compiling response normalisation for this machine, once", file=sys.stderr, flush=True)
    library.parent.mkdir(parents=True, exist_ok=True)
    includes = [f"-isystem{path}" for path in cpp_extension.include_paths()]
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        object_file, linked = Path(folder) / "kernels.o", Path(folder) / "kernels.so"
        _run([compiler, *_FLAGS, *includes, "-c", str(SOURCE), "-o", str(object_file)])
        # linked without -fopenmp, so that the threads are those of torch's own OpenMP: a second thread
        # pool would compete with it for the cores
        torch_library = f"-L{cpp_extension.TORCH_LIB_PATH}"
        _run([compiler, "-shared", str(object_file), "-o", str(linked), torch_library, "-ltorch_cpu", "-lc10"])
        linked.replace(library)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
