"""Predictions for image files, from a run's folder and nothing else."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch

from alexnet_torch.data.augment import centre_crops, cut, to_float
from alexnet_torch.data.decode import UnreadableImage, decode
from alexnet_torch.errors import UserError
from alexnet_torch.weights import Model


class Guess(TypedDict):
    """One class and its probability, in [0, 1]."""

    label: str
    probability: float


@torch.no_grad()
def predict(model: Model, files: Sequence[Path], batch_size: int = 64) -> Iterator[tuple[Path, list[Guess]]]:
    """Each file's five most probable classes, best first, by the centre crop.

    Args:
        model: of a run.
        files: images of any kind that training reads.
        batch_size: images decoded and classified together.

    Raises:
        UserError: a file is no image; the message names it.
    """
    device, size, side = model.net.exchange.devices[0], model.net.image_size, model.mean.shape[0]
    mean = torch.from_numpy(model.mean).to(device)
    centre = centre_crops(1, side, size)
    top, left = int(centre.top[0]), int(centre.left[0])
    remaining = iter(files)
    while batch := list(islice(remaining, batch_size)):
        crops = [cut(_decoded(file, side), top, left, size, False) for file in batch]
        images = torch.from_numpy(np.stack(crops)).to(device)  # (N, H, W, 3)
        logits = model.net(to_float(images, centre_crops(len(batch), side, size), mean))  # (N, classes)
        best = logits.softmax(dim=1).topk(min(5, len(model.classes)), dim=1)
        for file, values, indices in zip(batch, best.values.tolist(), best.indices.tolist(), strict=True):
            pairs = zip(indices, values, strict=True)
            yield file, [Guess(label=model.classes[i], probability=p) for i, p in pairs]


def _decoded(file: Path, side: int) -> np.ndarray:
    try:
        return decode(file, side)
    except UnreadableImage as error:
        raise UserError(f"{error}; name image files") from error
