"""Inference beside torchvision's alexnet: images/s at batch 64, latency of one image.

    python -m benchmarks.speed.inference

Both in evaluation mode, channels_last, at 224 pixels, without gradients, in one process.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor, nn

from alexnet_torch import AlexNet
from alexnet_torch.malloc import keep_freed
from benchmarks.harness.measure import alternate, keep, seconds, table
from benchmarks.harness.rival_nets import plain, torchvisions


@dataclass(frozen=True)
class Options:
    """How to measure."""

    threads: int = 2
    """Of this process."""
    rounds: int = 15
    """That count."""


def timed(net: nn.Module, images: Tensor, repeats: int) -> Callable[[], float]:
    """Seconds of one forward pass, of a few in a row."""

    @torch.inference_mode()
    def run() -> float:
        return seconds(lambda: [net(images) for _ in range(repeats)]) / repeats

    return run


def main(options: Options) -> None:
    """Measures and prints."""
    keep_freed()
    torch.set_num_threads(options.threads)
    nets = {"ours": AlexNet(seed=0), "torchvision's alexnet": torchvisions(), "plain paper net": plain(True)}
    rows: list[tuple[object, ...]] = []
    for batch_size, repeats in ((64, 1), (1, 5)):
        images = torch.randn(batch_size, 3, 224, 224).to(memory_format=torch.channels_last)
        times = alternate({name: timed(net.eval(), images, repeats) for name, net in nets.items()}, options.rounds)
        for name, time in times.items():
            ratio = times["torchvision's alexnet"] / time
            rows.append((batch_size, name, f"{batch_size / time:.1f}", f"{1e3 * time:.1f} ms", f"{ratio:.2f}x"))
    columns = ("batch", "net", "images/s", "a batch", "speed against torchvision's")
    keep(
        "inference",
        f"python -m benchmarks.speed.inference --threads {options.threads}",
        options.threads,
        table(columns, rows),
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
