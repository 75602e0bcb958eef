"""This process's rank, as torchrun or Slurm sets it. Imports no torch."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass

from alexnet_torch.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from this one."""

    rank: int = 0  # this process's index, from 0
    size: int = 1  # the number of processes
    local_rank: int = 0  # this process's index on its machine
    local_size: int = 1  # the number of processes on its machine
    torchrun: bool = False  # whether torchrun started them, and restarts all if one fails

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "World":
        """Reads torchrun's variables: a single process without any; UserError if they fit no rank."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        given = {name: environment[name] for name in names if name in environment}
        tasks = environment.get("SLURM_STEP_NUM_TASKS", "1")  # of srun, which sets it in its tasks only
        if not given and tasks != "1" and environment.get("SLURM_PROCID") == "0":
            logger.warning("srun: %s tasks, each with a run of its own; for one run see Slurm in the docs", tasks)
        found = ", ".join(f"{name}={value}" for name, value in given.items())
        single = f"env -u {' -u '.join(given)} python train.py ..."
        fix = f"start torchrun ... train.py ..., or for one process {single}"
        # Slurm and other clusters start processes themselves, without the local variables
        slurm = environment if given else {}
        local = (slurm.get("SLURM_LOCALID", 0), slurm.get("SLURM_NTASKS_PER_NODE", 1))
        values = dict(zip(names, (0, 1, *local), strict=True)) | given
        try:
            rank, size, local_rank, local_size = (int(values[name]) for name in names)
            if not (0 <= local_rank < local_size <= size and local_rank <= rank < size):
                raise ValueError("out of range")
        except ValueError as error:
            raise UserError(f"the environment has {found}, which no rank of a run has; {fix}") from error
        needed = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if size > 1 else ()
        if missing := ", ".join(name for name in needed if name not in environment):
            raise UserError(f"the environment has {found} without {missing}, as torchrun sets them; {fix}")
        return cls(rank, size, local_rank, local_size, "TORCHELASTIC_RUN_ID" in environment)

    @property
    def is_main(self) -> bool:
        return self.rank == 0


SINGLE_PROCESS = World()
"""One process, without torchrun."""
