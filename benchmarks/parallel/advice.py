"""A model of step time against processes and links, checked on this machine, and the placements that it advises.

    python -m benchmarks.parallel.advice

The time that one process needs for an image and for an update is measured with one process; the rate of the loopback
device, with tensors of the sizes that placements send. The model then predicts placements of two processes, which
are also measured. The same model, with the figures of GPUs and their links, advises where nothing could be measured.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
import tyro

from alexnet_torch import PAPER
from alexnet_torch.distributed.exchanges import PeerGroup
from benchmarks.harness.measure import GFLOP_PER_IMAGE, Functions, median_times, time_call
from benchmarks.harness.ranks import ONE_PROCESS, PLACEMENTS, RankGroup, set_rank, start_ranks
from benchmarks.harness.report import markdown_table, save_result
from benchmarks.harness.traffic import bytes_sent, parameter_counts

LINKS = {"NVLink, 300 GB/s": 300e9, "PCIe, 20 GB/s": 20e9, "100 Gb/s, 11 GB/s": 11e9}
"""Bytes a second that a GPU is assumed to send over each kind of link; not measured here."""
LINEAR_FRACTION = 6 * 58_621_952 / (GFLOP_PER_IMAGE * 1e9)
"""The linear stages' part of an image's operations: each weight is multiplied and added three times."""


@dataclass(frozen=True)
class Machine:
    """The speed of one process and of its link."""

    image_time: float  # seconds to compute an image, forward and backward
    parameter_time: float  # seconds to update a parameter
    exchange_rate: float  # bytes a second that each process sends while all do, in exchanges
    sum_rate: float  # the same in sums
    overlaps: bool  # whether gradients are added up while the backward pass through the convolutions still runs


def step_time(split: str, ranks: int, batch: int, machine: Machine) -> float:
    """Returns the seconds of a training step of the paper's net; the batch is of all ranks together."""
    convs, linears = parameter_counts(PAPER, 1000, 224)
    held = {"none": convs + linears, "ranks": (convs + linears) / PAPER.towers, "hybrid": convs + linears / ranks}
    compute = machine.image_time * batch / ranks + machine.parameter_time * held[split]
    sent = bytes_sent(split, ranks, batch, PAPER)
    sums = sent["gradients"] / machine.sum_rate
    if machine.overlaps:  # two thirds of the convolutions' time come after the linear stages' gradients are known
        sums = max(0.0, sums - 2 / 3 * (1 - LINEAR_FRACTION) * machine.image_time * batch / ranks)
    return compute + sent.get("activations", 0.0) / machine.exchange_rate + sums


def link_functions(rank: int, world_size: int, port: int) -> Functions:
    """Connects one of two processes; returns functions that measure the rates of what placements send."""
    torch.set_num_threads(1)
    set_rank(rank, world_size, port)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    assert dist.group.WORLD is not None
    peers = PeerGroup(dist.group.WORLD, timedelta(minutes=1))
    maps, gradients = torch.zeros(2_768_896), torch.zeros(6_250_000)  # as before conv3; a bucket

    def rate(work: Callable[[], object], size: float) -> float:
        return size / min(time_call(work) for _ in range(7))

    return {
        "exchanges": partial(rate, lambda: peers.all_to_all([maps] * 2, [maps.shape] * 2, "a test"), 4 * len(maps)),
        "sums": partial(rate, lambda: dist.all_reduce(gradients), 4 * len(gradients)),
    }


def advise(gpu_teraflops: float, gpu_terabytes: float, batch_each: int) -> str:
    """Returns the table of GPUs, links and the fastest placement."""
    names = {"none": "batch slices", "ranks": "tower ranks and slices", "hybrid": "hybrid"}
    rows: list[tuple[object, ...]] = []
    for count in (2, 8, 64, 1024):
        for link, rate in LINKS.items():
            image_time = GFLOP_PER_IMAGE * 1e9 / (gpu_teraflops * 1e12)
            # the update reads and writes a weight and a velocity, and reads a gradient: 20 bytes
            gpu = Machine(image_time, 20 / (gpu_terabytes * 1e12), rate, rate, overlaps=True)
            times = {split: step_time(split, count, batch_each * count, gpu) for split in names}
            best = min(times, key=lambda split: times[split])
            rows.append((count, link, batch_each * count, *(f"{1e3 * t:.1f} ms" for t in times.values()), names[best]))
    return markdown_table(("GPUs", "link", "images a step", *names.values(), "advice"), rows)


def check(batch_size: int, rounds: int) -> tuple[str, str]:
    """Returns the table of predicted and measured times on this machine, and a sentence with the measured rates."""
    link = RankGroup(link_functions, 2)
    exchanges, sums = (min(link.results(kind)) for kind in ("exchanges", "sums"))
    link.close()
    half = batch_size // 2
    groups = {name: start_ranks(name, batch_size) for name, (_, size) in PLACEMENTS.items() if size <= 2}
    groups["half"] = start_ranks(ONE_PROCESS, half)
    times = median_times({name: group.second_step for name, group in groups.items()}, rounds)
    for group in groups.values():
        group.close()
    image_time = (times[ONE_PROCESS] - times["half"]) / (batch_size - half)
    update_time = max(0.0, times[ONE_PROCESS] - image_time * batch_size)
    parameter_time = update_time / sum(parameter_counts(PAPER, 1000, 224))
    machine = Machine(image_time, parameter_time, exchanges, sums, overlaps=False)
    rows: list[tuple[str, ...]] = []
    for name, (split, size) in PLACEMENTS.items():
        if name in times:
            predicted = step_time(split, size, batch_size, machine)
            rows.append((name, f"{predicted:.2f} s", f"{times[name]:.2f} s", f"{predicted / times[name]:.2f}"))
    measured = (
        f"One process needs {1e3 * image_time:.2f} ms for an image and {1e9 * parameter_time:.2f} ns to update a "
        f"parameter. Each of two processes sends {exchanges / 1e9:.2f} GB/s in exchanges and "
        f"{sums / 1e9:.2f} GB/s in sums of gradients; no core is free to send while it computes."
    )
    return markdown_table(("placement", "predicted", "measured", "predicted / measured"), rows), measured


def main(
    batch_size: int = 128,
    rounds: int = 5,
    gpu_teraflops: float = 40.0,
    gpu_terabytes: float = 2.0,
    batch_each: int = 128,
) -> None:
    """Measures steps of `batch_size` here, and predicts those of GPUs; writes the result page.

    Args:
        gpu_teraflops: Sustained TFLOP/s that a GPU is assumed to reach on this net.
        gpu_terabytes: TB/s that its memory is assumed to move, for the update.
        batch_each: Images in a step for each GPU.
    """
    table, measured = check(batch_size, rounds)
    assumed = (
        f"GPUs are assumed to sustain {gpu_teraflops:g} TFLOP/s and {gpu_terabytes:g} TB/s, and to add up gradients "
        f"during the convolutions' backward pass; {batch_each} images for each GPU and step. Not measured: no GPU was "
        "available."
    )
    save_result(1, "\n\n".join([measured, table, assumed, advise(gpu_teraflops, gpu_terabytes, batch_each)]))


if __name__ == "__main__":
    tyro.cli(main)
