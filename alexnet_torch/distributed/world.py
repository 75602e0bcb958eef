"""This process's rank among the processes of a run, as torchrun or Slurm sets it. Imports no torch."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from alexnet_torch.errors import UserError


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
        """Reads torchrun's variables; without any of them returns a single process.

        Raises:
            UserError: only some of them are set, or to values that fit no rank.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        given = {name: environment[name] for name in names if name in environment}
        fix = f"start torchrun ... train.py ..., or for one process env -u {' -u '.join(given)} python train.py ..."
        found = ", ".join(f"{name}={value}" for name, value in given.items())
        # some clusters start the processes themselves, without the local ones: Slurm's, or one process on each machine
        slurm = environment if given else {}
        local = {"LOCAL_RANK": slurm.get("SLURM_LOCALID", 0), "LOCAL_WORLD_SIZE": slurm.get("SLURM_NTASKS_PER_NODE", 1)}
        values = {"RANK": 0, "WORLD_SIZE": 1, **local, **given}
        try:
            rank, size, local_rank, local_size = (int(values[name]) for name in names)
            if not (0 <= local_rank < local_size <= size and local_rank <= rank < size):
                raise ValueError("out of range")
        except ValueError as error:
            raise UserError(f"the environment has {found}, which no rank of a run has; {fix}") from error
        needed = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if size > 1 else ()
        if missing := [name for name in needed if name not in environment]:
            raise UserError(f"the environment has {found} without {', '.join(missing)}, as torchrun sets them; {fix}")
        return cls(rank, size, local_rank, local_size, "TORCHELASTIC_RUN_ID" in environment)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes the run's files and prints."""
        return self.rank == 0


SINGLE_PROCESS = World()
"""One process, without torchrun."""
