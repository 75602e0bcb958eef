"""The paper's Figure 4: images with their five best labels, and their nearest training images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from alexnet_torch.data.decode import UnreadableImage, decode_file
from alexnet_torch.data.decode_stream import decode_centre_crops
from alexnet_torch.data.loader import Loader
from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.features import stage_output
from alexnet_torch.evaluation.figures.nearest import Neighbours, nearest
from alexnet_torch.evaluation.predict import Prediction, predict
from alexnet_torch.randomness import stream
from alexnet_torch.weights.model_file import TrainedModel

EXAMPLES = 8  # as in the paper
NEIGHBOURS = 6
SHOWN_SIDE, SHOWN_SIZE = 256, 224  # pixels to decode an image to and to show, whatever the network reads


@dataclass(frozen=True)
class Example:
    """An image and what the network makes of it.

    Attributes:
        file: of the image.
        label: its class; None if it is not known.
        guesses: the most probable classes, best first.
        picture: (H, W, 3) uint8, the part that the network sees.
    """

    file: Path
    label: str | None
    guesses: list[Prediction]
    picture: np.ndarray


@dataclass(frozen=True)
class Neighbour:
    """A training image near an example.

    Attributes:
        file: of the image.
        label: its class.
        distance: Euclidean, in the stage's features.
        picture: (H, W, 3) uint8, the part that the network sees.
    """

    file: Path
    label: str
    distance: float
    picture: np.ndarray


def choose(prepared: PreparedImages, count: int, seed: int) -> list[Path]:
    """Validation images, drawn at random: of as many classes as there are, one of each before any's second.

    Args:
        prepared: the images.
        count: how many; fewer if there are not as many.
        seed: of the drawing.
    """
    labels = prepared.val.labels
    order = stream(seed, "examples").permutation(len(labels))
    turn = np.zeros(len(labels), np.int64)  # how many of its class are drawn before
    for label in range(len(prepared.classes)):
        of_class = order[labels[order] == label]
        turn[of_class] = np.arange(len(of_class))
    chosen = order[np.argsort(turn[order], kind="stable")][:count]
    return [prepared.root / prepared.val.paths[index] for index in chosen]


def classified(model: TrainedModel, files: Sequence[Path]) -> list[Example]:
    """Each file's five best labels; its right one is the name of the folder that it lies in, if that is a class.

    Raises:
        UserError: a file is no image.
    """
    return [
        Example(file, file.parent.name if file.parent.name in model.classes else None, guesses, picture(file))
        for file, guesses in predict(model, files)
    ]


def picture(file: Path) -> np.ndarray:
    """What the network sees of a file, in pixels enough to look at: (224, 224, 3) uint8.

    Raises:
        UserError: it is no image.
    """
    edge = (SHOWN_SIDE - SHOWN_SIZE) // 2
    try:
        return decode_file(file, SHOWN_SIDE)[edge : edge + SHOWN_SIZE, edge : edge + SHOWN_SIZE]
    except UnreadableImage as error:
        raise UserError(f"{error}; name image files") from error


def feature_stage(model: TrainedModel) -> str:
    """The last stage before the logits: fc7, in the paper's net."""
    return model.net.architecture.stage_names[-2]


def nearest_training_images(
    model: TrainedModel, prepared: PreparedImages, files: Sequence[Path], batch_size: int = 64
) -> list[list[Neighbour]]:
    """The training images whose features are nearest to those of each file, nearest first.

    All training images are read once, a batch at a time, and their features forgotten again: memory does
    not grow with their number.

    Args:
        model: of a run.
        prepared: the training images, of the model's classes.
        files: of the images to seek the neighbours of, all readable.
        batch_size: images in a batch.
    """
    stage, size, side = feature_stage(model), model.net.image_size, model.mean.shape[0]
    crops = [batch.images for batch in decode_centre_crops(files, side, size)]
    queries = stage_output(model, stage, np.concatenate(crops))
    found = nearest(queries.reshape(len(files), -1), _training_features(model, prepared, stage, batch_size), NEIGHBOURS)
    return [_named(prepared, found, row) for row in range(len(files))]


def _training_features(
    model: TrainedModel, prepared: PreparedImages, stage: str, batch_size: int
) -> Iterator[np.ndarray]:
    """(n, d) of each batch of training images, in their order, by the centre crop."""
    # the loader reads a split in order and at the centre when it validates
    loader = Loader(replace(prepared, val=prepared.train), "val", model.net.image_size, batch_size)
    images = len(prepared.train.labels)
    with tqdm(total=images, unit="image", desc=f"{stage} of training images", disable=None, dynamic_ncols=True) as bar:
        for batch in loader.epoch(0):
            yield stage_output(model, stage, batch.images.numpy()).reshape(len(batch.images), -1)
            bar.update(len(batch.images))


def _named(prepared: PreparedImages, found: Neighbours, row: int) -> list[Neighbour]:
    train = prepared.train
    named = []
    for index, distance in zip(found.indices[row].tolist(), found.distances[row].tolist(), strict=True):
        file = prepared.root / train.paths[index]
        named.append(Neighbour(file, prepared.classes[train.labels[index]], distance, picture(file)))
    return named
