"""The training step: ours beside the plain paper net, the same without its norm, and torchvision's alexnet.

    python -m benchmarks.speed.step

Each net is in a process of its own, as its user would run it, and their steps alternate. Ours keeps freed
memory (malloc.py), as train.py does; rival nets are also measured with that, which is not how people run them.
Prints images/s, ratios, peak memory, the fraction of the machine's best rate, and where our step's time goes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import tyro
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from alexnet_torch.native import reuse_freed_memory
from benchmarks.harness.measure import GFLOP_PER_IMAGE, best_rates, median_times, peak_memory, time_call
from benchmarks.harness.processes import Worker
from benchmarks.harness.report import markdown_table, save_result
from benchmarks.harness.rival_nets import plain_net, plain_step, torchvision_net

PLAIN, LAST, NORM_FREE = "plain paper net", "plain paper net, channels_last", "plain net without norm, channels_last"
TORCHVISION, OURS, TUNED = "torchvision's alexnet, channels_last", "ours", ", freed memory kept"
OTHER_KERNELS = "dropout, copies and the rest"
KERNEL_KINDS = {  # by a part of the profiler's name; the first that matches counts
    "convolution": "convolutions",
    "alexnet_torch::": "response normalisation",
    "_ResponseNorm": "response normalisation",
    "addmm": "fully connected products",
    "aten::mm": "fully connected products",
    "linear": "fully connected products",
    "_Linear": "fully connected products",
    "max_pool": "pooling",
    "relu": "ReLU",
    "threshold": "ReLU",
    "clamp_min": "ReLU",
    "sgd": "update",
    "zero_grad": "update",
    "fill_": "zeroing gradients of pooled maps",
    "zero_": "zeroing gradients of pooled maps",
}


@dataclass(frozen=True)
class Options:
    """How to measure."""

    batch_size: int = 128
    """Images of 224 pixels in a step."""
    threads: int = 2
    """Threads of each process."""
    rounds: int = 7
    """Measured rounds."""


def make_step(name: str) -> Callable[[Tensor, Tensor], None]:
    """Returns the training step of a contender."""
    if name == OURS:
        from benchmarks.harness.our_step import our_step  # here, so that rivals' processes do not load it

        return our_step()
    rivals: dict[str, Callable[[], nn.Module]] = {
        PLAIN: plain_net,
        LAST: partial(plain_net, channels_last=True),
        NORM_FREE: partial(plain_net, channels_last=True, norm=False),
        TORCHVISION: torchvision_net,
    }
    return plain_step(rivals[name.removesuffix(TUNED)]())


def time_by_kind(work: Callable[[], object]) -> list[tuple[str, float]]:
    """Profiles one call; returns the fraction of its time that each kind of kernel takes, largest first."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    times: dict[str, float] = {}
    for event in profiled.key_averages():
        kind = next((kind for part, kind in KERNEL_KINDS.items() if part in event.key), OTHER_KERNELS)
        times[kind] = times.get(kind, 0.0) + event.self_cpu_time_total
    total = sum(times.values())
    return sorted(((kind, time / total) for kind, time in times.items()), key=lambda pair: -pair[1])


def step_functions(name: str, options: Options) -> dict[str, Callable[[], object]]:
    """Builds a contender in its own process; returns what can be measured there."""
    if name == OURS or name.endswith(TUNED):
        reuse_freed_memory()
    torch.set_num_threads(options.threads)
    step = make_step(name)
    images = torch.randn(options.batch_size, 3, 224, 224)
    if "channels_last" in name or name == OURS:
        images = images.to(memory_format=torch.channels_last)
    run = partial(step, images, torch.arange(options.batch_size))
    return {"step": partial(time_call, run), "peak": peak_memory, "kinds": partial(time_by_kind, run)}


def main(options: Options) -> None:
    """Measures and writes the result page."""
    names = [OURS, PLAIN, LAST, NORM_FREE, TORCHVISION, NORM_FREE + TUNED, TORCHVISION + TUNED]
    workers = {name: Worker(partial(step_functions, name, options)) for name in names}
    torch.set_num_threads(options.threads)
    rates = [best_rates()]
    times = median_times({name: partial(worker.call, "step") for name, worker in workers.items()}, options.rounds)
    rates.append(best_rates())
    peaks = {name: worker.call("peak") for name, worker in workers.items()}
    kinds = workers[OURS].call("kinds")
    for worker in workers.values():
        worker.close()
    rows: list[tuple[object, ...]] = [
        (
            name,
            f"{options.batch_size / times[name]:.1f}",
            f"{times[name] / times[OURS]:.2f}",
            f"{peaks[name]:.2f} GiB",
            f"{peaks[OURS] / peaks[name]:.2f}",
        )
        for name in names
    ]
    best = {kind: max(rate[kind] for rate in rates) for kind in rates[0]}
    ours = GFLOP_PER_IMAGE * options.batch_size / times[OURS]
    text = [
        markdown_table(("net", "images/s", "ours is faster by", "peak memory", "ours takes"), rows),
        f"Ours runs at {ours:.0f} GFLOP/s, {ours / max(best.values()):.0%} of the best rate measured in this run ("
        + ", ".join(f"{kind} {rate:.0f}" for kind, rate in best.items())
        + ").",
        "Where the time of our step goes: " + ", ".join(f"{kind} {part:.0%}" for kind, part in kinds) + ".",
    ]
    command = f"python -m benchmarks.speed.step --batch-size {options.batch_size} --threads {options.threads}"
    save_result("step", command, options.threads, "\n\n".join(text))


if __name__ == "__main__":
    main(tyro.cli(Options))
