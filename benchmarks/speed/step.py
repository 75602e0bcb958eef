"""The training step: ours beside the plain paper net, the same without its norm, and torchvision's alexnet.

    python -m benchmarks.speed.step

Each net lives in a process of its own, as its user would run it, and they take turns. Ours keeps freed
memory (memory.py), as train.py does; the peers are also measured with that, which is not how people run them.
Prints images/s, ratios, peak memory, the share of the machine's best rate, and where our step's time goes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import tyro
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from alexnet_torch.malloc import keep_freed
from benchmarks.harness.measure import GFLOP_AN_IMAGE, Apart, alternate, best_rates, keep, peak_memory, seconds, table

Step = Callable[[Tensor, Tensor], None]
PLAIN, LAST, NORM_FREE = "plain paper net", "plain paper net, channels_last", "plain net without norm, channels_last"
TORCHVISION, OURS, TUNED = "torchvision's alexnet, channels_last", "ours", ", freed memory kept"


@dataclass(frozen=True)
class Options:
    """How to measure."""

    batch_size: int = 128
    """Images a step, of 224 pixels."""
    threads: int = 2
    """Of each process."""
    rounds: int = 7
    """That count."""


def our_step(image_size: int = 224) -> Step:
    """The paper's architecture and update, as train.py runs them."""
    from alexnet_torch import AlexNet, DropoutKey
    from alexnet_torch.recipes.schedules import LearningRates
    from alexnet_torch.training.optimizers import PaperSGD, parameter_groups, set_rates
    from alexnet_torch.training.precision import Precision
    from alexnet_torch.training.trainer import train_step

    net = AlexNet(image_size=image_size, seed=0).train()
    optimizer = PaperSGD(parameter_groups(net, 5e-4, 5e-4))
    set_rates(optimizer, LearningRates(1e-3, 1e-3, {}))
    precision = Precision(None, torch.device("cpu"))

    def step(images: Tensor, labels: Tensor) -> None:
        train_step(net, optimizer, images, labels, DropoutKey(0, 0), precision, len(labels))

    return step


def make(name: str) -> Step:
    """The step of a contender."""
    from benchmarks.harness import rival_nets as peers

    nets = {
        PLAIN: lambda: peers.plain(),
        LAST: lambda: peers.plain(channels_last=True),
        NORM_FREE: lambda: peers.plain(channels_last=True, norm=False),
        TORCHVISION: peers.torchvisions,
    }
    base = name.removesuffix(TUNED)
    return our_step() if base == OURS else peers.plain_step(nets[base]())


def groups(work: Callable[[], object]) -> list[tuple[str, float]]:
    """Where a step's time goes, in shares of the whole, largest first."""
    places = {
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
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    shares: dict[str, float] = {}
    for event in profiled.key_averages():
        place = next((group for part, group in places.items() if part in event.key), "dropout, copies and the rest")
        shares[place] = shares.get(place, 0.0) + event.self_cpu_time_total
    total = sum(shares.values())
    return sorted(((name, time / total) for name, time in shares.items()), key=lambda pair: -pair[1])


def contender(name: str, options: Options) -> dict[str, Callable[[], object]]:
    """A net in a process of its own: what it can be asked for."""
    if name == OURS or name.endswith(TUNED):
        keep_freed()
    torch.set_num_threads(options.threads)
    step = make(name)
    images = torch.randn(options.batch_size, 3, 224, 224)
    if "channels_last" in name or name == OURS:
        images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(options.batch_size)
    run = partial(step, images, labels)
    return {"step": partial(seconds, run), "peak": peak_memory, "groups": partial(groups, run)}


def main(options: Options) -> None:
    """Measures and prints."""
    names = [OURS, PLAIN, LAST, NORM_FREE, TORCHVISION, NORM_FREE + TUNED, TORCHVISION + TUNED]
    nets = {name: Apart(partial(contender, name, options)) for name in names}
    torch.set_num_threads(options.threads)
    rates = [best_rates()]
    times = alternate({name: partial(net.ask, "step") for name, net in nets.items()}, options.rounds)
    rates.append(best_rates())
    peaks = {name: net.ask("peak") for name, net in nets.items()}
    shares = nets[OURS].ask("groups")
    for net in nets.values():
        net.end()
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
    ours = GFLOP_AN_IMAGE * options.batch_size / times[OURS]
    text = [
        table(("net", "images/s", "ours is faster by", "peak memory", "ours takes"), rows),
        f"Ours runs at {ours:.0f} GFLOP/s, {ours / max(best.values()):.0%} of the best rate measured in this run ("
        + ", ".join(f"{kind} {rate:.0f}" for kind, rate in best.items())
        + ").",
        "Where the time of our step goes: " + ", ".join(f"{name} {share:.0%}" for name, share in shares) + ".",
    ]
    command = f"python -m benchmarks.speed.step --batch-size {options.batch_size} --threads {options.threads}"
    keep("step", command, options.threads, "\n\n".join(text))


if __name__ == "__main__":
    main(tyro.cli(Options))
