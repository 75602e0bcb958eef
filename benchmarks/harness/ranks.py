"""The placements that parallel benchmarks compare, and the ranks of each, in processes of their own."""

import os
import socket
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet_torch.data.augment import Crops
from alexnet_torch.data.image_map import ImageMap, checksum
from benchmarks.harness.measure import Functions, Worker, time_call
from benchmarks.harness.our_step import our_rank_step

ONE_PROCESS = "1 process"
TOWER_RANKS = "2 tower ranks"
PLACEMENTS = {  # the value of --split, and the number of ranks
    ONE_PROCESS: ("none", 1),
    TOWER_RANKS: ("ranks", 2),
    "2 batch slices": ("none", 2),
    "2 ranks, hybrid": ("hybrid", 2),
    "4 batch slices": ("none", 4),
    "2x2: tower ranks, batch slices": ("ranks", 4),
    "4 ranks, hybrid": ("hybrid", 4),
}
CPU, READ_ALL, READ_HALVES = "CPU", "read all", "read halves"


class RankGroup:
    """The ranks of one contender, each in a process of its own.

    Args:
        make: picklable; called on each rank with (rank, world size, port), returns that rank's functions, among them
            "step", which returns seconds.
        world_size: number of ranks.
    """

    def __init__(self, make: Callable[[int, int, int], Functions], world_size: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        self._workers = [Worker(partial(make, rank, world_size, port)) for rank in range(world_size)]

    def second_step(self) -> float:
        """Runs two steps and returns the second one's seconds: the system reclaims memory of processes that wait."""
        self.largest("step")
        return self.largest("step")

    def results(self, name: str) -> list[float]:
        """Calls a function on all ranks at the same time and returns their results."""
        for worker in self._workers:
            worker.start(name)
        return [float(worker.result()) for worker in self._workers]

    def largest(self, name: str) -> float:
        """Calls a function on all ranks at the same time; returns the largest result."""
        return max(self.results(name))

    def close(self) -> None:
        """Ends all processes."""
        for worker in self._workers:
            worker.close()


def start_ranks(name: str, batch: int) -> RankGroup:
    """Starts the processes of a placement, of one thread each; the batch is of all ranks together."""
    split, size = PLACEMENTS[name]
    return RankGroup(partial(rank_functions, split, batch), size)


def rank_functions(split: str, batch: int, rank: int, world_size: int, port: int) -> dict[str, Callable[[], object]]:
    """Joins the process group as one rank with one thread; returns the functions that can be measured there."""
    set_rank(rank, world_size, port)
    torch.set_num_threads(1)
    step, ranks = our_rank_step(split, batch)

    def cpu_seconds() -> float:
        start = time.process_time()  # of all threads, without waiting
        step()
        return time.process_time() - start

    functions: dict[str, Callable[[], object]] = {"step": partial(time_call, step), CPU: cpu_seconds}
    index, count = ranks.placement.partners
    if ranks.peers and count > 1:
        halves = np.array_split(np.arange(batch // (world_size // count)), count)
        rows, merge = np.concatenate(halves), partial(ranks.peers.all_gather_rows, what="the exchange of crops")
        images = _temporary_map(len(rows))
        functions |= {
            READ_ALL: partial(time_call, lambda: _read_crops(images, rows)),
            READ_HALVES: partial(time_call, lambda: merge(_read_crops(images, halves[index]))),
        }
    return functions


def set_rank(rank: int, world_size: int, port: int) -> None:
    """Sets the environment variables that torchrun would set for this rank."""
    names = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world_size}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})


def _read_crops(images: ImageMap, rows: np.ndarray) -> Tensor:
    """Returns uint8 crops (n, 224, 224, 3) of some rows of a map, cut as the loader does."""
    out = torch.empty((len(rows), 224, 224, 3), dtype=torch.uint8)
    images.read(rows, Crops(np.full(len(rows), 16), np.full(len(rows), 16), rows % 2 == 1), out.numpy())
    return out


def _temporary_map(n: int) -> ImageMap:
    """Returns a map of random images (n, 256, 256, 3), whose file has no name any more."""
    with tempfile.NamedTemporaryFile() as file:
        images = np.random.default_rng(0).integers(0, 256, (n, 256, 256, 3), np.uint8)
        file.write(images.data)
        file.flush()
        return ImageMap(Path(file.name), 256, np.array(list(map(checksum, images)), np.uint64))
