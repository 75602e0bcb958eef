"""What a trained model guesses for each validation image, and the images that it gets most wrong."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from alexnet_torch.data.augment import subtract_mean
from alexnet_torch.data.loader import Loader
from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.evaluation.confusion import Confusion
from alexnet_torch.weights.model_file import TrainedModel

NUM_WORST = 24


@dataclass(frozen=True)
class WrongImage:
    """An image whose most probable class is wrong."""

    path: str  # relative to the data folder
    label: str
    label_probability: float
    guess: str
    guess_probability: float
    pixels: np.ndarray  # (H, W, 3) uint8, what the network sees


@dataclass(frozen=True)
class Guesses:
    """A model's results on the validation images, with the centre crop."""

    classes: tuple[str, ...]  # what people call them
    images: int
    wrong1: int  # images whose most probable class is wrong
    wrong5: int  # images whose five most probable classes are all wrong
    confusion: Confusion
    worst: list[WrongImage]  # the label's probability is lowest; the lowest first


@torch.no_grad()
def guess_validation_images(
    model: TrainedModel,
    prepared: PreparedImages,
    should_stop: Callable[[], bool] = lambda: False,
    batch_size: int = 64,
) -> Guesses | None:
    """Returns a model's guesses for all validation images; None if `should_stop`, called for each batch, says so.

    Reads all images once and holds one batch, the counts of the classes, and the worst images.

    Args:
        model: in evaluation mode.
        prepared: the images, of the model's classes.
    """
    mean = torch.from_numpy(model.mean).to(model.net.devices[0])
    confusion, wrong5 = Confusion.square(len(model.classes)), 0
    worst: list[tuple[float, int, WrongImage]] = []  # a heap: the least bad one first
    for batch in Loader(prepared, "val", model.net.image_size, batch_size).epoch(0):
        if should_stop():
            return None
        logits = model.net(subtract_mean(batch.images.to(mean.device), batch.crops, mean))  # (n, classes)
        probabilities, labels = logits.double().softmax(dim=1).cpu(), batch.labels
        top = probabilities.topk(min(5, len(model.classes)), dim=1)
        confusion.add(labels, top.indices[:, 0])
        wrong5 += int((top.indices != labels[:, None]).all(dim=1).sum())
        of_label = probabilities[torch.arange(len(labels)), labels]
        for row in (top.indices[:, 0] != labels).nonzero().flatten().tolist():
            index, probability = int(batch.indices[row]), float(of_label[row])
            key = -probability, -index  # of equally bad images the earlier one
            if len(worst) == NUM_WORST and key <= worst[0][:2]:
                continue
            image = WrongImage(
                prepared.val.keys[index],
                prepared.names[labels[row]],
                probability,
                prepared.names[top.indices[row, 0]],
                float(top.values[row, 0]),
                batch.images[row].numpy().copy(),
            )
            heapq.heappush(worst, (*key, image))
            if len(worst) > NUM_WORST:
                heapq.heappop(worst)
    images, right = int(confusion.images.sum()), int(np.trace(confusion.counts))
    ordered = [image for *_, image in sorted(worst, key=lambda item: item[:2], reverse=True)]
    return Guesses(prepared.names, images, images - right, wrong5, confusion, ordered)
