"""A pretend accelerator: tensors claim the device pretend:0, and hold real numbers in a CPU tensor.

It shows without a GPU what a second device would do: an operation that mixes it with CPU tensors raises, only copies
cross, and COPIES records each. Its queue runs behind the host: what a non-blocking copy reads on the CPU must stay as
it is until the next wait, else RACES gets its line; what it returns there is NaN until then; WAITS has lines of waits.
What is copied to it on another stream is 85 until the first stream waits for that one; using its memory there without
record_stream is a race.
Autocast computes products and convolutions in 16 bits. But everything is computed on the CPU: this shows nothing about
a GPU's kernels, streams or speed.
PyTorch gives a Python backend one device, so two devices are "cpu" and "pretend:0", and no page-locked memory, whose
allocator must be in C++: `pin_memory` runs on GPUs only.

Importing this module registers the device for the rest of the process, and must come before the first backward pass:
use the fixture `pretend_process`.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration as registration
from torch.utils._pytree import tree_leaves, tree_map


class PretendStream:
    """A queue of the device; `copied` is what came on it while others have not waited for it."""

    def __init__(self, *_: object) -> None:
        self.copied = list[tuple[Tensor, Tensor]]()  # on the CPU: memory, and its content

    def wait_stream(self, other: "PretendStream") -> None:
        """Lets this stream read what came on the other one."""
        for memory, content in other.copied:
            memory.copy_(content)
        other.copied.clear()


_STREAMS = [PretendStream()]  # the first one computes; the last one is the present one


class _Module(registration._DummyBackendModule):
    Stream = PretendStream

    @contextmanager
    def stream(self, stream: PretendStream) -> Iterator[None]:
        _STREAMS.append(stream)
        yield
        _STREAMS.pop()

    def current_stream(self, *_: object) -> PretendStream:
        return _STREAMS[-1]

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class _Guard(registration._DummyDeviceGuard):
    def type_(self) -> Any:
        return torch._C._autograd.DeviceType.PrivateUse1


registration._setup_privateuseone_for_python_backend("pretend", _Module(), device_guard=_Guard())
DEVICE = torch.device("pretend", 0)
COPIES: list[tuple[str, str, tuple[int, ...]]] = []
"""Each copy between the CPU and the device so far: (from, to, shape); a number that is read has the shape ()."""
RACES: list[str] = []
WAITS: list[str] = []
_READ_LATER: list[tuple[Tensor, Tensor, str]] = []  # on the CPU: memory, its content when the copy began, the line
_WRITTEN_LATER: list[tuple[Tensor, Tensor]] = []  # on the CPU: memory, and what the device will write there


class Pretend(Tensor):
    """A tensor of the device, around a CPU tensor `elem`."""

    elem: Tensor
    stream: PretendStream | None  # to which alone its memory belongs

    @staticmethod
    def __new__(cls, elem: Tensor) -> "Pretend":
        made: Pretend = torch.Tensor._make_wrapper_subclass(
            cls,
            elem.size(),
            strides=elem.stride(),
            storage_offset=elem.storage_offset(),
            dtype=elem.dtype,
            device=DEVICE,
        )
        made.elem = elem
        made.stream = _STREAMS[-1] if len(_STREAMS) > 1 else None
        return made

    def __repr__(self, *, tensor_contents: str | None = None) -> str:  # type: ignore[override]
        return f"Pretend({self.elem})" if tensor_contents is None else f"Pretend({tensor_contents})"

    def tolist(self) -> Any:
        """Reads the numbers back, as any tensor's."""
        return self.cpu().tolist()

    def record_stream(self, *_: object) -> None:
        """Keeps the memory until that stream has done what it has to do now."""
        self.stream = None

    @property
    def data(self) -> Tensor:
        """Without history, as any tensor's; assigning it, as `Module.to` does, takes the new tensor's numbers too."""
        return self.detach()

    @data.setter
    def data(self, new: Tensor) -> None:
        assert isinstance(new, Pretend)
        Tensor.data.__set__(self, new)  # type: ignore[attr-defined]
        self.elem = new.elem

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares an instance method
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Computes an operation on the CPU; refuses to mix devices, except for numbers, which CUDA takes too."""
        kwargs = dict(kwargs or {})
        if func is torch.ops.aten._to_copy.default:
            return _to_copy(args[0], **kwargs)
        if func is torch.ops.aten.copy_.default:
            return _copy_from(args[1], *args[:1], *args[2:], **kwargs)
        if func is torch.ops.aten._local_scalar_dense.default:
            _record(args[0], "cpu")
            _wait()
        leaves = tree_leaves((args, kwargs))
        for leaf in leaves:
            if isinstance(leaf, Tensor) and not isinstance(leaf, Pretend) and leaf.dim() > 0:
                raise RuntimeError(f"{func}: mixes {leaf.device} and {DEVICE}")
            if isinstance(leaf, Pretend) and leaf.stream not in (None, _STREAMS[-1]):
                RACES.append(_line())
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        known = {id(leaf.elem): leaf for leaf in leaves if isinstance(leaf, Pretend)}
        out = func(*tree_map(_plain, args), **tree_map(_plain, kwargs))

        def wrap(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return known[id(value)] if id(value) in known else Pretend(value)

        return tree_map(wrap, out)


def _plain(value: Any) -> Any:
    return value.elem if isinstance(value, Pretend) else value


def _to_copy(
    x: Tensor,
    dtype: Any = None,
    device: Any = None,
    memory_format: Any = None,
    non_blocking: bool = False,
    **_unused: Any,
) -> Tensor:
    to = torch.device(device) if device is not None else x.device
    out: Tensor = torch.ops.aten._to_copy.default(_plain(x), dtype=dtype, memory_format=memory_format)
    if to.type != x.device.type:
        _record(x, to.type)
        _enqueue(x, out, non_blocking)
    return Pretend(out) if to.type == DEVICE.type else out


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    if source.device.type != target.device.type:
        _record(source, target.device.type)
    _plain(target).copy_(_plain(source))
    if source.device.type != target.device.type:
        _enqueue(source, _plain(target), non_blocking)
    return target


def _record(x: Tensor, to: str) -> None:
    COPIES.append((x.device.type, to, tuple(x.shape)))


def _enqueue(source: Tensor, copy: Tensor, non_blocking: bool) -> None:
    """Puts a copy between the devices behind what the device has to do, or waits for it."""
    if not non_blocking:
        _wait()
    elif isinstance(source, Pretend):
        _WRITTEN_LATER.append((copy, copy.clone()))
        _spoil(copy)
    else:
        _READ_LATER.append((source.detach(), source.detach().clone(), _line()))
        if len(_STREAMS) > 1:
            _STREAMS[-1].copied.append((copy, copy.clone()))
            _spoil(copy)


def _spoil(memory: Tensor) -> None:
    memory.fill_(float("nan") if memory.is_floating_point() else 85)


def _wait() -> None:
    WAITS.append(_line())
    RACES.extend(line for memory, then, line in _READ_LATER if not torch.allclose(memory, then, 0, 0, equal_nan=True))
    for memory, written in _WRITTEN_LATER:
        memory.copy_(written)
    _READ_LATER.clear()
    _WRITTEN_LATER.clear()


def _line() -> str:
    """Returns the package's line that is running."""
    frame: Any = sys._getframe()
    while frame and "/alexnet_torch/" not in frame.f_code.co_filename:
        frame = frame.f_back
    return f"{frame.f_code.co_filename.rpartition('/alexnet_torch/')[2]}:{frame.f_lineno}" if frame else "tests"


def _empty(size: Any, *, dtype: Any = None, memory_format: Any = None, **_unused: Any) -> Tensor:
    return Pretend(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format, device="cpu"))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_unused: Any) -> Tensor:
    return Pretend(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))


def _autocast(name: str) -> None:
    """Gives an operation its autocast on the device, as torch does for CUDA: its tensors in the 16-bit type."""
    operation = getattr(torch.ops.aten, name).default

    def lower(value: Any) -> Any:
        is_float32 = isinstance(value, Tensor) and value.dtype == torch.float32
        return value.to(torch.get_autocast_dtype("pretend")) if is_float32 else value

    def run(*args: Any) -> Any:
        key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)  # type: ignore[attr-defined]
        with torch._C._ExcludeDispatchKeyGuard(key):
            return operation(*tree_map(lower, args))

    _LIBRARY.impl(name, run, "AutocastPrivateUse1")


_LIBRARY = torch.library.Library("aten", "IMPL")
_LIBRARY.impl("empty.memory_format", _empty, "PrivateUse1")
_LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
_LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")
for _name in ("conv2d", "linear", "addmm", "mm"):
    _autocast(_name)
_REST = torch.library.Library("_", "IMPL")
_REST.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
