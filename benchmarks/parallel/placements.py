"""A training step in several processes against one: images/s, and the bytes that each process sends.

    python -m benchmarks.parallel.placements

Every process has one thread; they communicate over this machine's loopback device by gloo. The placements' steps
alternate. The step is train.py's, from uint8 crops to the update. The CPU time of a process does not count its waiting:
what is lost against it is lost in waiting for the other process. Bytes are the loopback device's own count.
"""

from functools import partial
from pathlib import Path

import tyro

from alexnet_torch import PAPER
from benchmarks.harness.measure import median_times
from benchmarks.harness.ranks import ONE_PROCESS, PLACEMENTS, RankGroup, start_ranks
from benchmarks.harness.report import markdown_table, save_result
from benchmarks.harness.traffic import bytes_sent


def loopback_bytes() -> int:
    """Returns the bytes that the loopback device has sent so far."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return int(next(line for line in lines if line.strip().startswith("lo:")).split()[9])


def count_bytes(group: RankGroup, ranks: int, steps: int) -> float:
    """Returns the bytes that one rank sends in a step."""
    group.largest("step")
    before = loopback_bytes()
    for _ in range(steps):
        group.largest("step")
    return (loopback_bytes() - before) / steps / ranks


def main(batch_size: int = 128, rounds: int = 5, bytes_steps: int = 3) -> None:
    """Measures steps of a batch, of all processes together, and bytes over some steps; writes the result page."""
    # with more processes than cores, times would mean nothing
    timed = {name: start_ranks(name, batch_size) for name, (_, size) in PLACEMENTS.items() if size <= 2}
    times = median_times({name: group.second_step for name, group in timed.items()}, rounds)
    work = median_times({name: partial(group.largest, "CPU") for name, group in timed.items()}, rounds)
    rows: list[tuple[object, ...]] = []
    for name, (split, size) in PLACEMENTS.items():
        sent = bytes_sent(split, size, batch_size, PAPER)
        group = timed.get(name) or start_ranks(name, batch_size)
        measured = count_bytes(group, size, bytes_steps) if size > 1 else 0.0
        group.close()
        cells = ["", "", ""]
        if name in times:
            cells = [f"{batch_size / times[name]:.1f}", *(f"{t[ONE_PROCESS] / t[name]:.2f}" for t in (times, work))]
        parts = ", ".join(f"{kind} {value / 1e6:.1f}" for kind, value in sent.items() if value)
        rows.append((name, *cells, parts, f"{measured / 1e6:.1f}"))
    columns = (
        *("placement", "images/s", "times 1 process", "by CPU time"),
        *("MB sent a step and rank: predicted", "measured"),
    )
    save_result(1, markdown_table(columns, rows))


if __name__ == "__main__":
    tyro.cli(main)
