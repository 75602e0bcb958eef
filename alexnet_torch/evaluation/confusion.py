"""Which classes are taken for which: counts of (label, guess), the error of each class, the most confused pairs."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class ConfusedPair:
    """Images of one class that were taken for another."""

    label: int  # a row of the counts
    guess: int  # a column of the counts
    images: int


class Confusion:
    """Counts the images of each class by the most probable class, which is the guess.

    Args:
        columns: (R,) int64, for each label, a row of the counts, the guess that is right: its column.
        guesses: the number of columns, at least as many as labels: a test set may lack some of a model's classes.
    """

    def __init__(self, columns: np.ndarray, guesses: int) -> None:
        self.columns = columns
        self.counts = np.zeros((len(columns), guesses), np.int64)

    @classmethod
    def square(cls, classes: int) -> "Confusion":
        """Returns the counts of a set that has all of a model's classes, in its order."""
        return cls(np.arange(classes), classes)

    def add(self, labels: Tensor, guesses: Tensor) -> None:
        """Counts a batch.

        Args:
            labels: (n,) int64, rows of the counts.
            guesses: (n,) int64, columns of the counts.
        """
        rows, columns = self.counts.shape
        flat = torch.bincount((labels * columns + guesses).cpu(), minlength=rows * columns)
        self.counts += flat.view(rows, columns).numpy()

    @property
    def images(self) -> np.ndarray:
        """(R,) int64: the images of each label."""
        return np.asarray(self.counts.sum(axis=1))

    def class_errors(self) -> np.ndarray:
        """Returns the top-1 error of each label, (R,) float64 in 0..1; nan where it has no image."""
        right = self.counts[np.arange(len(self.columns)), self.columns]
        images = self.images
        errors = np.full(len(images), np.nan)
        np.divide(images - right, images, out=errors, where=images > 0)
        return errors

    def most_confused(self, most: int = 20) -> list[ConfusedPair]:
        """Returns the pairs of a label and a wrong guess with the most images, these first; equal ones in order."""
        wrong = self.counts.copy()
        wrong[np.arange(len(self.columns)), self.columns] = 0
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
        return [ConfusedPair(int(r), int(c), int(wrong[r, c])) for r, c in pairs if wrong[r, c] > 0]
