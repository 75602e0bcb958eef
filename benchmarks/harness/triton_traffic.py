"""Runs kernels in Triton's interpreter, with real numbers, and counts the memory that they touch.

The process must have been started with TRITON_INTERPRET=1, which is read when a kernel is defined.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder

_SECTOR = 32  # bytes: the least that a GPU moves


@dataclass(frozen=True)
class Traffic:
    """Bytes in whole sectors of 32."""

    by_programs: int  # between the processors and the second-level cache: each program counts for itself
    distinct: int  # of all programs together: what memory must move


def measure_traffic(call: Callable[[], Tensor]) -> tuple[Traffic, Tensor]:
    """Returns the bytes that the kernels of a call read and write, and its result."""
    touched: set[tuple[Any, bool, int]] = set()  # (program, whether written, sector)

    def record(builder: Any, addresses: Any, mask: Any, written: bool) -> None:
        for sector in np.unique(addresses.data[mask.data.astype(bool)] // _SECTOR):
            touched.add((builder.grid_idx, written, int(sector)))

    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def loaded(self: Any, addresses: Any, mask: Any, *others: Any) -> Any:
        record(self, addresses, mask, False)
        return load(self, addresses, mask, *others)

    def stored(self: Any, addresses: Any, value: Any, mask: Any, *others: Any) -> Any:
        record(self, addresses, mask, True)
        return store(self, addresses, value, mask, *others)

    with patch.multiple(InterpreterBuilder, create_masked_load=loaded, create_masked_store=stored):
        result = call()
    distinct = {(written, sector) for _, written, sector in touched}
    return Traffic(_SECTOR * len(touched), _SECTOR * len(distinct)), result
