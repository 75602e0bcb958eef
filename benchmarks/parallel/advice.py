"""A model of step time against processes and links, checked on this machine, and the placements that it advises.

    python -m benchmarks.parallel.advice

What one process computes for an image and for an update is measured with one process; what the loopback device carries,
with tensors of the sizes that placements send. The model then predicts placements of two processes, which are
measured beside. The same model, given GPUs and links in place of those, says what to use where none could be tried.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import torch
import tyro

from benchmarks.harness.measure import GFLOP_AN_IMAGE, Apart, alternate, keep, seconds, table
from benchmarks.parallel.placements import CONTENDERS, ONE, free_port, processes
from benchmarks.parallel.traffic import sent, weights

LINKS = {"NVLink, 300 GB/s": 300e9, "PCIe, 20 GB/s": 20e9, "100 Gb/s, 11 GB/s": 11e9}
"""What a GPU is taken to send a second, of what the links are named for: not measured here."""
LINEAR_SHARE = 6 * 58_621_952 / (GFLOP_AN_IMAGE * 1e9)
"""Of an image's operations, those of the linear stages: each weight is multiplied and added three times."""


@dataclass(frozen=True)
class Options:
    """What to predict."""

    batch_size: int = 128
    """Of the step that is measured here."""
    rounds: int = 5
    """That count."""
    gpu_teraflops: float = 40.0
    """That a GPU is taken to sustain on this net."""
    gpu_terabytes: float = 2.0
    """That its memory is taken to move a second, for the update."""
    batch_each: int = 128
    """Images a step for each GPU."""


@dataclass(frozen=True)
class Machine:
    """What a process and its link do.

    Attributes:
        image: seconds to compute one, forward and backward.
        parameter: seconds to update one.
        activations, gradients: bytes a second that a process sends while all do, in exchanges and in sums.
        hidden: whether sums of gradients go on while convolutions are still computed backward.
    """

    image: float
    parameter: float
    activations: float
    gradients: float
    hidden: bool


def step_time(split: str, ranks: int, batch: int, machine: Machine) -> float:
    """Seconds of a step of the paper's net.

    Args:
        split: "none", "ranks" or "hybrid".
        ranks: processes in all.
        batch: images of all of them.
        machine: each of them.
    """
    from alexnet_torch import PAPER

    convs, linears = weights(PAPER, 1000, 224)
    held = {"none": convs + linears, "ranks": (convs + linears) / PAPER.towers, "hybrid": convs + linears / ranks}
    computed = machine.image * batch / ranks + machine.parameter * held[split]
    parts = sent(split, ranks, batch, PAPER)
    sums = parts["gradients"] / machine.gradients
    if machine.hidden:  # two thirds of the convolutions' time come after the linear stages' gradients are known
        sums = max(0.0, sums - 2 / 3 * (1 - LINEAR_SHARE) * machine.image * batch / ranks)
    return computed + parts.get("activations", 0.0) / machine.activations + sums


def link(index: int, port: int) -> dict[str, Callable[[], object]]:
    """One of two processes that send each other what placements do: what it can be asked for."""
    import torch.distributed as dist

    from alexnet_torch.distributed.peer_group import PeerGroup

    torch.set_num_threads(1)
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    dist.init_process_group("gloo", rank=index, world_size=2)
    assert dist.group.WORLD is not None
    peers = PeerGroup(dist.group.WORLD, timedelta(minutes=1))
    maps, gradients = torch.zeros(2_768_896), torch.zeros(6_250_000)

    def swap() -> object:
        return peers.swap([maps] * 2, [maps.shape] * 2, "a test")

    def rate(work: Callable[[], object], size: float) -> float:
        return size / min(seconds(work) for _ in range(7))

    return {
        "activations": partial(rate, swap, 4 * len(maps)),  # as before conv3
        "gradients": partial(rate, lambda: dist.all_reduce(gradients), 4 * len(gradients)),  # a bucket
    }


def rates() -> dict[str, float]:
    """Bytes a second that each of two processes sends here."""
    port = free_port()
    both = [Apart(partial(link, index, port)) for index in range(2)]
    found = {}
    for name in ("activations", "gradients"):
        for one in both:
            one.send(name)
        found[name] = min(float(one.receive()) for one in both)
    for one in both:
        one.end()
    return found


def advise(options: Options) -> str:
    """The table of GPUs."""
    operations = GFLOP_AN_IMAGE * 1e9
    heads = ("GPUs", "link", "images a step", "batch slices", "tower ranks and slices", "hybrid", "advice")
    names = {"none": "batch slices", "ranks": "tower ranks and slices", "hybrid": "hybrid"}
    rows: list[tuple[object, ...]] = []
    for count in (2, 8, 64, 1024):
        for name, speed in LINKS.items():
            # the update reads and writes a weight and a velocity, and reads a gradient
            gpu = Machine(
                operations / options.gpu_teraflops / 1e12, 20 / options.gpu_terabytes / 1e12, speed, speed, True
            )
            batch = options.batch_each * count
            times = {split: step_time(split, count, batch, gpu) for split in names}
            best = min(times, key=lambda split: times[split])
            rows.append((count, name, batch, *(f"{1e3 * t:.1f} ms" for t in times.values()), names[best]))
    return table(heads, rows)


def check(options: Options) -> tuple[str, str]:
    """The table of predictions and measurements here, and the figures that they rest on."""
    from alexnet_torch import PAPER

    link_rates = rates()
    half = options.batch_size // 2
    groups = {name: processes(name, options.batch_size) for name, (_, size) in CONTENDERS.items() if size <= 2}
    groups["half"] = processes(ONE, half)
    times = alternate({name: group.turn for name, group in groups.items()}, options.rounds)
    for group in groups.values():
        group.end()
    image = (times[ONE] - times["half"]) / (options.batch_size - half)
    parameter = max(0.0, times[ONE] - image * options.batch_size) / sum(weights(PAPER, 1000, 224))
    here = Machine(image, parameter, link_rates["activations"], link_rates["gradients"], hidden=False)
    rows: list[tuple[object, ...]] = []
    for name, (split, size) in CONTENDERS.items():
        if name in times:
            predicted = step_time(split, size, options.batch_size, here)
            rows.append((name, f"{predicted:.2f} s", f"{times[name]:.2f} s", f"{predicted / times[name]:.2f}"))
    said = (
        f"One process: {1e3 * image:.2f} ms an image and {1e9 * parameter:.2f} ns to update a weight. Each of two "
        f"sends {link_rates['activations'] / 1e9:.2f} GB/s in exchanges and {link_rates['gradients'] / 1e9:.2f} GB/s "
        "in sums of gradients; no core is idle to do so meanwhile."
    )
    return table(("placement", "predicted", "measured", "predicted / measured"), rows), said


def main(options: Options) -> None:
    """Measures, predicts and prints."""
    checked, said = check(options)
    assumed = (
        f"GPUs are taken to sustain {options.gpu_teraflops:g} TFLOP/s and {options.gpu_terabytes:g} TB/s, and to add "
        f"up gradients while convolutions go backward; {options.batch_each} images a GPU and step. Not measured: no "
        "GPU was at hand."
    )
    text = "\n\n".join([said, checked, assumed, advise(options)])
    keep("advice", f"python -m benchmarks.parallel.advice --batch-size {options.batch_size}", 1, text)


if __name__ == "__main__":
    main(tyro.cli(Options))
