"""From images to log-probabilities to scores: the one loop of validation, tests, `evaluate` and pages."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from alexnet_torch.data.augment import centre_crops, subtract_mean
from alexnet_torch.data.cache import PreparedImages
from alexnet_torch.data.loader import Loader, decode_ahead, sent
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.metrics import EvalResult, Predictions, Scores, SumCounts
from alexnet_torch.weights.model_file import TrainedModel

ShouldStop = Callable[[], bool]


class ImageBatch(NamedTuple):
    """Decoded images with known classes."""

    images: Mapping[int, Tensor]  # by their side in pixels: (n, side, side, 3) uint8
    labels: Tensor  # (n,) int64
    indices: np.ndarray | None  # (n,) int64, positions in their set


LogProbs = dict[int, list[Tensor]]  # by the number of crops, (n, classes) of each model, then of the average of several


def default_num_crops(models: Sequence[TrainedModel]) -> int:
    """Returns the paper's 10; 5 if a model was trained without mirror images, as on digits, 1 if without crops."""
    if any(len(model.mean) == model.net.image_size for model in models):
        return 1
    return 10 if all(model.mirror for model in models) else 5


def network_input(model: TrainedModel, images: Tensor) -> Tensor:
    """Returns images (n, H, W, 3) uint8, squares or centre crops, minus the mean: (n, 3, H, W)."""
    mean = model.device_mean()
    centre = centre_crops(len(images), len(mean), images.shape[1])
    return subtract_mean(sent(images, mean.device), centre, mean)


@torch.no_grad()
def log_probabilities(
    model: TrainedModel, images: Tensor, num_crops: int = 1, dtype: torch.dtype = torch.float64
) -> dict[int, Tensor]:
    """Returns log-probabilities (n, classes) by the number of crops: of the centre, and of the crops' mean."""
    squares, size, log_probs = network_input(model, images), model.net.image_size, list[Tensor]()
    last = squares.shape[-1] - size
    corners = [(0, 0), (0, last), (last, 0), (last, last)] if num_crops > 1 else []
    for top, left in [(last // 2, last // 2), *corners]:
        crop = squares[:, :, top : top + size, left : left + size]
        for each in (crop, crop.flip(3)) if num_crops == 10 else (crop,):
            logits = model.net(each)
            log_probs.append(logits.to(torch.promote_types(logits.dtype, dtype)).log_softmax(dim=1))
    return {1: log_probs[0]} if num_crops == 1 else {1: log_probs[0], num_crops: _log_mean(log_probs)}


def _log_mean(log_probs: Sequence[Tensor]) -> Tensor:
    # the paper averages probabilities, not logits
    return torch.stack([*log_probs]).logsumexp(dim=0) - math.log(len(log_probs))


def require_finite(outputs: Tensor, images: Sequence[object]) -> None:
    """Refuses outputs (n, ...) that are not finite, with the name of the first image."""
    if not outputs.sum().isfinite():
        bad = next((i for i, output in enumerate(outputs) if not output.sum().isfinite()), 0)
        cause = "the network's outputs for it are infinite or not numbers: its training has diverged"
        raise UserError(f"{images[bad]}: {cause}; use another run's model")


def score(
    models: Sequence[TrainedModel],
    batches: Iterable[ImageBatch],
    num_crops: int = 1,
    classes: Tensor | None = None,
    should_stop: ShouldStop = lambda: False,
    watch: Callable[[ImageBatch, LogProbs], None] | None = None,
    dtype: torch.dtype = torch.float64,
) -> dict[int, list[Scores]] | None:
    """Scores models of the same classes, and the average of several, by the centre crop and `num_crops`.

    `watch` is called with each batch and what the models predict. Returns None if stopped.
    """
    count = len(models) + (len(models) > 1)
    scores = {n: [Scores(classes) for _ in range(count)] for n in sorted({1, num_crops})}
    for batch in batches:
        if should_stop():
            return None
        by_model = []
        for model in models:
            side = len(model.mean) if len(model.mean) in batch.images else model.net.image_size
            by_model.append(log_probabilities(model, batch.images[side], num_crops, dtype))
        log_probs = {n: [each[n] for each in by_model] for n in scores}
        for n, values in log_probs.items():
            if len(models) > 1:
                values.append(_log_mean(values))
            for each, value in zip(scores[n], values, strict=True):
                each.add(value, batch.labels, batch.indices)
        if watch:
            watch(batch, log_probs)
    return scores


def evaluate(
    model: TrainedModel, loader: Loader, should_stop: ShouldStop = lambda: False, sum_counts: SumCounts = lambda n: n
) -> EvalResult | None:
    """Returns loss and errors of a model in training on the validation images' centre crops; None if stopped."""
    model.net.eval()
    batches = (ImageBatch({loader.image_size: b.images}, b.labels, None) for b in loader.epoch(0))
    scores = score([model], batches, should_stop=should_stop, dtype=torch.float32)
    model.net.train()
    return scores[1][0].result(sum_counts) if scores else None


@dataclass(frozen=True)
class Tested:
    """The test of a trained model on its validation images."""

    model: TrainedModel
    errors: dict[int, EvalResult]  # by the number of crops
    predictions: Predictions  # with the centre crop


def score_validation_images(
    model: TrainedModel,
    prepared: PreparedImages,
    num_crops: int = 1,
    should_stop: ShouldStop = lambda: False,
    slices: tuple[int, int] = (0, 1),
    sum_counts: SumCounts = lambda counts: counts,
    workers: int | None = None,
) -> Tested | None:
    """Tests a model; a rank has a slice, (index, count), of each batch. None if stopped."""
    side = model.net.image_size if num_crops == 1 else prepared.side
    loader = Loader(prepared, "val", side, 64, workers=workers, slices=slices)
    count, hidden = loader.batches_per_epoch, slices[0] > 0 or None
    loaded = tqdm(loader.epoch(0), total=count, unit="batch", disable=hidden, leave=False)
    batches = (ImageBatch({side: batch.images}, batch.labels, batch.indices) for batch in loaded)
    scores = score([model], batches, num_crops, should_stop=should_stop)
    if scores is None:
        return None
    errors = {n: each.result(sum_counts) for n, (each,) in scores.items()}
    return Tested(model, errors, scores[1][0].predictions(len(prepared.val.labels), sum_counts))


def worst_images(tested: Tested, prepared: PreparedImages, most: int = 24) -> list[dict[str, Any]]:
    """Returns the wrong predictions whose label has the lowest probability, with what the network sees."""
    of, names = tested.predictions, tested.model.labels
    wrong = np.flatnonzero(of.predicted != of.labels)
    wrong = wrong[np.argsort(of.label_probability[wrong], kind="stable")][:most]
    samples = prepared.val.split.take(of.indices[wrong])
    decoded = decode_ahead(samples, [(prepared.side, tested.model.net.image_size)])
    pixels = (crop for batch in decoded for crop in batch.crops[0])
    return [
        {
            "path": key,
            "label": names[of.labels[i]],
            "label_probability": float(of.label_probability[i]),
            "predicted": names[of.predicted[i]],
            "probability": float(of.probability[i]),
            "pixels": crop,
        }
        for i, key, crop in zip(wrong, samples.keys, pixels, strict=True)
    ]
