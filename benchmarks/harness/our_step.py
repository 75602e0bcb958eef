"""Our training step, as train.py runs it: the paper's architecture and update."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from alexnet_torch import PAPER, AlexNet, DropoutKey
from alexnet_torch.data.augment import centre_crops, subtract_mean
from alexnet_torch.distributed.choose_placement import choose_placement
from alexnet_torch.distributed.data_parallel import wrap_data_parallel
from alexnet_torch.distributed.placement import Placement
from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.distributed.world import World
from alexnet_torch.native import reuse_freed_memory
from alexnet_torch.recipes.recipe import LearningRates
from alexnet_torch.training.optimizers import PaperSGD, parameter_groups, set_rates
from alexnet_torch.training.step import Precision, train_step

FULL_PRECISION = Precision(None, torch.device("cpu"))


def _paper_sgd(net: nn.Module) -> PaperSGD:
    optimizer = PaperSGD(parameter_groups(net, 5e-4, 5e-4))
    set_rates(optimizer, LearningRates(1e-3, 1e-3, {}))
    return optimizer


def our_step(
    image_size: int = 224, devices: Sequence[str] = ("cpu",), amp: str | None = None, compiled: bool = False
) -> Callable[[Tensor, Tensor], None]:
    """Returns the step of one process, which takes float images (N, 3, S, S) and labels (N,) on the first device.

    Args:
        image_size: height and width of the images, in pixels.
        devices: one for all towers, or one for each.
        amp, compiled: as the options --amp and --compile.
    """
    net = AlexNet(image_size=image_size, devices=devices, seed=0).train().to(memory_format=torch.channels_last)
    if compiled:
        net.compile_stages()
    optimizer, precision = _paper_sgd(net), Precision(amp, *net.devices)

    def step(images: Tensor, labels: Tensor) -> None:
        train_step(net, optimizer, images, labels, DropoutKey(0, 0), precision, len(labels))

    return step


def our_rank_step(split: str, batch: int) -> tuple[Callable[[], Tensor], Ranks]:
    """Returns this rank's step, from uint8 crops to the update, and the run's ranks.

    Args:
        split: as the option --split.
        batch: images in a step, of all ranks together.
    """
    reuse_freed_memory()
    ranks = Ranks(World.from_environment())
    placement = choose_placement(["cpu"], PAPER.towers, split, ranks.world)
    net = AlexNet(seed=0, devices=placement.devices, exchange=ranks.connect(placement, 600)).train()
    net.to(memory_format=torch.channels_last)
    parallel_net = wrap_data_parallel(net, ranks)
    optimizer, mean = _paper_sgd(net), torch.full((256, 256, 3), 120.0)
    rows, pixels, labels = _own_batch(placement, batch)

    def step() -> Tensor:
        images = subtract_mean(pixels, centre_crops(len(pixels), 256, 224), mean)  # (n, 3, 224, 224)
        key = DropoutKey(0, 0, int(rows[0]))
        loss, _ = train_step(parallel_net, optimizer, images, labels, key, FULL_PRECISION, batch)
        return ranks.collectives.sum_over_slices(loss)

    return step, ranks


def _own_batch(placement: Placement, batch: int) -> tuple[np.ndarray, Tensor, Tensor]:
    """Returns this rank's rows (n,), random uint8 crops (n, 224, 224, 3), and the labels that it scores."""
    index, count = placement.slices
    rows = np.array_split(np.arange(batch), count)[index]
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch, 224, 224, 3), dtype=torch.uint8, generator=random)[rows]
    labels = torch.arange(batch)
    return rows, pixels, labels if placement.scores_all_rows else labels[rows]
