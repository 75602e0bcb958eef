"""One training step alone, on images that are already on the device: of ours, or of a net that people write.

    python -m benchmarks.gpu.step --net ours --devices cuda:0 --precision bf16 --compile

Prints images/s (the median of five rounds) and peak memory. `benchmarks.gpu.page` runs it for each row of a table.
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import tyro
from torch import nn

from alexnet_torch.native import reuse_freed_memory
from benchmarks.gpu.commands import print_measured
from benchmarks.harness.measure import peak_memory_of, time_call
from benchmarks.harness.our_step import our_step
from benchmarks.harness.rival_nets import plain_net, plain_step, torchvision_net

RIVALS: dict[str, Callable[[], nn.Module]] = {
    "torchvision": torchvision_net,
    "plain": plain_net,
    "plain-channels-last": partial(plain_net, channels_last=True),
}


def main(
    net: Literal["ours", "torchvision", "plain", "plain-channels-last"] = "ours",
    devices: str = "cuda:0",
    precision: Literal["fp32", "tf32", "bf16"] = "fp32",
    compile: bool = False,
    batch_size: int = 128,
    steps: int = 30,
) -> None:
    """Measures a net on one device, or ours on two, and prints; bf16 is autocast, `steps` are those of a round."""
    reuse_freed_memory()
    names, amp = devices.split(","), "bf16" if precision == "bf16" else None
    if net == "ours":
        step = our_step(devices=names, precision=precision, compiled=compile, batch=batch_size)
    else:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        rival = RIVALS[net]().to(names[0])
        step = plain_step(torch.compile(rival) if compile else rival, amp)  # type: ignore[arg-type]
    images = torch.randn(batch_size, 3, 224, 224, device=names[0])
    if net != "plain":
        images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(batch_size, device=names[0])

    def run(count: int) -> None:
        for _ in range(count):
            step(images, labels)
        for name in names:
            if name.startswith("cuda"):
                torch.cuda.synchronize(name)

    run(min(10, steps))  # the first steps compile, choose algorithms and allocate
    seconds = statistics.median(time_call(partial(run, steps)) for _ in range(5)) / steps
    print_measured(images_per_second=batch_size / seconds, gib=peak_memory_of(names))


if __name__ == "__main__":
    tyro.cli(main)
