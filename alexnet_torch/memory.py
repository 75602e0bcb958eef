"""Freed memory is kept by the process, not handed back to the system after each operation."""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # mallopt's names for them, in malloc.h


def keep_freed() -> None:
    """Makes the C library reuse freed memory, and torch ask for large pages; to be called before torch is used.

    A training step frees and allocates gigabytes of activations on the CPU. By default each large one
    comes from the system anew, and the system clears it, 4 KiB at a time: a fifth of the step
    (benchmarks/step.py). Does nothing where the C library is not GNU's.
    """
    if not sys.platform.startswith("linux"):
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read at torch's first allocation
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
