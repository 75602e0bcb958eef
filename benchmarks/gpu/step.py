"""One training step alone, on images that are already on the device: of ours, or of a net that people write.

    python -m benchmarks.gpu.step --net ours --devices cuda:0 --precision bf16 --compile

Prints images/s (the median of five rounds) and peak memory. `benchmarks.gpu.page` runs it for each row of a table.
"""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, get_args

import torch
import tyro
from torch import Tensor, nn

from alexnet_torch.native import reuse_freed_memory
from benchmarks.gpu.commands import print_measured
from benchmarks.harness.measure import peak_memory_of, time_call
from benchmarks.harness.our_step import our_step
from benchmarks.harness.rival_nets import plain_net, plain_step, torchvision_net

Net = Literal["ours", "torchvision", "plain", "plain-channels-last"]
RIVALS: dict[str, Callable[[], nn.Module]] = dict(
    zip(get_args(Net)[1:], (torchvision_net, plain_net, partial(plain_net, channels_last=True)), strict=True)
)


def make_step(net: Net, devices: Sequence[str], amp: str | None, compiled: bool) -> Callable[[Tensor, Tensor], None]:
    """Returns the training step."""
    if net == "ours":
        return our_step(devices=devices, amp=amp, compiled=compiled)
    rival = RIVALS[net]().to(devices[0])
    return plain_step(torch.compile(rival) if compiled else rival, amp)  # type: ignore[arg-type]


def main(
    net: Net = "ours",
    devices: str = "cuda:0",
    precision: Literal["fp32", "tf32", "bf16"] = "fp32",
    compile: bool = False,
    batch_size: int = 128,
    steps: int = 30,
) -> None:
    """Measures and prints.

    Args:
        net: Ours, torchvision's alexnet, or the plain paper net.
        devices: One device, or two for ours.
        precision: tf32 rounds the factors of float32 products to 10 bits; bf16 is autocast.
        compile: Compile the network with torch.compile.
        batch_size: Images of 224 pixels.
        steps: Steps of a round.
    """
    reuse_freed_memory()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    names = devices.split(",")
    step = make_step(net, names, "bf16" if precision == "bf16" else None, compile)
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
