"""Inference beside torchvision's alexnet: images/s at batch 64, latency of one image.

    python -m benchmarks.speed.inference

All in evaluation mode, channels_last, at 224 pixels, without gradients, in one process.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor, nn

from alexnet_torch import AlexNet
from alexnet_torch.native import reuse_freed_memory
from benchmarks.harness.measure import median_times, time_call
from benchmarks.harness.report import markdown_table, save_result
from benchmarks.harness.rival_nets import plain_net, torchvision_net

TORCHVISION = "torchvision's alexnet"


@dataclass(frozen=True)
class Options:
    """How to measure."""

    threads: int = 2
    """Threads of this process."""
    rounds: int = 15
    """Measured rounds."""


def forward_time(net: nn.Module, images: Tensor, repeats: int) -> Callable[[], float]:
    """Returns a function that measures the seconds of one forward pass, as a mean over repeats."""

    @torch.inference_mode()
    def measure() -> float:
        return time_call(lambda: [net(images) for _ in range(repeats)]) / repeats

    return measure


def main(options: Options) -> None:
    """Measures and writes the result page."""
    reuse_freed_memory()
    torch.set_num_threads(options.threads)
    nets = {
        "ours": AlexNet(seed=0).to(memory_format=torch.channels_last),
        TORCHVISION: torchvision_net(),
        "plain paper net": plain_net(channels_last=True),
    }
    rows: list[tuple[object, ...]] = []
    for batch_size, repeats in ((64, 1), (1, 5)):
        images = torch.randn(batch_size, 3, 224, 224).to(memory_format=torch.channels_last)
        contenders = {name: forward_time(net.eval(), images, repeats) for name, net in nets.items()}
        times = median_times(contenders, options.rounds)
        for name, time in times.items():
            ratio = times[TORCHVISION] / time
            rows.append((batch_size, name, f"{batch_size / time:.1f}", f"{1e3 * time:.1f} ms", f"{ratio:.2f}x"))
    columns = ("batch", "net", "images/s", "a batch", "speed against torchvision's")
    command = f"python -m benchmarks.speed.inference --threads {options.threads}"
    save_result("inference", command, options.threads, markdown_table(columns, rows))


if __name__ == "__main__":
    main(tyro.cli(Options))
