"""How many kernels a training step launches on a GPU, by part: ours beside torchvision's alexnet with fused SGD.

    python -m benchmarks.speed.launches

A launch takes the CPU some 5 microseconds, and a GPU computes a step of 128 images in a few milliseconds. Counted
without a GPU, on the pretend device of the tests: an operation of torch that computes or copies is one launch, which
is exact and repeatable. Views and allocations are none. Some of torch's operations launch several kernels, such as the
backward pass of a convolution; ours and torchvision's do so alike.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchvision
from torch.testing._internal.distributed.fake_pg import FakeStore

from alexnet_torch.distributed.exchanges import PeerGroup
from alexnet_torch.distributed.placement import Placement, all_towers, tower_ranks
from alexnet_torch.distributed.ranks import Collectives, Ranks
from alexnet_torch.distributed.world import SINGLE_PROCESS, World
from alexnet_torch.model.exchange import Exchange
from benchmarks.harness.launch_counter import COPIES, LaunchCounter
from benchmarks.harness.our_step import our_trainer
from benchmarks.harness.report import markdown_table, save_result
from tests.support.folders import make_images

ROWS, SIZE = 2, 96  # images in a step, and their side in pixels: they change no count
PARTS = {
    "alexnet_torch.training.optimizers.PaperSGD.step": "update",
    "alexnet_torch.model.alexnet.AlexNet._keys_by_tower": "dropout",
    "torch.optim.SGD.step": "update",
}
KERNELS = {
    "alexnet_torch.model.response_norm._forward": "response normalisation",
    "alexnet_torch.model.response_norm._backward": "response normalisation",
    "alexnet_torch.model.dropout._formula": "dropout",
    "alexnet_torch.data.augment._subtract_per_batch": "pixels to images",
}


class OneOfTwo(Ranks):
    """Rank 0 of two, alone: its collective calls are made, and return at once without the other's numbers."""

    def connect(self, placement: Placement, timeout: float) -> Exchange:
        """As `Ranks.connect`."""
        del timeout
        dist.init_process_group("cpu:fake,pretend:fake", store=FakeStore(), rank=0, world_size=2)
        self.placement, self.collectives = placement, Collectives(placement, None, None)
        assert dist.group.WORLD is not None
        self.peers = PeerGroup(dist.group.WORLD, dist.default_pg_timeout)
        return placement.exchange(self.peers)


def our_counts(
    placement: Placement, ranks: Ranks | None = None, graph: Sequence[tuple[str, str]] = ()
) -> LaunchCounter:
    """Counts our second training step, as train.py runs it: the first one allocates.

    `graph`, if given, are the launches of `train_step`, which is then not counted itself.
    """
    counter = LaunchCounter(PARTS, KERNELS)
    with TemporaryDirectory() as folder:
        data = make_images(Path(folder, "images"), classes=2, train=ROWS, val=1)
        given = {
            "data": str(data),
            "cache": f"{folder}/cache",
            "output": f"{folder}/run",
            "recipe": "paper",
            "colour": "paper",
        }
        trainer = our_trainer({**given, "image_size": SIZE, "batch_size": ROWS}, None, placement, ranks)
        trainer.last_step = 3  # no report after the second step
        trainer.net.train()
        first, second = trainer.train_loader.epoch(0)
        trainer.train_batch(first)
        if graph:
            results = torch.zeros((), device=placement.devices[0]), torch.zeros((), device=placement.devices[0])
            trainer.captured_step = lambda *_: results  # type: ignore[assignment]
            counter.launched += graph
        with counter.counting():
            trainer.train_batch(second)
        trainer.run_log.close()
    return counter


def one_device(device: torch.device) -> LaunchCounter:
    """Counts our step with both towers on one device."""
    return our_counts(all_towers([device] * 2, SINGLE_PROCESS, ""))


def one_device_compiled(device: torch.device) -> LaunchCounter:
    """Counts our step with both towers on one device and `--compile`, as a GPU replays it.

    The pretend device captures nothing: the graph counts as one launch, and the copies of its three inputs as one each.
    """
    graph = [("the step's graph", "replay"), *[("the step's graph", "copy of an input")] * 3]
    return our_counts(all_towers([device] * 2, SINGLE_PROCESS, ""), graph=graph)


def two_devices(device: torch.device) -> LaunchCounter:
    """Counts our step with a tower on each of two devices.

    There is one pretend device: each tower has been on it in one of two steps, beside the other one on the CPU.
    """
    cpu = torch.device("cpu")
    first, second = (our_counts(all_towers(towers, SINGLE_PROCESS, "")) for towers in ([device, cpu], [cpu, device]))
    # the first step has all copies: each is between the same two devices
    first.launched += [launch for launch in second.launched if COPIES not in launch[1]]
    return first


def tower_rank(device: torch.device) -> LaunchCounter:
    """Counts the step of one of two tower ranks."""
    try:
        return our_counts(tower_ranks(device, World(0, 2, 0, 2), 2, ""), OneOfTwo(SINGLE_PROCESS))
    finally:
        dist.destroy_process_group()


def torchvisions(device: torch.device) -> LaunchCounter:
    """Counts the usual step of torchvision's alexnet, from uint8 images as a DataLoader gives them."""
    net = torchvision.models.alexnet().to(device).train()
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, 0.9, weight_decay=5e-4, fused=True)
    pixels, labels = torch.zeros(ROWS, 3, 224, 224), torch.arange(ROWS)

    def step() -> None:
        images, targets = pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        loss = F.cross_entropy(net(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    step()
    counter = LaunchCounter(PARTS, KERNELS)
    with counter.counting():
        step()
    return counter


CONTENDERS: dict[str, Callable[[torch.device], LaunchCounter]] = {
    "ours, one device": one_device,
    "ours, one device, --compile": one_device_compiled,
    "ours, two devices": two_devices,
    "ours, one of two tower ranks": tower_rank,
    "torchvision's alexnet, one device": torchvisions,
}


def totals(names: Sequence[str]) -> dict[str, int]:
    """Returns the launches of a step of each contender."""
    from tests.support.pretend_device import DEVICE  # registers the device in this process

    return {name: len(CONTENDERS[name](DEVICE).launched) for name in names}


def main() -> None:
    """Counts and writes the result page."""
    from tests.support.pretend_device import DEVICE

    columns = {name: count(DEVICE).by_part() for name, count in CONTENDERS.items()}
    parts = dict.fromkeys(part for column in columns.values() for part in column)
    rows = [[part, *(column[part] for column in columns.values())] for part in parts]
    rows.append(["**all**", *(f"**{column.total()}**" for column in columns.values())])
    save_result(1, markdown_table(("part", *columns), rows))


if __name__ == "__main__":
    main()
