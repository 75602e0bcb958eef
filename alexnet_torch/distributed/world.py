"""This process's rank among the processes of a run, as torchrun sets it. Imports no torch."""

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from this one."""

    rank: int = 0  # this process's index, from 0
    size: int = 1  # the number of processes
    local_rank: int = 0  # this process's index on its machine, from 0
    local_size: int = 1  # the number of processes on its machine
    torchrun: bool = False  # whether torchrun started the processes, and restarts them all if one fails

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "World":
        """Reads torchrun's variables; without them returns a single process."""
        defaults = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        rank, size, local_rank, local_size = (int(environment.get(name, value)) for name, value in defaults.items())
        return cls(rank, size, local_rank, local_size, "TORCHELASTIC_RUN_ID" in environment)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes the run's files and prints."""
        return self.rank == 0


SINGLE_PROCESS = World()
"""One process, without torchrun."""
