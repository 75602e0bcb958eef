"""Loss and top-k errors: sums over batches and ranks, the results, and their table."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SumCounts = Callable[[Tensor], Tensor]
"""Adds up the counts of the ranks that evaluate different images."""


@dataclass(frozen=True)
class EvalResult:
    """Result of an evaluation: mean cross-entropy in nats; errors as fractions."""

    loss: float
    top1_error: float
    top5_error: float

    @property
    def is_finite(self) -> bool:
        """Whether the loss is a finite number; if not, the network has diverged and its errors mean nothing."""
        return math.isfinite(self.loss)


class EvalMetrics:
    """Sums of losses and errors over batches."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._wrong1 = self._wrong5 = self._images = 0

    def add(self, log_probs: Tensor, labels: Tensor) -> None:
        """Counts a batch: (N, classes) and (N,), on one device."""
        self._losses.append(F.nll_loss(log_probs, labels, reduction="sum").item())
        self._wrong1 += int(count_wrong(log_probs, labels, 1))
        self._wrong5 += int(count_wrong(log_probs, labels, 5))
        self._images += len(labels)

    def result(self, sum_counts: SumCounts) -> EvalResult:
        """Returns the means over the images that all ranks have counted."""
        counts = torch.tensor([math.fsum(self._losses), self._wrong1, self._wrong5, self._images], dtype=torch.float64)
        loss, wrong1, wrong5, images = sum_counts(counts).tolist()
        return EvalResult(loss / images, wrong1 / images, wrong5 / images)


def count_wrong(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Returns how many labels are not among the k most probable classes, as a 0-d integer tensor.

    Args:
        logits: (N, classes) logits or log-probabilities; with k classes or fewer the count is 0.
        labels: (N,) int64.
    """
    top_classes = logits.topk(min(k, logits.shape[1]), dim=1).indices  # (N, k)
    return (top_classes != labels[:, None]).all(dim=1).sum()


@dataclass(frozen=True)
class EnsembleResult:
    """Results of each model, in the models' order, and of the average of their probabilities."""

    models: tuple[EvalResult, ...]
    average: EvalResult


def error_table(names: Sequence[str], results: Mapping[int, EnsembleResult]) -> str:
    """Returns a table of errors in %: a row for each model and, if there are several, one for their average.

    The results are by the number of crops.
    """
    rows = list(names)
    columns: dict[str, list[float]] = {}
    for num_crops, result in results.items():
        shown = [*result.models, result.average] if len(names) > 1 else list(result.models)
        crops = "centre crop" if num_crops == 1 else f"{num_crops} crops"
        columns[f"{crops}, top-1"] = [r.top1_error for r in shown]
        columns[f"{crops}, top-5"] = [r.top5_error for r in shown]
    if len(names) > 1:
        rows.append(f"average of {len(names)}")
    width = max(map(len, ["error", *rows]))
    lines = [f"{'error':{width}}  " + "  ".join(columns)]
    for index, row in enumerate(rows):
        cells = (f"{errors[index]:{len(heading)}.2%}" for heading, errors in columns.items())
        lines.append(f"{row:{width}}  " + "  ".join(cells))
    return "\n".join(lines)
