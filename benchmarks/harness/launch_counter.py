"""Counts what a training step would launch on a GPU, on the pretend device of the tests, which computes on the CPU."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pkgutil import resolve_name
from typing import Any
from unittest.mock import patch

import torch

# operations that launch nothing: they make another view of memory, or reserve some
_FREE = {
    *("alias", "as_strided", "detach", "diagonal", "expand", "permute", "select", "slice", "split", "split_with_sizes"),
    *("squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "_unsafe_view", "_reshape_alias", "lift_fresh"),
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "narrow", "unfold", "resize_"),
}
_POOL = ("max_pool2d_with_indices", "_adaptive_avg_pool2d")
_PART_OF = {
    **dict.fromkeys(("convolution", "convolution_backward", "addmm", "mm", "sum", "constant_pad_nd"), "layers"),
    **dict.fromkeys(("relu", "relu_", "threshold_backward"), "ReLU and pooling"),
    **dict.fromkeys((*_POOL, *(f"{name}_backward" for name in _POOL)), "ReLU and pooling"),
    **dict.fromkeys(("cat", "add", "send", "recv_"), "exchange between towers"),
    **dict.fromkeys(("native_dropout", "native_dropout_backward"), "dropout"),
}
COPIES = "to another device"


class _Calls(threading.local):
    """What a thread is calling: the backward pass has a thread for each device."""

    def __init__(self) -> None:
        self.parts: list[str] = []  # outermost first
        self.kernels = 0


class LaunchCounter:
    """Counts operations of the pretend device by part of the step, while `counting`.

    Args:
        parts: functions whose operations belong to one part, by "module.function": all that they call counts there.
        kernels: functions that are one kernel on a GPU and formulas elsewhere, in the same way: a call counts once.

    Attributes:
        launched: (part, operation) of each launch; appended to by all threads, which a Counter does not allow.
    """

    def __init__(self, parts: dict[str, str], kernels: dict[str, str]) -> None:
        self._parts, self._kernels, self._calls = parts, kernels, _Calls()
        self.launched: list[tuple[str, str]] = []

    def by_part(self) -> Counter[str]:
        """Returns the number of launches in each part."""
        return Counter(part for part, _ in self.launched)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts what is launched inside."""
        from tests.support.pretend_device import Pretend

        dispatch = Pretend.__torch_dispatch__

        def counted(cls: type, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            del cls
            self._count(func, args, kwargs or {})
            return dispatch(func, types, args, kwargs)

        with ExitStack() as patches:
            patches.enter_context(patch.object(Pretend, "__torch_dispatch__", classmethod(counted)))
            for names, make in ((self._parts, self._as_part), (self._kernels, self._as_kernel)):
                for name, part in names.items():
                    patches.enter_context(patch(name, make(resolve_name(name), part)))
            yield

    def _as_part(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            self._calls.parts.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._calls.parts.pop()

        return called

    def _as_kernel(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            self.launched.append((part, function.__name__))
            self._calls.kernels += 1
            try:
                return function(*args, **kwargs)
            finally:
                self._calls.kernels -= 1

        return called

    def _count(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        name, part = func.overloadpacket.__name__, ""
        if self._calls.kernels or func.is_view or name in _FREE:
            return
        if name in ("_to_copy", "copy_"):  # moves a tensor to another device, or changes its type or layout
            target = args[0].device if name == "copy_" else torch.device(kwargs.get("device") or args[0].device)
            if (args[1] if name == "copy_" else args[0]).device != target:
                name, part = f"{name} {COPIES}", "copies between devices"
        part = part or _PART_OF.get(name, "loss, errors and the rest")
        self.launched.append((self._calls.parts[0] if self._calls.parts else part, name))
