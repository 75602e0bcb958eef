"""Our kernels for CPUs, in C++: compiled for this machine on first use, then loaded from the cache."""

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from alexnet_torch.native import LinkOptions, load_compiled

_NORM, _DROPOUT = (Path(__file__).parent / "native" / name for name in ("response_norm.cpp", "dropout.cpp"))
# without -ffast-math, which would lose NaNs
_FLAGS = ["-fno-math-errno", "-fno-trapping-math", "-fopenmp"]


def available() -> bool:
    """Returns whether the kernels can be used; the first call builds them, for some ten seconds."""
    return _load() is not None


# as torch.compiler.assume_constant_result, which imports all of torch.compile: 1.3 s
available._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _load() -> ctypes.CDLL | None:
    """Loads both; returns dropout's library, or None, after a line, where they cannot be built."""
    building = "compiling response normalisation and dropout for this machine, once"
    what, of_torch = "response normalisation and dropout are", (torch.__version__, _torch_options)
    norm = load_compiled(_NORM, what, _FLAGS, *of_torch, building)  # registers torch.ops.alexnet_torch
    library = load_compiled(_DROPOUT, "dropout is", _FLAGS) if norm else None
    if library is None:
        return None
    for name, argument in (("norm", 0), ("norm_backward", 1)):  # for torch.compile, which asks for shapes
        torch.library.register_fake(f"alexnet_torch::{name}", lambda *maps, at=argument: torch.empty_like(maps[at]))
    library.dropout.argtypes = [*[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 7, ctypes.c_double, ctypes.c_bool]
    library.dropout.restype = None
    return library


def _torch_options() -> LinkOptions:
    from torch.utils import cpp_extension  # takes a second, and is not needed where the library exists

    includes = [f"-isystem{path}" for path in cpp_extension.include_paths()]
    return includes, [f"-L{cpp_extension.TORCH_LIB_PATH}", "-ltorch_cpu", "-lc10"]


def dropout(
    x: Tensor, key: Tensor, row: int, element: int, threshold: int, scale: float, relu: bool, gate: Tensor | None
) -> Tensor:
    """Returns dropout of x (n, ...) of float32 or float64, contiguous as `gate` is."""
    library, out = _load(), torch.empty_like(x)
    assert library is not None
    assert gate is None or (gate.shape, gate.dtype) == (x.shape, x.dtype)
    shape = (x.dtype == torch.float64, len(x), x.shape[1:].numel())
    addresses = x.data_ptr(), None if gate is None else gate.data_ptr(), out.data_ptr()
    library.dropout(*addresses, *shape, int(key), row, element, threshold, scale, relu)
    return out
