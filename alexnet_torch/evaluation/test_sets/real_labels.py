"""ReaL labels: for each ImageNet validation image all classes that are right, instead of one.

Beyer et al., "Are we done with ImageNet?", 2020.
The file is real.json of the repository google-research/reassessed-imagenet.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from alexnet_torch.data.sources.imagenet_classes import imagenet_indices
from alexnet_torch.errors import UserError

VALIDATION_IMAGES = 50_000
_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})(?!\d)")


class RealLabels:
    """Counts the images whose guess is not among their ReaL labels; images without any label are left out.

    Args:
        file: the JSON file.
        identities: the model's classes, in the order of its logits, by WordNet ID.

    Raises:
        UserError: the file is not ReaL's, or the model has other classes than ImageNet's 1,000.
    """

    def __init__(self, file: Path, identities: Sequence[str]) -> None:
        self.path, self._labels = file, _read(file)
        indices = imagenet_indices()
        if set(identities) != set(indices):
            raise UserError(
                f"--real {file}: has labels of ImageNet's 1,000 classes, but the model has others; leave out --real"
            )
        self._standard = np.array([indices[identity] for identity in identities])  # (classes,), by logit

    def check_names(self, names: Iterable[str]) -> None:
        """Raises a UserError unless each of the files is a validation image by its name, before any is read."""
        for name in names:
            self._number(name)

    def count(self, names: Sequence[str], guesses: np.ndarray) -> tuple[int, int]:
        """Returns how many images of a batch have labels, and how many of these have a wrong guess.

        Args:
            names: (n) files, such as "val/n01751748/ILSVRC2012_val_00000001.JPEG".
            guesses: (n,) int64, indices into the logits.
        """
        images = wrong = 0
        for name, guess in zip(names, self._standard[guesses].tolist(), strict=True):
            if labels := self._labels[self._number(name) - 1]:
                images += 1
                wrong += guess not in labels
        return images, wrong

    def _number(self, name: str) -> int:
        match = _NUMBER.search(name.rpartition("/")[2])
        if match is None or not 1 <= int(match[1]) <= VALIDATION_IMAGES:
            raise UserError(
                f"--real {self.path}: {name} is not named as a validation image of ILSVRC-2012, "
                "ILSVRC2012_val_00000001.JPEG to _00050000; name ImageNet's validation set with --data"
            )
        return int(match[1])


def _read(file: Path) -> list[list[int]]:
    """Returns the labels of images 1, 2, ... in order."""
    try:
        labels = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "not JSON"
        raise UserError(f"--real {file}: cannot be read ({reason}); name ReaL's real.json") from error
    if not isinstance(labels, list) or len(labels) != VALIDATION_IMAGES:
        raise UserError(
            f"--real {file}: is not a list of the labels of {VALIDATION_IMAGES:,} images; name ReaL's real.json"
        )
    for number, each in enumerate(labels, 1):
        if not isinstance(each, list) or not all(type(label) is int and 0 <= label < 1000 for label in each):
            raise UserError(f"--real {file}: the labels of image {number} are no list of classes 0..999; copy it again")
    return labels
