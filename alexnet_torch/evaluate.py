"""Error on a split: every image once, centre crop."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_torch.data.augment import to_float
from alexnet_torch.data.loader import Loader
from alexnet_torch.model import AlexNet


@dataclass(frozen=True)
class Errors:
    """What an evaluation found: mean cross-entropy in nats, errors as fractions."""

    loss: float
    top1_error: float
    top5_error: float


def count_wrong(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """How many images' labels are not among the k most probable classes: a 0-d integer tensor.

    Args:
        logits: (N, classes); with k classes or fewer, nothing can be wrong.
        labels: (N,) int64.
    """
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices  # (N, k)
    return (best != labels[:, None]).all(dim=1).sum()


@torch.no_grad()
def evaluate(net: AlexNet, loader: Loader, mean: Tensor, stopped: Callable[[], bool] = lambda: False) -> Errors | None:
    """Loss and errors of a network over a split, in evaluation mode, with the centre crop.

    Args:
        net: left in the mode that it was in.
        loader: of the split.
        mean: (S, S, 3) float32 mean image, on the network's first device.
        stopped: asked before each batch; when it says True the evaluation is given up.

    Returns:
        the errors, or None when it was given up.
    """
    training = net.training
    net.eval()
    losses, wrong1, wrong5, images = [], 0, 0, 0
    try:
        for batch in loader.epoch(0):
            if stopped():
                return None
            labels = batch.labels.to(mean.device)
            logits = net(to_float(batch.images.to(mean.device), batch.crops, mean))  # (N, classes)
            losses.append(F.cross_entropy(logits, labels, reduction="sum").item())
            wrong1 += int(count_wrong(logits, labels, 1))
            wrong5 += int(count_wrong(logits, labels, 5))
            images += len(labels)
    finally:
        net.train(training)
    return Errors(math.fsum(losses) / images, wrong1 / images, wrong5 / images)
