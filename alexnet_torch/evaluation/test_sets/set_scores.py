"""The scores of one network, or of an average of several, on a test set: counts over batches, and their result."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, from_numpy

from alexnet_torch.evaluation.confusion import Confusion
from alexnet_torch.evaluation.metrics import EvalMetrics, EvalResult
from alexnet_torch.evaluation.test_sets.class_matching import ClassMatch
from alexnet_torch.evaluation.test_sets.real_labels import RealLabels


@dataclass(frozen=True)
class RealResult:
    """The result by ReaL labels: of the images that have some, the fraction whose guess is none of them."""

    images: int
    top1_error: float


@dataclass(frozen=True)
class SetResult:
    """Scores on a test set."""

    errors: EvalResult  # among all of the model's classes
    errors_among_set: EvalResult | None  # among the set's classes, if the set lacks some of the model's
    confusion: Confusion  # rows: the set's classes; columns: the model's
    group_errors: np.ndarray  # (groups,) float64, top-1 error of each group of images; nan for an empty one
    real: RealResult | None


class SetScores:
    """Counts the scores of a test set, batch by batch.

    Args:
        match: the set's classes among the model's.
        groups: the number of groups that have an error of their own, such as ImageNet-C's corruptions; may be 0.
        real: ReaL labels, if these are asked for.
    """

    def __init__(self, match: ClassMatch, groups: int = 0, real: RealLabels | None = None) -> None:
        self._match, self._real = match, real
        self._all, self._set = EvalMetrics(), EvalMetrics()
        self._confusion = Confusion(match.indices, match.model_classes)
        self._columns = from_numpy(match.indices)
        self._group_images, self._group_wrong = np.zeros(groups, np.int64), np.zeros(groups, np.int64)
        self._real_images = self._real_wrong = 0

    def add(self, names: Sequence[str], labels: Tensor, log_probs: Tensor, groups: np.ndarray | None = None) -> None:
        """Counts a batch.

        Args:
            names: (n) files.
            labels: (n,) int64, indices into the set's classes.
            log_probs: (n, model's classes), finite.
            groups: (n,) int64, the group of each image.
        """
        own_labels = self._columns[labels]  # (n,), indices into the model's classes
        self._all.add(log_probs, own_labels)
        if self._match.is_subset:
            among_set = log_probs[:, self._columns].log_softmax(dim=1)  # (n, set's classes), probabilities add up to 1
            self._set.add(among_set, labels)
        guesses = log_probs.topk(1, dim=1).indices[:, 0]  # as count_wrong decides between equal ones
        self._confusion.add(labels, guesses)
        if groups is not None:
            wrong = (guesses != own_labels).numpy()
            self._group_images += np.bincount(groups, minlength=len(self._group_images))
            self._group_wrong += np.bincount(groups[wrong], minlength=len(self._group_wrong))
        if self._real:
            images, real_wrong = self._real.count(names, guesses.numpy())
            self._real_images += images
            self._real_wrong += real_wrong

    def result(self) -> SetResult:
        """Returns the scores of all batches, of which there is at least one."""
        group_errors = np.full(len(self._group_images), np.nan)
        np.divide(self._group_wrong, self._group_images, out=group_errors, where=self._group_images > 0)
        real = None
        if self._real:
            real = RealResult(
                self._real_images, self._real_wrong / self._real_images if self._real_images else math.nan
            )
        return SetResult(
            self._all.result(lambda counts: counts),
            self._set.result(lambda counts: counts) if self._match.is_subset else None,
            self._confusion,
            group_errors,
            real,
        )
