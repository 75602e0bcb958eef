"""Our training step and our trainer, as train.py runs them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alexnet_torch import PAPER, AlexNet, DropoutKey
from alexnet_torch.console import StopSignal
from alexnet_torch.data.augment import centre_crops, subtract_mean
from alexnet_torch.distributed.placement import Placement, choose_placement
from alexnet_torch.distributed.ranks import Ranks, wrap_data_parallel
from alexnet_torch.distributed.world import SINGLE_PROCESS, World
from alexnet_torch.native import reuse_freed_memory
from alexnet_torch.recipes.recipe import LearningRates, Recipe
from alexnet_torch.training.launch import launch
from alexnet_torch.training.optimizers import PaperSGD, parameter_groups, set_rates
from alexnet_torch.training.step import CapturedStep, Precision, train_step
from alexnet_torch.training.trainer import Trainer


def our_trainer(
    given: dict[str, Any],
    recipe: Recipe | None = None,
    placement: Placement | None = None,
    ranks: Ranks | None = None,
    stop: StopSignal | None = None,
) -> Trainer:
    """Returns the trainer of a run with these settings, given as train.py's options; by default in this process."""
    ranks, stop = ranks or Ranks(SINGLE_PROCESS), stop or StopSignal()
    return launch(given, ranks, stop, recipe, placement=placement, fit=False)


def _paper_sgd(net: nn.Module) -> PaperSGD:
    optimizer = PaperSGD(parameter_groups(net, 5e-4, 5e-4))
    set_rates(optimizer, LearningRates(1e-3, 1e-3, {}))
    return optimizer


def our_step(
    image_size: int = 224,
    devices: Sequence[str] = ("cpu",),
    precision: str = "fp32",
    compiled: bool = False,
    batch: int = 128,
) -> Callable[[Tensor, Tensor], None]:
    """Returns the step of one process, which takes float images (N, 3, S, S) and labels (N,) on the first device.

    `devices` is one for all towers, or one for each. `compiled` is --compile, for batches of `batch` images.
    """
    net = AlexNet(image_size=image_size, devices=devices, seed=0).train().to(memory_format=torch.channels_last)
    optimizer, formats = _paper_sgd(net), Precision(precision, *net.devices)
    run: Callable[..., object] = partial(train_step, net, optimizer, formats)
    if compiled and len(set(net.devices)) == 1 and net.devices[0].type == "cuda":  # as Trainer does for --compile
        run = CapturedStep(partial(train_step, net, optimizer, formats), optimizer, batch)
    elif compiled:
        net.compile_stages()
    key = DropoutKey(0, 0, 0, net.dropout_keys(0, 0).to(net.devices[0]))

    def step(images: Tensor, labels: Tensor) -> None:
        run(images, labels, key, batch_size=len(labels))

    return step


def our_rank_step(split: str, batch: int) -> Callable[[], Tensor]:
    """Returns this rank's step, from uint8 crops to the update; the batch is of all ranks together."""
    reuse_freed_memory()
    ranks = Ranks(World.from_environment())
    placement = choose_placement(["cpu"], PAPER.towers, split, ranks.world)
    net = AlexNet(seed=0, devices=placement.devices, exchange=ranks.connect(placement, 600)).train()
    parallel_net = wrap_data_parallel(net.to(memory_format=torch.channels_last), ranks)
    optimizer, precision = _paper_sgd(net), Precision("fp32", torch.device("cpu"))
    mean = torch.full((256, 256, 3), 120.0)
    index, count = placement.slices
    rows = np.array_split(np.arange(batch), count)[index]
    pixels = torch.randint(0, 256, (len(rows), 224, 224, 3), dtype=torch.uint8)
    labels = torch.arange(batch) if placement.shards_linear_stages else torch.from_numpy(rows)

    def step() -> Tensor:
        images = subtract_mean(pixels, centre_crops(len(pixels), 256, 224), mean)  # (n, 3, 224, 224)
        key = DropoutKey(0, 0, int(rows[0]))
        loss, _ = train_step(parallel_net, optimizer, precision, images, labels, key, batch)
        return ranks.sum_over_slices(loss)

    return step
