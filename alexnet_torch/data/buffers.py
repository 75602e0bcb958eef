"""Memory for batches that is used again: the system's fresh pages cost more than what is written to them."""

import math
import weakref

import torch
from torch import Tensor


class Buffers:
    """Makes tensors on the CPU, in memory of earlier ones that nobody holds any more.

    A batch of 128 images is 77 MB of float, for which the C library asks the system each time, and the system
    clears each page at its first touch. Here memory comes back when the last tensor, view or graph that holds
    it is gone: nothing that is in use is ever written over. Any thread may call it.
    """

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A contiguous tensor with what was there before in it."""
        size = math.prod(shape) * dtype.itemsize
        try:
            memory = self._free.pop()
        except IndexError:
            memory = torch.empty(0, dtype=torch.uint8)
        if len(memory) < size:
            memory = torch.empty(size, dtype=torch.uint8)
        # a tensor's storage cannot be watched, but it holds the array that it was made from
        lease = memory.numpy()[:]
        weakref.finalize(lease, self._free.append, memory).atexit = False
        return torch.from_numpy(lease)[:size].view(dtype).view(shape)
