"""Dropout masks as a function of (key, row, element)."""

import torch
from torch import Tensor


def _mix(bits: Tensor) -> Tensor:
    """Maps 32-bit values (in int64) one to one, so that every input bit changes every output bit.

    The constants are those of Chris Wellons' lowbias32. Products of 32-bit values wrap around in int64,
    which leaves the low 32 bits right.
    """
    low = 0xFFFFFFFF
    bits = ((bits ^ (bits >> 16)) * 0x7FEB352D) & low
    bits = ((bits ^ (bits >> 15)) * 0x846CA68B) & low
    return bits ^ (bits >> 16)


def dropout_mask(shape: torch.Size, rate: float, key: Tensor, first_row: int, first_element: int = 0) -> Tensor:
    """Returns which elements of a batch's activations to keep: True with probability 1 - rate.

    The mask is a hash of (key, row in the global batch, element). So a part of the batch takes its rows of
    the same mask, on any device, and other rows are never drawn.

    Args:
        shape: (n, ...), the shape of the activations.
        rate: probability of dropping an element.
        key: 0-d int64, non-negative, below 2^62: one for each step, tower and stage. A tensor, on the
            device of the mask, so that a compiled network is not compiled again at each step.
        first_row: index of the first of these rows in the global batch.
        first_element: index of the first of these elements in the tower's row.

    Returns:
        bool, of `shape`.
    """
    rows = torch.arange(first_row, first_row + shape[0], device=key.device)
    elements = torch.arange(first_element, first_element + shape[1:].numel(), device=key.device)
    low, high = key & 0xFFFFFFFF, key >> 32
    rows = _mix(_mix(rows ^ low) + high & 0xFFFFFFFF)  # (n,)
    bits = _mix(_mix(elements) ^ rows[:, None])  # (n, elements)
    return (bits >= int(rate * 2**32)).view(shape)
