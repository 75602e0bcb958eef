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
        torchrun: whether it has started them, and starts them again if one fails.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    torchrun: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "World":
        """The world that torchrun describes; one process without it."""
        names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        rank, size, local_rank, local_size = (int(environment.get(name, alone)) for name, alone in names.items())
        return cls(rank, size, local_rank, local_size, "TORCHELASTIC_RUN_ID" in environment)


SINGLE_PROCESS = World()
"""One process, without torchrun."""
