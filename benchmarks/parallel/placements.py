"""A training step in several processes against one: images/s, and the bytes that each process sends.

    python -m benchmarks.parallel.placements

Every process has one thread; they communicate over this machine's loopback device by gloo. The placements' steps
alternate. The step is train.py's, from uint8 crops to the update. The CPU time of a process does not count its waiting:
what is lost against it is lost in waiting for the other process. Bytes are the loopback device's own count.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro

from alexnet_torch import PAPER
from benchmarks.harness.measure import median_times
from benchmarks.harness.placements import CPU, ONE_PROCESS, PLACEMENTS, READ_ALL, READ_HALVES, TOWER_RANKS, start_ranks
from benchmarks.harness.processes import RankGroup
from benchmarks.harness.report import markdown_table, save_result
from benchmarks.harness.traffic import bytes_sent


@dataclass(frozen=True)
class Options:
    """How to measure."""

    batch_size: int = 128
    """Images of 224 pixels in a step, of all processes together."""
    rounds: int = 5
    """Measured rounds."""
    bytes_steps: int = 3
    """Steps during which bytes are counted."""


def loopback_bytes() -> int:
    """Returns the bytes that the loopback device has sent so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            return int(counts.split()[8])
    raise RuntimeError("/proc/net/dev has no loopback device")


def count_bytes(group: RankGroup, ranks: int, steps: int) -> float:
    """Returns the bytes that one rank sends in a step."""
    group.step()
    before = loopback_bytes()
    for _ in range(steps):
        group.step()
    return (loopback_bytes() - before) / steps / ranks


def compare_reading(tower_ranks: RankGroup, options: Options) -> str:
    """Measures whether two ranks that need the same images should share the reading; returns a sentence."""
    ways = {way: partial(tower_ranks.max_over_ranks, way) for way in (READ_ALL, READ_HALVES)}
    times = median_times(ways, 4 * options.rounds)
    return (
        f"Two tower ranks need the same batch of {options.batch_size}: reading all of it from the map takes each "
        f"{1e3 * times[READ_ALL]:.1f} ms, reading half of it and sending that to the other rank "
        f"{1e3 * times[READ_HALVES]:.1f} ms."
    )


def main(options: Options) -> None:
    """Measures and writes the result page."""
    # with more processes than cores, times would mean nothing
    timed = {name: start_ranks(name, options.batch_size) for name, (_, size) in PLACEMENTS.items() if size <= 2}
    times = median_times({name: group.second_step for name, group in timed.items()}, options.rounds)
    work = median_times({name: partial(g.max_over_ranks, CPU) for name, g in timed.items()}, options.rounds)
    reading = compare_reading(timed[TOWER_RANKS], options)
    rows: list[tuple[object, ...]] = []
    for name, (split, size) in PLACEMENTS.items():
        predicted = bytes_sent(split, size, options.batch_size, PAPER)
        group = timed.get(name) or start_ranks(name, options.batch_size)
        measured = count_bytes(group, size, options.bytes_steps) if size > 1 else 0.0
        group.close()
        speed = f"{options.batch_size / times[name]:.1f}" if name in times else ""
        gain = f"{times[ONE_PROCESS] / times[name]:.2f}" if name in times else ""
        less = f"{work[ONE_PROCESS] / work[name]:.2f}" if name in times else ""
        parts = ", ".join(f"{kind} {value / 1e6:.1f}" for kind, value in predicted.items() if value)
        rows.append((name, speed, gain, less, parts, f"{measured / 1e6:.1f}"))
    columns = (
        "placement",
        "images/s",
        "times 1 process",
        "by CPU time",
        "MB sent a step and rank: predicted",
        "measured",
    )
    command = f"python -m benchmarks.parallel.placements --batch-size {options.batch_size}"
    save_result("placements", command, 1, f"{markdown_table(columns, rows)}\n\n{reading}")


if __name__ == "__main__":
    main(tyro.cli(Options))
