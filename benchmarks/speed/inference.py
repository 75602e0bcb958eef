"""Inference beside torchvision's alexnet: images/s at batch 64, latency of one image.

    python -m benchmarks.speed.inference

All in evaluation mode, channels_last, at 224 pixels, without gradients, in one process.
"""

from functools import partial

import torch
import tyro
from torch import Tensor, nn

from alexnet_torch import AlexNet
from alexnet_torch.native import reuse_freed_memory
from benchmarks.harness.measure import median_times, time_call
from benchmarks.harness.report import markdown_table, save_result
from benchmarks.harness.rival_nets import plain_net, torchvision_net

TORCHVISION = "torchvision's alexnet"


@torch.inference_mode()
def forward_time(net: nn.Module, images: Tensor, repeats: int) -> float:
    """Returns the seconds of one forward pass, as a mean over repeats."""
    return time_call(lambda: [net(images) for _ in range(repeats)]) / repeats


def main(threads: int = 2, rounds: int = 15) -> None:
    """Measures and writes the result page."""
    reuse_freed_memory()
    torch.set_num_threads(threads)
    ours = AlexNet(seed=0).to(memory_format=torch.channels_last)
    nets = {"ours": ours, TORCHVISION: torchvision_net(), "plain paper net": plain_net(channels_last=True)}
    rows: list[tuple[object, ...]] = []
    for batch_size, repeats in ((64, 1), (1, 5)):
        images = torch.randn(batch_size, 3, 224, 224).to(memory_format=torch.channels_last)
        contenders = {name: partial(forward_time, net.eval(), images, repeats) for name, net in nets.items()}
        times = median_times(contenders, rounds)
        for name, time in times.items():
            ratio = times[TORCHVISION] / time
            rows.append((batch_size, name, f"{batch_size / time:.1f}", f"{1e3 * time:.1f} ms", f"{ratio:.2f}x"))
    save_result(threads, markdown_table(("batch", "net", "images/s", "a batch", "speed against torchvision's"), rows))


if __name__ == "__main__":
    tyro.cli(main)
