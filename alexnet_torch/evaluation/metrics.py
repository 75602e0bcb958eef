"""What is counted of predictions: loss, top-k errors, and which classes are taken for which."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SumCounts = Callable[[Tensor], Tensor]  # adds up the counts of the ranks, which evaluate different images


@dataclass(frozen=True)
class EvalResult:
    """Result of an evaluation: mean cross-entropy in nats; errors as fractions."""

    loss: float
    top1_error: float
    top5_error: float
    only_guess: int | None = None  # the class that is predicted for all images, although they have several

    def values(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("loss", "top1_error", "top5_error")}

    def warning(self, labels: Sequence[str]) -> str | None:
        """Returns a line about a network that predicts one class for all images: its error is low if most are of it."""
        if self.only_guess is None:
            return None
        return f"all images are predicted to be {labels[self.only_guess]}, although they are of several classes"


def errors_in_words(errors: Mapping[str, Any], classes: int) -> str:
    """Returns the top-1 error, and for more than five classes the top-5 error."""
    return ", ".join(f"top-{k} error {errors[f'top{k}_error']:.2%}" for k in ((1, 5) if classes > 5 else (1,)))


def count_wrong(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Returns how many labels (N,) are not among the k largest of logits (N, classes), a 0-d tensor."""
    top_classes = logits.topk(min(k, logits.shape[1]), dim=1).indices  # (N, k)
    return (top_classes != labels[:, None]).all(dim=1).sum()


@dataclass(frozen=True)
class Predictions:
    """The most probable class of each of n images, with their labels."""

    indices: np.ndarray  # (n,) int64, positions of the images in their set
    labels: np.ndarray  # (n,) int64
    predicted: np.ndarray  # (n,) int64
    label_probability: np.ndarray  # (n,) float64
    probability: np.ndarray  # (n,) float64, of the predicted class


class Scores:
    """Sums of losses and errors, and each image's prediction; they stay on the device until the end.

    Labels of a test set index `classes` (set classes,) int64, the model's class of each. If these are not all of the
    model's, `among_set` has the scores among them.
    """

    def __init__(self, classes: Tensor | None = None) -> None:
        self._classes, self._images = classes, 0
        self._sums: list[Tensor] = []  # of each batch: loss, wrong, none of five right; guesses, labels and squares
        self._rows, self._indices = list[Tensor](), list[np.ndarray]()
        self.among_set: Scores | None = None

    def add(self, log_probs: Tensor, labels: Tensor, indices: np.ndarray | None = None) -> None:
        """Counts a batch: log-probabilities (n, classes), labels (n,), indices (n,)."""
        labels = labels.to(log_probs.device, non_blocking=True)
        own = labels if self._classes is None else self._classes.to(labels.device)[labels]
        if self._classes is not None and len(self._classes) < log_probs.shape[1]:
            self.among_set = self.among_set or Scores()
            self.among_set.add(log_probs[:, self._classes].log_softmax(dim=1), labels)
        top = log_probs.topk(1, dim=1)  # as count_wrong decides between equal ones
        guesses = torch.stack([top.indices[:, 0], own]).double()
        counts = [F.nll_loss(log_probs, own, reduction="sum"), *(count_wrong(log_probs, own, k) for k in (1, 5))]
        self._sums.append(torch.stack([*(each.double() for each in counts), *guesses.sum(1), *(guesses**2).sum(1)]))
        self._images += len(labels)
        if indices is not None:
            columns = [labels[:, None], top.indices, log_probs.gather(1, own[:, None]).exp(), top.values.exp()]
            self._rows.append(torch.cat(columns, dim=1))
            self._indices.append(indices)

    def result(self, sum_counts: SumCounts = lambda counts: counts) -> EvalResult:
        """Returns the means over the images that all ranks have counted."""
        sums = torch.stack(self._sums).T.tolist() if self._sums else [[]] * 7
        counts = torch.tensor([*map(math.fsum, sums), self._images], dtype=torch.float64)
        loss, top1, top5, guess, label, guess2, label2, images = sum_counts(counts).tolist()
        # numbers are equal if their variance is 0
        is_one = guess2 * images == guess**2 and label2 * images != label**2
        return EvalResult(loss / images, top1 / images, top5 / images, round(guess / images) if is_one else None)

    def predictions(self, images: int, sum_counts: SumCounts = lambda counts: counts) -> Predictions:
        """Returns the predictions of all ranks for a set of `images` images, some perhaps left out."""
        table = torch.zeros(images, 5, dtype=torch.float64)
        if self._rows:
            table[np.concatenate(self._indices), 1:] = torch.cat(self._rows).double().cpu()
            table[np.concatenate(self._indices), 0] = 1
        found, labels, predicted, *probabilities = sum_counts(table).numpy().T
        seen = np.flatnonzero(found)
        classes = (values[seen].astype(np.int64) for values in (labels, predicted))
        return Predictions(seen, *classes, *(values[seen] for values in probabilities))


class Confusion:
    """How many images of each label have which predicted class: `classes` (labels,) int64 are right. Sparse."""

    def __init__(self, predictions: Predictions, classes: np.ndarray, model_classes: int) -> None:
        self._shape, self._right = (len(classes), model_classes), classes[predictions.labels] == predictions.predicted
        self._labels, self._pairs = predictions.labels, predictions.labels * model_classes + predictions.predicted

    @property
    def images(self) -> np.ndarray:  # (labels,) int64
        return np.bincount(self._labels, minlength=self._shape[0])

    @property
    def counts(self) -> np.ndarray:  # (labels, model's classes) int64
        return np.bincount(self._pairs, minlength=math.prod(self._shape)).reshape(self._shape)

    def class_errors(self) -> np.ndarray:  # (labels,) float64 in 0..1; nan where there is no image
        wrong, images = np.bincount(self._labels[~self._right], minlength=self._shape[0]), self.images
        errors: np.ndarray = np.divide(wrong, images, out=np.full(len(images), np.nan), where=images > 0)
        return errors

    def most_confused(self, most: int = 20) -> list[tuple[int, int, int]]:
        pairs, counts = np.unique(self._pairs[~self._right], return_counts=True)
        chosen = np.argsort(-counts, kind="stable")[:most]
        return [(*divmod(int(pairs[i]), self._shape[1]), int(counts[i])) for i in chosen]


def wilson_interval(wrong: int, images: int) -> tuple[float, float]:
    """Returns the bounds of an error, as fractions: Wilson's score interval of 95% confidence."""
    z = 1.959963984540054  # not scipy's function, whose import takes a second
    error, z2 = wrong / images, z * z / images
    centre = (error + z2 / 2) / (1 + z2)
    half = z / (1 + z2) * math.sqrt(error * (1 - error) / images + z2 / (4 * images))
    return max(0.0, centre - half), min(1.0, centre + half)
