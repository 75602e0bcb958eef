"""The paper's test of an image: the mean of the network's probabilities over ten crops."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from alexnet_torch.data.augment import subtract_mean
from alexnet_torch.data.loader import Batch
from alexnet_torch.weights.model_file import TrainedModel


def default_num_crops(models: Sequence[TrainedModel]) -> int:
    """Returns the paper's 10, or 5 if a model was trained without mirror images, as on digits."""
    return 10 if all(model.mirror for model in models) else 5


def cut_crops(images: Tensor, size: int, num_crops: int) -> Iterator[Tensor]:
    """Yields each crop of all images, (N, 3, size, size), as in section 4.1 of the paper; the centre crop is first.

    Args:
        images: (N, 3, S, S) full images, after subtraction of the mean image, so that it is cut as they are.
        size: height and width of a crop, in pixels.
        num_crops: 1, the centre; 5, the centre and the four corners; 10, these and their mirror images.
    """
    last = images.shape[-1] - size
    corners = [(0, 0), (0, last), (last, 0), (last, last)] if num_crops > 1 else []
    for top, left in [(last // 2, last // 2), *corners]:
        crop = images[:, :, top : top + size, left : left + size]
        yield crop
        if num_crops == 10:
            yield crop.flip(3)


@torch.no_grad()
def predict_log_probs(model: TrainedModel, batch: Batch, num_crops: int) -> dict[int, Tensor]:
    """Computes each image's log-probabilities from the centre crop and, if `num_crops` > 1, from all crops.

    Args:
        model: its mean image has the side of the batch's images.
        batch: full images, from a loader whose crop size is their side.
        num_crops: 1, 5 or 10.

    Returns:
        by the number of crops, (N, classes) float64 on the CPU: the logarithm of the crops' mean softmax.
    """
    device = model.net.devices[0]
    mean = torch.from_numpy(model.mean).to(device, torch.get_default_dtype())
    images = subtract_mean(batch.images.to(device), batch.crops, mean)  # (N, 3, S, S)
    crops = cut_crops(images, model.net.image_size, num_crops)
    log_probs = [model.net(crop).cpu().double().log_softmax(dim=1) for crop in crops]
    return {1: log_probs[0]} if num_crops == 1 else {1: log_probs[0], num_crops: log_mean_prob(log_probs)}


def log_mean_prob(log_probs: list[Tensor]) -> Tensor:
    """Returns the logarithm of the mean probability: the paper averages probabilities, not logits."""
    return torch.stack(log_probs).logsumexp(dim=0) - math.log(len(log_probs))
