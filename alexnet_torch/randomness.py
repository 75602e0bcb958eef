"""Random numbers as a function of (seed, purpose, position), never of a generator's history.

Code that needs random numbers names their purpose and their position in the run. So a run is the same
in any placement, and resuming it needs no generator state.
"""

from zlib import crc32

import numpy as np


def random_generator(seed: int, purpose: str, *position: int) -> np.random.Generator:
    """Returns a new generator for a purpose, such as "crop", at a position, such as an epoch; all from 0 on."""
    return np.random.default_rng([seed, crc32(purpose.encode()), *position])


def random_key(seed: int, purpose: str, *position: int) -> int:
    """Returns one integer in [0, 2^62) for (seed, purpose, position): the key of a counter-based hash."""
    return int(random_generator(seed, purpose, *position).integers(1 << 62))
