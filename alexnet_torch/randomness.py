"""Random numbers as a function of (seed, purpose, position), never of a generator's history.

Whoever needs random numbers names what they are for and where in the run they fall; so a run is
the same run in any placement, and resuming it needs no generator state.
"""

from zlib import crc32

import numpy as np


def stream(seed: int, purpose: str, *position: int) -> np.random.Generator:
    """A fresh generator for one purpose at one position of the run.

    Args:
        seed: the run's seed, 0 or more.
        purpose: what the numbers are for, such as "order" or "crop".
        position: where in the run, such as the epoch; each 0 or more.
    """
    return np.random.default_rng([seed, crc32(purpose.encode()), *position])


def key(seed: int, purpose: str, *position: int) -> int:
    """One integer in [0, 2^62) for (seed, purpose, position), to key a counter-based hash."""
    return int(stream(seed, purpose, *position).integers(1 << 62))
