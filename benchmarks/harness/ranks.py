"""The placements that parallel benchmarks compare, and the ranks of each, in processes of their own."""

import os
import socket
import time
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.harness.measure import Functions, Processes, time_call
from benchmarks.harness.our_step import our_rank_step

ONE_PROCESS = "1 process"
PLACEMENTS = {  # the value of --split, and the number of ranks
    ONE_PROCESS: ("none", 1),
    "2 tower ranks": ("ranks", 2),
    "2 batch slices": ("none", 2),
    "2 ranks, hybrid": ("hybrid", 2),
    "4 batch slices": ("none", 4),
    "2x2: tower ranks, batch slices": ("ranks", 4),
    "4 ranks, hybrid": ("hybrid", 4),
}


class RankGroup(Processes):
    """The ranks of one contender: `make` is called on each rank with (rank, world size, port)."""

    def __init__(self, make: Callable[[int, int, int], Functions], world_size: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        super().__init__(*(partial(make, rank, world_size, port) for rank in range(world_size)))

    def second_step(self) -> float:
        """Runs two steps and returns the second one's seconds: the system reclaims memory of processes that wait."""
        self.largest("step")
        return self.largest("step")


def start_ranks(name: str, batch: int) -> RankGroup:
    """Starts the processes of a placement, of one thread each; the batch is of all ranks together."""
    split, size = PLACEMENTS[name]
    return RankGroup(partial(rank_functions, split, batch), size)


def rank_functions(split: str, batch: int, rank: int, world_size: int, port: int) -> Functions:
    """Joins the process group as one rank with one thread; returns the functions that can be measured there."""
    set_rank(rank, world_size, port)
    torch.set_num_threads(1)
    step = our_rank_step(split, batch)

    def cpu_seconds() -> float:
        start = time.process_time()  # of all threads, without waiting
        step()
        return time.process_time() - start

    return {"step": partial(time_call, step), "CPU": cpu_seconds}


def set_rank(rank: int, world_size: int, port: int) -> None:
    """Sets the environment variables that torchrun would set for this rank."""
    names = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world_size}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
