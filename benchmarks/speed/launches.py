"""How many kernels a training step launches on a GPU, by part: ours beside torchvision's alexnet with fused SGD.

    python -m benchmarks.speed.launches

A launch takes the CPU some 5 microseconds, and a GPU computes a step of 128 images in a few milliseconds. Counted
without a GPU, on the pretend device of the tests: an operation of torch that computes or copies is one launch, which
is exact and repeatable. Views and allocations are none. Some of torch's operations launch several kernels, such as the
backward pass of a convolution; ours and torchvision's do so alike.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from pkgutil import resolve_name
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchvision
from torch.testing._internal.distributed.fake_pg import FakeStore

from alexnet_torch.distributed.exchanges import PeerGroup
from alexnet_torch.distributed.placement import Placement, all_towers, tower_ranks
from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.distributed.world import SINGLE_PROCESS, World
from alexnet_torch.model.exchange import Exchange
from benchmarks.harness.our_step import our_trainer
from benchmarks.harness.report import markdown_table, save_result
from tests.support.folders import make_images

ROWS, SIZE = 2, 96  # images in a step, and their side in pixels: they change no count
PARTS = {  # functions whose operations all belong to one part of the step
    "alexnet_torch.training.optimizers.PaperSGD.step": "update",
    "alexnet_torch.model.alexnet.AlexNet._keys_by_tower": "dropout",
    "torch.optim.SGD.step": "update",
}
KERNELS = {  # functions that are one kernel on a GPU and formulas elsewhere
    "alexnet_torch.model.response_norm._forward": "response normalisation",
    "alexnet_torch.model.response_norm._backward": "response normalisation",
    "alexnet_torch.model.dropout._formula": "dropout",
    "alexnet_torch.data.augment._subtract_per_batch": "pixels to images",
}
FREE = {  # operations that launch nothing: they make another view of memory, or reserve some
    *("alias", "as_strided", "detach", "diagonal", "expand", "permute", "select", "slice", "split", "split_with_sizes"),
    *("squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "_unsafe_view", "_reshape_alias", "lift_fresh"),
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "narrow", "unfold", "resize_"),
}
POOL = ("max_pool2d_with_indices", "_adaptive_avg_pool2d")
PART_OF = {
    **dict.fromkeys(("convolution", "convolution_backward", "addmm", "mm", "sum", "constant_pad_nd"), "layers"),
    **dict.fromkeys(("relu", "relu_", "threshold_backward"), "ReLU and pooling"),
    **dict.fromkeys((*POOL, *(f"{name}_backward" for name in POOL)), "ReLU and pooling"),
    **dict.fromkeys(("cat", "add", "send", "recv_"), "exchange between towers"),
    **dict.fromkeys(("native_dropout", "native_dropout_backward"), "dropout"),
}
COPIES = "to another device"


class LaunchCounter:
    """Counts operations of the pretend device by part of the step, while `counting`.

    `launched` has the part and the operation of each launch: all threads append to it, which a Counter does not allow.
    """

    def __init__(self) -> None:
        self._within = threading.local()  # the backward pass has a thread a device
        self.launched: list[tuple[str, str]] = []

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts what is launched inside."""
        from tests.support.pretend_device import Pretend

        dispatch = Pretend.__torch_dispatch__

        def counted(cls: type, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            del cls
            self._count(func, args, kwargs or {})
            return dispatch(func, types, args, kwargs)

        with ExitStack() as patches:
            patches.enter_context(patch.object(Pretend, "__torch_dispatch__", classmethod(counted)))
            for name, part in (PARTS | KERNELS).items():
                patches.enter_context(patch(name, self._as_part(resolve_name(name), part, name in KERNELS)))
            yield

    def _as_part(self, function: Callable[..., Any], part: str, is_kernel: bool) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            if is_kernel:
                self.launched.append((part, function.__name__))
            outer = getattr(self._within, "parts", ())
            self._within.parts = (*outer, "" if is_kernel else part)
            try:
                return function(*args, **kwargs)
            finally:
                self._within.parts = outer

        return called

    def _count(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        # the parts that this thread computes, outermost first; "" is a kernel
        name, within = func.overloadpacket.__name__, getattr(self._within, "parts", ())
        if "" in within or func.is_view or name in FREE:
            return
        part = PART_OF.get(name, "loss, errors and the rest")
        if name in ("_to_copy", "copy_"):  # moves a tensor to another device, or changes its type or layout
            target = args[0].device if name == "copy_" else torch.device(kwargs.get("device") or args[0].device)
            if (args[1] if name == "copy_" else args[0]).device != target:
                name, part = f"{name} {COPIES}", "copies between devices"
        self.launched.append((within[0] if within else part, name))


class OneOfTwo(Ranks):
    """Rank 0 of two, alone: its collective calls are made, and return at once without the other's numbers."""

    def connect(self, placement: Placement, timeout: float) -> Exchange:
        """As `Ranks.connect`."""
        del timeout
        dist.init_process_group("cpu:fake,pretend:fake", store=FakeStore(), rank=0, world_size=2)
        self.placement = placement
        assert dist.group.WORLD is not None
        self.peers = PeerGroup(dist.group.WORLD, dist.default_pg_timeout)
        return placement.exchange(self.peers)


def our_counts(placement: Placement, ranks: Ranks | None = None, compiled: bool = False) -> LaunchCounter:
    """Counts our second training step, as train.py runs it: the first one allocates.

    The pretend device captures nothing: with `compiled`, the graph counts as one launch that a GPU replays, and the
    copies of its three inputs as one each, in place of `train_step`.
    """
    counter = LaunchCounter()
    with TemporaryDirectory() as folder:
        data = make_images(Path(folder, "images"), classes=2, train=ROWS, val=1)
        given: dict[str, object] = {"data": str(data), "cache": f"{folder}/cache", "output": f"{folder}/run"}
        given |= {"recipe": "paper", "colour": "paper", "image_size": SIZE, "batch_size": ROWS}
        trainer = our_trainer(given, None, placement, ranks)
        trainer.last_step = 3  # no report after the second step
        trainer.net.train()
        first, second = trainer.train_loader.epoch(0)
        trainer.train_batch(first)
        if compiled:
            results = torch.zeros((), device=placement.devices[0]), torch.zeros((), device=placement.devices[0])
            trainer.step = lambda *_: results
            counter.launched += [("the step's graph", "replay"), *[("the step's graph", "copy of an input")] * 3]
        with counter.counting():
            trainer.train_batch(second)
        trainer.run_log.close()
    return counter


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
    counter = LaunchCounter()
    with counter.counting():
        step()
    return counter


CONTENDERS: dict[str, Callable[[torch.device], LaunchCounter]] = {
    "ours, one device": lambda device: our_counts(all_towers([device] * 2, SINGLE_PROCESS, "")),
    "ours, one device, --compile": lambda device: our_counts(all_towers([device] * 2, SINGLE_PROCESS, ""), None, True),
    "ours, two devices": two_devices,
    "ours, one of two tower ranks": tower_rank,
    "torchvision's alexnet, one device": torchvisions,
}


def launches_by_part(names: Sequence[str]) -> dict[str, Counter[str]]:
    """Returns the launches of a step of each contender."""
    from tests.support.pretend_device import DEVICE  # registers the device in this process

    return {name: Counter(part for part, _ in CONTENDERS[name](DEVICE).launched) for name in names}


def main() -> None:
    """Counts and writes the result page."""
    columns = launches_by_part(tuple(CONTENDERS))
    parts = dict.fromkeys(part for column in columns.values() for part in column)
    rows = [[part, *(column[part] for column in columns.values())] for part in parts]
    rows.append(["**all**", *(f"**{column.total()}**" for column in columns.values())])
    save_result(1, markdown_table(("part", *columns), rows))


if __name__ == "__main__":
    main()
