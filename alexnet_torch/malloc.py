"""Lets the process reuse freed memory, instead of returning it to the system after each operation."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's parameters, from malloc.h
_LARGEST_REUSED = 60 << 20  # bytes; reusing larger blocks, too, gains 2% more speed for 10% more memory


def reuse_freed_memory() -> None:
    """Makes glibc reuse freed memory; does nothing with other C libraries. Call it before training.

    A training step frees and allocates gigabytes of activations on the CPU. By default each large block
    comes from the system, which clears it 4 KiB at a time: up to a fifth of the step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_REUSED)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
