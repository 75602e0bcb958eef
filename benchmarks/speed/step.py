"""The training step: ours beside the plain paper net, the same without its norm, and torchvision's alexnet.

    python -m benchmarks.speed.step

Each net is in a process of its own, as its user would run it, and their steps alternate. Ours keeps freed memory, as
train.py does; rival nets are also measured with that, which is not how people run them.
Prints images/s, ratios, peak memory, the fraction of the machine's best rate, and where our step's time goes.
"""

from collections.abc import Callable
from functools import partial

import torch
import tyro
from torch import nn
from torch.profiler import ProfilerActivity, profile

from alexnet_torch.native import reuse_freed_memory
from benchmarks.harness.measure import GFLOP_PER_IMAGE, Functions, alternate, peak_memory, time_call
from benchmarks.harness.report import markdown_table, save_result
from benchmarks.harness.rival_nets import plain_net, plain_step, torchvision_net

OURS, TUNED = "ours", ", freed memory kept"
NORM_FREE, TORCHVISION = "plain net without norm, channels_last", "torchvision's alexnet, channels_last"
RIVALS: dict[str, Callable[[], nn.Module]] = {
    "plain paper net": plain_net,
    "plain paper net, channels_last": partial(plain_net, channels_last=True),
    NORM_FREE: partial(plain_net, channels_last=True, norm=False),
    TORCHVISION: torchvision_net,
}
KERNEL_KINDS = {  # by a part of the profiler's name; the first that matches counts
    "convolution": "convolutions",
    **dict.fromkeys(("alexnet_torch::", "_ResponseNorm"), "response normalisation"),
    **dict.fromkeys(("addmm", "aten::mm", "linear", "_Linear"), "fully connected products"),
    "max_pool": "pooling",
    **dict.fromkeys(("relu", "threshold", "clamp_min"), "ReLU"),
    **dict.fromkeys(("sgd", "zero_grad"), "update"),
    **dict.fromkeys(("fill_", "zero_"), "zeroing gradients of pooled maps"),
    "": "dropout, copies and the rest",
}


def time_by_kind(work: Callable[[], object]) -> list[tuple[str, float]]:
    """Profiles one call; returns the fraction of its time that each kind of kernel takes, largest first."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    times: dict[str, float] = {}
    for event in profiled.key_averages():
        kind = next(kind for part, kind in KERNEL_KINDS.items() if part in event.key)
        times[kind] = times.get(kind, 0.0) + event.self_cpu_time_total
    total = sum(times.values())
    return sorted(((kind, time / total) for kind, time in times.items()), key=lambda pair: -pair[1])


def step_functions(name: str, batch_size: int, threads: int) -> Functions:
    """Builds a contender in its own process; returns what can be measured there."""
    if name == OURS or name.endswith(TUNED):
        reuse_freed_memory()
    torch.set_num_threads(threads)
    if name == OURS:
        from benchmarks.harness.our_step import our_step  # here, so that rivals' processes do not load it

        step = our_step()
    else:
        step = plain_step(RIVALS[name.removesuffix(TUNED)]())
    images = torch.randn(batch_size, 3, 224, 224)
    if "channels_last" in name or name == OURS:
        images = images.to(memory_format=torch.channels_last)
    run = partial(step, images, torch.arange(batch_size))
    kinds = partial(time_by_kind, run) if name == OURS else list
    return {"step": partial(time_call, run), "peak": peak_memory, "kinds": kinds}


def best_rates() -> dict[str, float]:
    """Returns the best GFLOP/s of a matrix product and of a convolution: the machine's limit for a net."""
    matrix, weight = torch.randn(2048, 2048), torch.randn(192, 256, 3, 3).to(memory_format=torch.channels_last)
    maps = torch.randn(128, 256, 13, 13).to(memory_format=torch.channels_last)  # (N, C, H, W)
    product = torch.empty_like(matrix)
    work: dict[str, tuple[Callable[[], object], float]] = {
        "matrix product": (lambda: torch.mm(matrix, matrix, out=product), 2 * 2048**3),
        "convolution": (lambda: torch.conv2d(maps, weight, padding=1), 2 * 128 * 192 * 13 * 13 * 256 * 9),
    }
    return {kind: flops / min(time_call(call) for _ in range(7)) / 1e9 for kind, (call, flops) in work.items()}


def main(batch_size: int = 128, threads: int = 2, rounds: int = 7) -> None:
    """Measures steps in processes of this many threads and writes the result page."""
    names = [OURS, *RIVALS, NORM_FREE + TUNED, TORCHVISION + TUNED]
    torch.set_num_threads(threads)
    before = best_rates()
    contenders = {name: partial(step_functions, name, batch_size, threads) for name in names}
    times, results = alternate(contenders, rounds, "step", "peak", "kinds")
    best = {kind: max(before[kind], rate) for kind, rate in best_rates().items()}
    peaks = {name: peak for name, (peak, _) in results.items()}
    rows = []
    for name in names:
        speed = f"{batch_size / times[name]:.1f}", f"{times[name] / times[OURS]:.2f}"
        rows.append((name, *speed, f"{peaks[name]:.2f} GiB", f"{peaks[OURS] / peaks[name]:.2f}"))
    ours = GFLOP_PER_IMAGE * batch_size / times[OURS]
    rates = ", ".join(f"{kind} {rate:.0f}" for kind, rate in best.items())
    kinds = ", ".join(f"{kind} {part:.0%}" for kind, part in results[OURS][1])
    text = [
        markdown_table(("net", "images/s", "ours is faster by", "peak memory", "ours takes"), rows),
        f"Ours runs at {ours:.0f} GFLOP/s, {ours / max(best.values()):.0%} of the best rate measured in this run "
        f"({rates}).",
        f"Where the time of our step goes: {kinds}.",
    ]
    save_result(threads, "\n\n".join(text))


if __name__ == "__main__":
    tyro.cli(main)
