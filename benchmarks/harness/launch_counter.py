"""Counts what a training step would launch on a GPU, on the pretend device of the tests, which computes on the CPU."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch

# operations that launch nothing: they make another view of memory, or reserve some
_FREE = {
    *("alias", "as_strided", "detach", "diagonal", "expand", "permute", "select", "slice", "split", "split_with_sizes"),
    *("squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "_unsafe_view", "_reshape_alias", "lift_fresh"),
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "narrow", "unfold", "resize_"),
}
_PART_OF = {
    **dict.fromkeys(("convolution", "convolution_backward", "addmm", "mm", "sum", "constant_pad_nd"), "layers"),
    **dict.fromkeys(("relu", "relu_", "threshold_backward"), "ReLU and pooling"),
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool2d_with_indices_backward"), "ReLU and pooling"),
    **dict.fromkeys(("_adaptive_avg_pool2d", "_adaptive_avg_pool2d_backward"), "ReLU and pooling"),
    **dict.fromkeys(("cat", "add", "send", "recv_"), "exchange between towers"),
    **dict.fromkeys(("native_dropout", "native_dropout_backward"), "dropout"),
}
REST, COPIES = "loss, errors and the rest", "to another device"


class _Calls(threading.local):
    """What a thread is calling: the backward pass has a thread for each device."""

    def __init__(self) -> None:
        self.parts: list[str] = []  # of the functions of `parts`, outermost first
        self.kernels = 0


class LaunchCounter:
    """Counts operations of the pretend device by part of the step, while `counting`.

    Args:
        parts: functions whose operations belong to one part, by "module.function": all that they call counts there.
        kernels: functions that are one kernel on a GPU and formulas elsewhere, in the same way: a call counts once.
    """

    def __init__(self, parts: dict[str, str], kernels: dict[str, str]) -> None:
        self._parts, self._kernels = parts, kernels
        self._calls = _Calls()
        self._launched: list[tuple[str, str]] = []  # appended to by all threads, which a Counter does not allow

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """How often each operation was launched, by (part, operation)."""
        return Counter(self._launched)

    def add(self, launches: Iterable[tuple[str, str]]) -> None:
        """Adds launches by (part, operation)."""
        self._launched.extend(launches)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts what is launched inside."""
        from tests.support import pretend_device

        dispatch = pretend_device.Pretend.__torch_dispatch__

        def counted(cls: type, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            del cls
            self._count(func, args, kwargs or {})
            return dispatch(func, types, args, kwargs)

        with ExitStack() as patches:
            patches.enter_context(patch.object(pretend_device.Pretend, "__torch_dispatch__", classmethod(counted)))
            for names, make in ((self._parts, self._as_part), (self._kernels, self._as_kernel)):
                for name, part in names.items():
                    function = _resolve(name)
                    patches.enter_context(patch(name, make(function, part)))
            yield

    def by_part(self) -> dict[str, int]:
        """Returns the number of launches in each part."""
        totals: Counter[str] = Counter()
        for (part, _), count in self.counts.items():
            totals[part] += count
        return dict(totals)

    @property
    def total(self) -> int:
        """All launches."""
        return len(self._launched)

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
            self._launched.append((part, function.__name__))
            self._calls.kernels += 1
            try:
                return function(*args, **kwargs)
            finally:
                self._calls.kernels -= 1

        return called

    def _count(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        name = func.overloadpacket.__name__
        if self._calls.kernels or func.is_view or name in _FREE:
            return
        if name in ("_to_copy", "copy_"):
            name = _copy_name(name, args, kwargs)
        kind = "copies between devices" if COPIES in name else _PART_OF.get(name, REST)
        self._launched.append((self._calls.parts[0] if self._calls.parts else kind, name))


def _copy_name(name: str, args: Any, kwargs: dict[str, Any]) -> str:
    """Returns what a copy does: move a tensor to another device, or change its type or layout."""
    if name == "copy_":
        source, target = args[1].device, args[0].device
    else:
        source, target = args[0].device, torch.device(kwargs.get("device") or args[0].device)
    return f"{name} {COPIES}" if source != target else name


def _resolve(name: str) -> Callable[..., Any]:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute)  # type: ignore[no-any-return]
    except ModuleNotFoundError:  # a method: module.Class.function
        return getattr(_resolve(module), attribute)  # type: ignore[no-any-return]
