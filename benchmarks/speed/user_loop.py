"""A step of a user's own loop, with torch.optim.SGD: AlexNet() beside torchvision's alexnet in the same loop.

    python -m benchmarks.speed.user_loop

Each net is in a process of its own, channels_last, and their steps alternate. Ours is measured without and with
`reuse_freed_memory()`, the line that docs/module.md recommends.
"""

from functools import partial

import torch
import tyro

from benchmarks.harness.measure import Functions, alternate, peak_memory, time_call
from benchmarks.harness.report import markdown_table, save_result
from benchmarks.harness.rival_nets import plain_step, torchvision_net

TUNED, TORCHVISION = "AlexNet(), with reuse_freed_memory()", "torchvision's alexnet"


def step_functions(name: str, batch_size: int, threads: int) -> Functions:
    """Builds a contender in its own process; returns what can be measured there."""
    torch.set_num_threads(threads)
    if name == TORCHVISION:
        net = torchvision_net()
    else:
        from alexnet_torch import AlexNet  # here, so that the rival's process does not load it
        from alexnet_torch.native import reuse_freed_memory

        if name == TUNED:
            reuse_freed_memory()
        net = AlexNet().to(memory_format=torch.channels_last)
    images = torch.randn(batch_size, 3, 224, 224).to(memory_format=torch.channels_last)
    step = partial(plain_step(net), images, torch.arange(batch_size))
    return {"step": partial(time_call, step), "peak": peak_memory}


def main(batch_size: int = 64, threads: int = 2, rounds: int = 9) -> None:
    """Measures steps in processes of this many threads and writes the result page."""
    names = ("AlexNet()", TUNED, TORCHVISION)
    contenders = {name: partial(step_functions, name, batch_size, threads) for name in names}
    times, peaks = alternate(contenders, rounds, "step", "peak")
    rows = [
        (name, f"{batch_size / time:.1f}", f"{times[TORCHVISION] / time:.2f}", f"{peaks[name][0]:.2f} GiB")
        for name, time in times.items()
    ]
    save_result(threads, markdown_table(("net", "images/s", "against torchvision's", "peak memory"), rows))


if __name__ == "__main__":
    tyro.cli(main)
