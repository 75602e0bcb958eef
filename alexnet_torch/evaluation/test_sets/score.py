"""Scores trained models and their average on a test set, which is read and decoded once for all of them."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, from_numpy
from tqdm import tqdm

from alexnet_torch.data.augment import centre_crops
from alexnet_torch.data.loader import Batch
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.multi_crop import log_mean_prob, predict_log_probs
from alexnet_torch.evaluation.predict import network_input
from alexnet_torch.evaluation.test_sets.class_matching import ClassMatch
from alexnet_torch.evaluation.test_sets.decoded_batches import DecodedBatch, decoded_batches
from alexnet_torch.evaluation.test_sets.guess_table import GuessTable, guess_table
from alexnet_torch.evaluation.test_sets.real_labels import RealLabels
from alexnet_torch.evaluation.test_sets.set_scores import SetResult, SetScores
from alexnet_torch.evaluation.test_sets.stored_squares import stored_squares
from alexnet_torch.evaluation.test_sets.test_set import TestSet
from alexnet_torch.weights.model_file import TrainedModel


@dataclass(frozen=True)
class ScoreOptions:
    """How a test set is scored, and what is written.

    Attributes:
        num_crops: 1; or 5 or 10, which give the scores of the centre crop, too.
        real: ReaL labels to score by, too.
        csv: a file for the guesses: of the average, if there are several models, over the most crops.
        skip_bad: whether unreadable images are left out.
        cache: where training may have stored the decoded images, as for `prepare`.
        batch_size: images read together; each of their crops is one batch for a network.
        workers: processes that decode; one for each core by default.
    """

    num_crops: int = 10
    real: RealLabels | None = None
    csv: Path | None = None
    skip_bad: bool = False
    cache: str = "auto"
    batch_size: int = 64
    workers: int | None = None


@dataclass(frozen=True)
class SetResults:
    """Scores by number of crops: of each model in order and, if there are several, of their average, which is last."""

    by_crops: dict[int, list[SetResult]]
    images: int  # that were scored
    skipped: tuple[str, ...]  # messages about images that were left out


def score_models(
    models: Sequence[TrainedModel],
    names: Sequence[str],
    test_set: TestSet,
    match: ClassMatch,
    options: ScoreOptions,
) -> SetResults:
    """Scores models that have the same classes; a batch is read once for all of them, and memory holds one batch.

    Args:
        models: of any architecture and image size.
        names: the models', for messages.
        test_set: with the same classes or some of them.
        match: the set's classes among the models'.
        options: what to score and to write.

    Raises:
        UserError: an image cannot be read and must not be skipped, no image is left, a file cannot be written, or a
            network's output is not finite.
    """
    several = len(models) > 1
    scores = {
        n: [SetScores(match, len(test_set.groups), options.real) for _ in range(len(models) + several)]
        for n in sorted({1, options.num_crops})
    }
    skipped: list[str] = []
    columns = from_numpy(match.indices)
    with guess_table(options.csv, models[0].labels) as table:
        for batch in _batches(models, test_set, options):
            skipped += _left_out(batch, options.skip_bad)
            if not len(batch.indices):
                continue
            labels, groups = from_numpy(batch.labels), test_set.groups_of(batch.indices)
            for n, log_probs in _predict(models, names, batch, options.num_crops, test_set.cropped_side).items():
                for each, values in zip(scores[n], log_probs, strict=True):
                    each.add(batch.keys, labels, values, groups)
            _write_rows(table, batch.keys, columns[labels], log_probs[-1])  # of the most crops
    images = len(test_set.split) - len(skipped)
    if not images:
        raise UserError(f"--skip-bad: no image of {test_set.root} can be read; the first: {skipped[0]}")
    return SetResults(
        {n: [each.result() for each in per_model] for n, per_model in scores.items()}, images, tuple(skipped)
    )


def _write_rows(table: GuessTable | None, keys: Sequence[str], labels: Tensor, log_probs: Tensor) -> None:
    if table:
        table.add(keys, labels, log_probs)


def _batches(models: Sequence[TrainedModel], test_set: TestSet, options: ScoreOptions) -> Iterable[DecodedBatch]:
    """Yields the set's batches with progress on a terminal."""
    cropped = test_set.cropped_side
    if cropped is None:
        sides = sorted({model.mean.shape[0] for model in models})
        stored = stored_squares(test_set, sides, options.cache)
    else:
        sides, stored = sorted({model.net.image_size for model in models}), {}
    batches = decoded_batches(test_set.split, sides, stored, cropped, options.batch_size, options.workers)
    with closing(tqdm(total=len(test_set.split), unit="image", disable=None, leave=False)) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch.indices) + len(batch.bad))


def _left_out(batch: DecodedBatch, skip_bad: bool) -> list[str]:
    """Returns the messages about a batch's unreadable images; raises a UserError if they must not be skipped."""
    messages = [message for _, message in batch.bad]
    if messages and not skip_bad:
        fix = "mend it or move it elsewhere, or leave out what cannot be read with --skip-bad"
        raise UserError(f"{messages[0]}; {fix}")
    return messages


@torch.no_grad()
def _predict(
    models: Sequence[TrainedModel], names: Sequence[str], batch: DecodedBatch, num_crops: int, cropped_side: int | None
) -> dict[int, list[Tensor]]:
    """Returns by the number of crops (n, classes) float64 log-probabilities of each model, and of several's average."""
    by_model = []
    for model, name in zip(models, names, strict=True):
        if cropped_side is not None:
            logits = model.net(network_input(model, batch.squares[model.net.image_size]))
            predicted = {1: logits.cpu().double().log_softmax(dim=1)}
        else:
            side = model.mean.shape[0]
            n = len(batch.indices)
            images, crops = from_numpy(batch.squares[side]), centre_crops(n, side, side)
            whole = Batch(images, from_numpy(batch.labels), crops, batch.indices, 0, n)
            predicted = predict_log_probs(model, whole, num_crops)
        for log_probs in predicted.values():
            if not bool(log_probs.isfinite().all()):
                row = int((~log_probs.isfinite().all(dim=1)).nonzero()[0])
                raise UserError(
                    f"{name}: the network's outputs for {batch.keys[row]} are infinite or not numbers: its training "
                    "has diverged; leave the run out"
                )
        by_model.append(predicted)
    results = {}
    for n in by_model[0]:
        each = [predicted[n] for predicted in by_model]
        results[n] = [*each, log_mean_prob(each)] if len(each) > 1 else each
    return results
