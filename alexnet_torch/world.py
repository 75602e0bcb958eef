"""Which process of how many this is, as torchrun says. Imports no torch."""

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """The processes of a run, of which this is one.

    Attributes:
        rank: this process, from 0.
        size: processes in all.
        local_rank: this process among those of its machine, from 0.
        local_size: processes of its machine.
        restarts: how often torchrun has started them all again.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> "World":
        """The world that torchrun describes; one process without it."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")
        defaults = (0, 1, 0, 1, 0)
        return cls(*(int(environment.get(name, default)) for name, default in zip(names, defaults, strict=True)))


ALONE = World()
"""One process, without torchrun."""
