"""The 1,000 classes of ILSVRC-2012 and the labels of its 50,000 validation images, which every form of it shares.

Source: the development kit ILSVRC2012_devkit_t12.tar.gz (meta.mat and ILSVRC2012_validation_ground_truth.txt), with the
labels converted from its IDs to the standard index.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from alexnet_torch.data.sources.source import SourceClass

FOLDER = Path(__file__).parent
WNID = re.compile(r"n\d{8}")


@cache
def imagenet_classes() -> tuple[SourceClass, ...]:
    """Returns the classes by standard index, 0..999: in the order of their WordNet IDs, which are their identities."""
    return tuple(SourceClass(wnid, name) for wnid, _, name in _rows())


@cache
def imagenet_indices() -> dict[str, int]:
    """Returns the standard index of each WordNet ID."""
    return {each.identity: index for index, each in enumerate(imagenet_classes())}


@cache
def index_of_devkit_id() -> np.ndarray:
    """Returns the standard index of each of the development kit's IDs, (1001,) int64; IDs are 1..1000, and 0 is -1.

    The two orders differ: a network that is scored by the wrong one has 0.1% accuracy.
    """
    indices = np.full(1001, -1, np.int64)
    indices[[int(devkit_id) for _, devkit_id, _ in _rows()]] = np.arange(1000)
    return indices


@cache
def validation_labels() -> np.ndarray:
    """Returns the standard index of validation images 1, 2, ... 50,000 in order, (50000,) int64."""
    labels: np.ndarray = np.load(FOLDER / "imagenet_val_labels.npy").astype(np.int64)
    return labels


def class_of(identity: str, names: Mapping[str, str] | None = None) -> SourceClass:
    """Returns a class with its readable name: of `names` if it is there, else ImageNet's, else its identity."""
    index = imagenet_indices().get(identity)
    known = identity if index is None else imagenet_classes()[index].name
    return SourceClass(identity, (names or {}).get(identity, known))


def _rows() -> list[list[str]]:
    """Returns (WordNet ID, development kit's ID, names) of each class."""
    return [line.split("\t") for line in (FOLDER / "imagenet_classes.tsv").read_text("utf-8").splitlines()]
