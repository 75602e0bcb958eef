"""A training step in several processes against one: images/s, and the bytes that each process sends.

    python -m benchmarks.parallel.placements

Every process has one thread, on this machine's loopback by gloo; all contenders take turns. The step is train.py's,
from uint8 crops to the update. Bytes are the loopback device's own count.
"""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from alexnet_torch.data.augment import centre_crops, copy_crop, subtract_mean
from alexnet_torch.distributed.exchanges import PartnerExchange
from alexnet_torch.model.exchange import Exchange
from benchmarks.harness.measure import Apart, alternate, keep, seconds, table
from benchmarks.parallel.traffic import sent

ONE = "1 process"
CONTENDERS = {
    ONE: ("none", 1),
    "2 tower ranks": ("ranks", 2),
    "2 batch slices": ("none", 2),
    "2 ranks, hybrid": ("hybrid", 2),
    "4 batch slices": ("none", 4),
    "2x2: tower ranks, batch slices": ("ranks", 4),
    "4 ranks, hybrid": ("hybrid", 4),
}


@dataclass(frozen=True)
class Options:
    """How to measure."""

    batch_size: int = 128
    """Images a step in all, of 224 pixels."""
    rounds: int = 5
    """That count."""
    bytes_steps: int = 3
    """Over which bytes are counted."""


def free_port() -> int:
    """A port of the loopback device that nobody has."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def rank(split: str, index: int, size: int, port: int, batch: int) -> dict[str, Callable[[], object]]:
    """One process of a contender: what it can be asked for."""
    names = {"RANK": index, "WORLD_SIZE": size, "LOCAL_RANK": index, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"})
    torch.set_num_threads(1)
    step, exchange = train(split, batch)
    asked: dict[str, Callable[[], object]] = {"step": partial(seconds, step)}
    if isinstance(exchange, PartnerExchange):
        halves = np.array_split(np.arange(batch // (size // exchange.partners[1])), exchange.partners[1])
        every = np.concatenate(halves)
        images = np.random.default_rng(0).integers(0, 256, (len(every), 256, 256, 3), dtype=np.uint8)
        mine, merge = halves[exchange.partners[0]], exchange.merge
        asked |= {
            "read all": partial(seconds, lambda: read(images, every)),
            "read halves": partial(seconds, lambda: merge(read(images, mine))),
        }
    return asked


def read(images: np.ndarray, rows: np.ndarray) -> Tensor:
    """Crops (n, 224, 224, 3) uint8 of some rows of a map (N, 256, 256, 3) uint8, as the loader cuts them."""
    out = torch.empty((len(rows), 224, 224, 3), dtype=torch.uint8)
    for crop, row in zip(out, rows, strict=True):
        copy_crop(images[row], 16, 16, bool(row % 2), crop)
    return out


def train(split: str, batch: int) -> tuple[Callable[[], object], Exchange]:
    """The step of train.py in this process, and what its network exchanges by."""
    from alexnet_torch import PAPER, AlexNet, DropoutKey
    from alexnet_torch.distributed.placement import place
    from alexnet_torch.distributed.ranks import Ranks
    from alexnet_torch.distributed.world import World
    from alexnet_torch.malloc import keep_freed
    from alexnet_torch.recipes.schedules import LearningRates
    from alexnet_torch.training.optimizers import PaperSGD, parameter_groups, set_rates
    from alexnet_torch.training.precision import Precision
    from alexnet_torch.training.trainer import train_step

    keep_freed()
    ranks = Ranks(World.from_environment())
    placement = place(["cpu"], PAPER.towers, split, ranks.world)
    net = AlexNet(seed=0, exchange=ranks.connect(placement, 600)).train()
    stepped = ranks.wrap_data_parallel(net)
    optimizer = PaperSGD(parameter_groups(net, 5e-4, 5e-4))
    set_rates(optimizer, LearningRates(1e-3, 1e-3, {}))
    precision, mean = Precision(None, torch.device("cpu")), torch.full((256, 256, 3), 120.0)
    index, count = placement.slices
    rows = np.array_split(np.arange(batch), count)[index]
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch, 224, 224, 3), dtype=torch.uint8, generator=random)[rows]
    every = torch.arange(batch)
    labels = every if placement.scores_all_rows else every[rows]

    def step() -> Tensor:
        images = subtract_mean(pixels, centre_crops(len(pixels), 256, 224), mean)  # (n, 3, 224, 224)
        key = DropoutKey(0, 0, int(rows[0]))
        loss, _ = train_step(stepped, optimizer, images, labels, key, precision, batch)
        return ranks.sum_over_slices(loss)

    return step, net.exchange


class Together:
    """The processes of a contender.

    Args:
        make: what a process can be asked for, "step" among it, given its rank, their number, a port and `batch`.
        size: processes.
        batch: images of all of them.
    """

    def __init__(
        self, make: Callable[[int, int, int, int], dict[str, Callable[[], Any]]], size: int, batch: int
    ) -> None:
        port = free_port()
        self._ranks = [Apart(partial(make, index, size, port, batch)) for index in range(size)]

    def turn(self) -> float:
        """Seconds of a step, after one that does not count: systems take back memory of processes that wait."""
        self.step()
        return self.step()

    def step(self) -> float:
        """Seconds that a step took the last to end."""
        return self.largest("step")

    def largest(self, name: str) -> float:
        """Asks all for a number at once."""
        for one in self._ranks:
            one.send(name)
        return max(float(one.receive()) for one in self._ranks)

    def end(self) -> None:
        """Ends them."""
        for one in self._ranks:
            one.end()


def loopback() -> int:
    """Bytes that the loopback device has sent so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            return int(counts.split()[8])
    raise RuntimeError("/proc/net/dev has no loopback device")


def processes(name: str, batch: int) -> Together:
    """Those of a contender, by name."""
    split, size = CONTENDERS[name]
    return Together(partial(rank, split), size, batch)


def count_bytes(contender: Together, ranks: int, steps: int) -> float:
    """Bytes a step and rank."""
    contender.step()
    before = loopback()
    for _ in range(steps):
        contender.step()
    return (loopback() - before) / steps / ranks


def main(options: Options) -> None:
    """Measures and prints."""
    from alexnet_torch import PAPER

    # more processes than cores would tell nothing of time
    timed = {name: processes(name, options.batch_size) for name, (_, size) in CONTENDERS.items() if size <= 2}
    times = alternate({name: group.turn for name, group in timed.items()}, options.rounds)
    towers = timed["2 tower ranks"]
    ways = ("read all", "read halves")
    reading = alternate({way: partial(towers.largest, way) for way in ways}, 4 * options.rounds)
    said = (
        f"Two tower ranks share a batch of {options.batch_size}: for each to read all of it from the map takes "
        f"{1e3 * reading[ways[0]]:.1f} ms, half of it and send that to the other {1e3 * reading[ways[1]]:.1f} ms."
    )
    rows: list[tuple[object, ...]] = []
    for name, (split, size) in CONTENDERS.items():
        predicted = sent(split, size, options.batch_size, PAPER)
        group = timed.get(name) or processes(name, options.batch_size)
        measured = count_bytes(group, size, options.bytes_steps) if size > 1 else 0.0
        group.end()
        speed = f"{options.batch_size / times[name]:.1f}" if name in times else ""
        gain = f"{times[ONE] / times[name]:.2f}" if name in times else ""
        parts = ", ".join(f"{what} {value / 1e6:.1f}" for what, value in predicted.items() if value)
        rows.append((name, speed, gain, parts, f"{measured / 1e6:.1f}"))
    heads = ("placement", "images/s", "times 1 process", "MB sent a step and rank: predicted", "measured")
    keep(
        "placements",
        f"python -m benchmarks.parallel.placements --batch-size {options.batch_size}",
        1,
        f"{table(heads, rows)}\n\n{said}",
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
