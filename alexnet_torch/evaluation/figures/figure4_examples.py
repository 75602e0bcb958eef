"""The data of the paper's Figure 4: images with their five best labels, and their nearest training images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from alexnet_torch.data.decode_stream import decode_centre_crops
from alexnet_torch.data.loader import Loader
from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.data.sources.source import SourceSplit
from alexnet_torch.evaluation.features import stage_output
from alexnet_torch.evaluation.figures.nearest import nearest_vectors
from alexnet_torch.evaluation.predict import Prediction, decode_centre_crop, predict
from alexnet_torch.randomness import random_generator
from alexnet_torch.weights.class_labels import distinct_names
from alexnet_torch.weights.model_file import TrainedModel

NUM_EXAMPLES = 8  # as in the paper
NUM_NEIGHBOURS = 6
SHOWN_SIDE, SHOWN_SIZE = 256, 224  # pixels of the decoded square and its centre crop, whatever the network reads


@dataclass(frozen=True)
class Example:
    """An image and the network's predictions."""

    file: Path
    label: str | None  # its class; None if it is unknown
    predictions: list[Prediction]  # the most probable classes, best first
    image: np.ndarray  # (H, W, 3) uint8, the part that the network sees


@dataclass(frozen=True)
class Neighbour:
    """A training image near an example."""

    file: Path
    label: str  # its class
    distance: float  # Euclidean distance between the stage's features
    image: np.ndarray  # (H, W, 3) uint8, the part that the network sees


def choose_examples(prepared: PreparedImages, count: int, seed: int, copies: Path) -> list[Path]:
    """Draws `count` validation images, or all of fewer: one of each class before a second one of any class.

    Those that are not files in a folder of their class are copied into the folder `copies`.
    """
    labels = prepared.val.labels
    order = random_generator(seed, "examples").permutation(len(labels))
    earlier_of_class = np.zeros(len(labels), np.int64)  # images of the same class earlier in the order
    for label in range(len(prepared.classes)):
        of_class = order[labels[order] == label]
        earlier_of_class[of_class] = np.arange(len(of_class))
    chosen = order[np.argsort(earlier_of_class[order], kind="stable")][:count]
    return [_sample_file(prepared.val.split, index, copies) for index in chosen.tolist()]


def classify(model: TrainedModel, files: Sequence[Path]) -> list[Example]:
    """Returns each file with its five best labels; its true label is its folder's name if that is a class.

    Raises:
        UserError: a file is not an image.
    """
    labels = dict(zip(model.classes, model.labels, strict=True))
    return [
        Example(file, labels.get(file.parent.name), predictions, shown_crop(file))
        for file, predictions in predict(model, files)
    ]


def shown_crop(file: Path) -> np.ndarray:
    """Returns what the network sees of a file, with enough pixels to look at: (224, 224, 3) uint8.

    Raises:
        UserError: the file is not an image.
    """
    return decode_centre_crop(file, SHOWN_SIDE, SHOWN_SIZE)


def last_hidden_stage(model: TrainedModel) -> str:
    """Returns the name of the last stage before the logits: fc7 in the paper's network."""
    return model.net.architecture.stage_names[-2]


def nearest_training_images(
    model: TrainedModel, prepared: PreparedImages, files: Sequence[Path], copies: Path, batch_size: int = 64
) -> list[list[Neighbour]]:
    """Returns for each file the training images with the nearest features, nearest first.

    Reads all training images once and holds the features of one batch: memory does not grow with their number.

    Args:
        model: of a run.
        prepared: the training images, of the model's classes.
        files: readable images.
        copies: a folder for those training images that are not files in a folder of their class.
        batch_size: images in a batch.
    """
    stage, size, side = last_hidden_stage(model), model.net.image_size, model.mean.shape[0]
    crops = [batch.images for batch in decode_centre_crops(files, side, size)]
    queries = stage_output(model, stage, np.concatenate(crops)).reshape(len(files), -1)
    indices, distances = nearest_vectors(
        queries, _training_features(model, prepared, stage, batch_size), NUM_NEIGHBOURS
    )
    return [
        [_neighbour(prepared, index, distance, copies) for index, distance in zip(*row, strict=True)]
        for row in zip(indices.tolist(), distances.tolist(), strict=True)
    ]


def _training_features(
    model: TrainedModel, prepared: PreparedImages, stage: str, batch_size: int
) -> Iterator[np.ndarray]:
    """Yields (n, d) features of the centre crops of each batch of training images, in their order."""
    # as a validation split, since the loader then reads images in order and cuts the centre
    loader = Loader(replace(prepared, val=prepared.train), "val", model.net.image_size, batch_size)
    images = len(prepared.train.labels)
    with tqdm(total=images, unit="image", desc=f"{stage} of training images", disable=None, dynamic_ncols=True) as bar:
        for batch in loader.epoch(0):
            yield stage_output(model, stage, batch.images.numpy()).reshape(len(batch.images), -1)
            bar.update(len(batch.images))


def _neighbour(prepared: PreparedImages, index: int, distance: float, copies: Path) -> Neighbour:
    file = _sample_file(prepared.train.split, index, copies)
    label = distinct_names(prepared.classes, prepared.names)[prepared.train.labels[index]]
    return Neighbour(file, label, distance, shown_crop(file))


def _sample_file(split: SourceSplit, index: int, copies: Path) -> Path:
    """Returns a sample as a file in a folder named by its class: its own file, or a copy of an archive's member."""
    key, own = split.keys[index], Path(split.reader.location(index))
    if own.as_posix().endswith(key) and own.is_file():
        return own
    copy = copies / key
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(split.read(index))
    return copy
