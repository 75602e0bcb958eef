"""One training step alone, on images that are already on the device: of ours, or of a net that people write.

    python -m benchmarks.gpu.step --net ours --devices cuda:0 --precision bf16 --compile

Prints images/s (the median of five rounds) and peak memory. `benchmarks.gpu.page` runs it for each row of a table.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import tyro
from torch import Tensor, nn

from alexnet_torch.native import reuse_freed_memory
from benchmarks.gpu.commands import print_measured
from benchmarks.harness.measure import peak_memory_of, synchronise
from benchmarks.harness.our_step import our_step
from benchmarks.harness.rival_nets import plain_net, plain_step, torchvision_net


@dataclass(frozen=True)
class Options:
    """What to measure."""

    net: Literal["ours", "torchvision", "plain", "plain-channels-last"] = "ours"
    """Ours, torchvision's alexnet, or the plain paper net."""
    devices: str = "cuda:0"
    """One device, or two for ours."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """tf32 rounds the factors of float32 products to 10 bits; bf16 is autocast."""
    compile: bool = False
    """Compile the network with torch.compile."""
    batch_size: int = 128
    """Images of 224 pixels."""
    steps: int = 30
    """Steps of a round."""


def make_step(options: Options) -> Callable[[Tensor, Tensor], None]:
    """Returns the training step."""
    devices, amp = options.devices.split(","), "bf16" if options.precision == "bf16" else None
    if options.net == "ours":
        return our_step(devices=devices, amp=amp, compiled=options.compile)
    rivals: dict[str, Callable[[], nn.Module]] = {
        "torchvision": torchvision_net,
        "plain": plain_net,
        "plain-channels-last": partial(plain_net, channels_last=True),
    }
    net = rivals[options.net]().to(devices[0])
    return plain_step(torch.compile(net) if options.compile else net, amp)  # type: ignore[arg-type]


def main(options: Options) -> None:
    """Measures and prints."""
    reuse_freed_memory()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.precision == "tf32"
    step, device = make_step(options), torch.device(options.devices.split(",")[0])
    images = torch.randn(options.batch_size, 3, 224, 224, device=device)
    if options.net != "plain":
        images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(options.batch_size, device=device)
    names = options.devices.split(",")
    for _ in range(min(10, options.steps)):  # the first steps compile, choose algorithms and allocate
        step(images, labels)
    rounds = []
    for _ in range(5):
        synchronise(names)
        start = time.perf_counter()
        for _ in range(options.steps):
            step(images, labels)
        synchronise(names)
        rounds.append(time.perf_counter() - start)
    seconds = statistics.median(rounds) / options.steps
    print_measured(images_per_second=options.batch_size / seconds, gib=peak_memory_of(names))


if __name__ == "__main__":
    main(tyro.cli(Options))
