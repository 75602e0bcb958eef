"""Predictions for images, from a run's folder and nothing else."""

from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image

from alexnet_torch.data.augment import centre_slice
from alexnet_torch.data.decode import UnreadableImage, decode_file, decode_image
from alexnet_torch.data.loader import decode_ahead
from alexnet_torch.data.sources.listing import find_images
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.scoring import log_probabilities, require_finite
from alexnet_torch.weights.model_file import TrainedModel

Picture = str | PathLike[str] | Image.Image | np.ndarray
"""An image file, a folder of them, a Pillow image, or its pixels, (H, W, 3) or (H, W) uint8."""


class Prediction(TypedDict):
    """One class and its probability, in [0, 1]."""

    label: str  # what people call it
    identity: str  # its WordNet ID; else its name
    probability: float


@torch.no_grad()
def predict(
    model: TrainedModel, images: Picture | Iterable[Picture], batch_size: int = 64
) -> Iterator[tuple[Any, list[Prediction]]]:
    """Yields each image with its five most probable classes, best first, computed from the centre crop.

    Args:
        model: of a run.
        images: one or several: files in any format that training reads, folders of files, Pillow images or arrays.
        batch_size: images that the network reads together.

    Yields:
        each image as it was given, those of a folder as Paths, in order; and its predictions.

    Raises:
        UserError: a file is not an image, or the network's outputs for it are not finite; the message names it.
    """
    given: list[Picture] = []
    for image in [images] if isinstance(images, str | PathLike | Image.Image | np.ndarray) else images:
        folder = Path(image) if isinstance(image, str | PathLike) else None
        given += [folder / name for name in find_images(folder)] if folder and folder.is_dir() else [image]
    labels, first = model.labels, 0
    for crops in _decoded(given, len(model.mean), model.net.image_size, batch_size):
        batch, first = given[first : first + len(crops)], first + len(crops)
        log_probs = log_probabilities(model, torch.from_numpy(crops))[1]  # (n, classes)
        require_finite(log_probs, [each if isinstance(each, str | PathLike) else "an image" for each in batch])
        top = log_probs.exp().topk(min(5, len(labels)), dim=1)
        for image, values, indices in zip(batch, top.values.tolist(), top.indices.tolist(), strict=True):
            pairs = zip(indices, values, strict=True)
            yield image, [Prediction(label=labels[i], identity=model.classes[i], probability=p) for i, p in pairs]


def centre_crop(image: Picture, side: int, size: int) -> np.ndarray:
    centre = centre_slice(side, size)
    try:
        if isinstance(image, str | PathLike):
            return decode_file(Path(image), side)[centre, centre]
        return decode_image(Image.fromarray(image) if isinstance(image, np.ndarray) else image, side)[centre, centre]
    except UnreadableImage as error:
        raise UserError(f"{error}; name image files") from error


def _decoded(images: Sequence[Picture], side: int, size: int, batch_size: int) -> Iterator[np.ndarray]:
    """Yields centre crops (n, size, size, 3) uint8."""
    files = [Path(image) for image in images if isinstance(image, str | PathLike)]
    if len(files) < len(images):
        for first in range(0, len(images), batch_size):
            yield np.stack([centre_crop(image, side, size) for image in images[first : first + batch_size]])
        return
    for batch in decode_ahead(files, [(side, size)], batch_size):
        if batch.bad:
            raise UserError(f"{batch.bad[0][1]}; name image files")
        yield batch.crops[0]
