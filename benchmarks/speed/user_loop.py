"""A step of a user's own loop, with torch.optim.SGD: AlexNet() beside torchvision's alexnet in the same loop.

    python -m benchmarks.speed.user_loop

Each net is in a process of its own, channels_last, and their steps alternate. Ours is measured without and with
`reuse_freed_memory()`, the line that docs/module.md recommends.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import tyro

from benchmarks.harness.measure import median_times, peak_memory, time_call
from benchmarks.harness.processes import Worker
from benchmarks.harness.report import markdown_table, save_result
from benchmarks.harness.rival_nets import plain_step, torchvision_net

OURS, TUNED, TORCHVISION = "AlexNet()", "AlexNet(), with reuse_freed_memory()", "torchvision's alexnet"


@dataclass(frozen=True)
class Options:
    """How to measure."""

    batch_size: int = 64
    """Images of 224 pixels in a step."""
    threads: int = 2
    """Threads of each process."""
    rounds: int = 9
    """Measured rounds."""


def step_functions(name: str, options: Options) -> dict[str, Callable[[], object]]:
    """Builds a contender in its own process; returns what can be measured there."""
    torch.set_num_threads(options.threads)
    if name == TORCHVISION:
        net = torchvision_net()
    else:
        from alexnet_torch import AlexNet  # here, so that the rival's process does not load it
        from alexnet_torch.native import reuse_freed_memory

        if name == TUNED:
            reuse_freed_memory()
        net = AlexNet().to(memory_format=torch.channels_last)
    images = torch.randn(options.batch_size, 3, 224, 224).to(memory_format=torch.channels_last)
    step = partial(plain_step(net), images, torch.arange(options.batch_size))
    return {"step": partial(time_call, step), "peak": peak_memory}


def main(options: Options) -> None:
    """Measures and writes the result page."""
    workers = {name: Worker(partial(step_functions, name, options)) for name in (OURS, TUNED, TORCHVISION)}
    times = median_times({name: partial(worker.call, "step") for name, worker in workers.items()}, options.rounds)
    rows = [
        (
            name,
            f"{options.batch_size / times[name]:.1f}",
            f"{times[TORCHVISION] / times[name]:.2f}",
            f"{worker.call('peak'):.2f} GiB",
        )
        for name, worker in workers.items()
    ]
    for worker in workers.values():
        worker.close()
    columns = ("net", "images/s", "against torchvision's", "peak memory")
    command = f"python -m benchmarks.speed.user_loop --batch-size {options.batch_size} --threads {options.threads}"
    save_result("user_loop", command, options.threads, markdown_table(columns, rows))


if __name__ == "__main__":
    main(tyro.cli(Options))
