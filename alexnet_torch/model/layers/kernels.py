"""The native kernels: compiled for this machine on first use, and loaded from the cache from then on."""

import functools
import sys
from pathlib import Path

import torch

from alexnet_torch.native_library import BUILD_ERRORS, LinkOptions, build_failure, native_library

SOURCE = Path(__file__).parent / "native" / "response_norm.cpp"
# without -ffast-math, which would lose the NaNs by which a run sees that it diverged
_FLAGS = ["-fno-math-errno", "-fno-trapping-math", "-fopenmp"]


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
    try:
        library = native_library(SOURCE, _FLAGS, torch.__version__, _torch_options, _announce)
        torch.ops.load_library(str(library))
    except BUILD_ERRORS as error:
        print(
            f"response normalisation is not compiled ({build_failure(error)}): "
            "it runs several times slower, in eager mode",
            file=sys.stderr,
        )
        return False
    for name, argument in (("norm", 0), ("norm_backward", 1)):  # for torch.compile, which asks for shapes
        torch.library.register_fake(f"alexnet_torch::{name}", lambda *maps, at=argument: torch.empty_like(maps[at]))
    return True


def _announce() -> None:
    print("compiling response normalisation for this machine, once", file=sys.stderr, flush=True)


def _torch_options() -> LinkOptions:
    from torch.utils import cpp_extension  # takes a second, and is not needed where the library exists

    includes = [f"-isystem{path}" for path in cpp_extension.include_paths()]
    return includes, [f"-L{cpp_extension.TORCH_LIB_PATH}", "-ltorch_cpu", "-lc10"]
