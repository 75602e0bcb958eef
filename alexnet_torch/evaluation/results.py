"""What evaluate writes of the scores on a test set: tables for people, one JSON document, a CSV file of predictions."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.class_matching import ClassMatch
from alexnet_torch.evaluation.metrics import Confusion, EvalResult, Scores
from alexnet_torch.evaluation.robustness import ALEXNET_ERRORS, SEVERITIES, CorruptionErrors, RealLabels
from alexnet_torch.evaluation.runs import percent, text_table
from alexnet_torch.evaluation.scoring import ImageBatch, LogProbs, require_finite, score
from alexnet_torch.evaluation.test_sets import TestSet, image_batches
from alexnet_torch.files import atomic_file, writing
from alexnet_torch.weights.model_file import TrainedModel

MOST_CELLS = 25_000_000  # of a confusion matrix in a JSON document


@dataclass(frozen=True)
class SetResult:
    """Scores on a test set."""

    errors: EvalResult  # among all of the model's classes
    among_set: EvalResult | None  # among the set's classes, if the set lacks some of the model's
    confusion: Confusion  # rows: the set's classes; columns: the model's
    corruptions: CorruptionErrors | None  # of ImageNet-C
    real: tuple[int, float | None] | None  # images with ReaL labels, and the fraction predicted as none of theirs


@dataclass(frozen=True)
class SetResults:
    """Scores by number of crops: of each model in order and, if there are several, of their average, which is last."""

    rows: list[str]  # names of the models, and of the average
    by_crops: dict[int, list[SetResult]]
    images: int  # that were scored
    skipped: list[str]  # messages about images that were left out


def score_test_set(
    models: Mapping[str, TrainedModel],
    test_set: TestSet,
    match: ClassMatch,
    num_crops: int = 10,
    real: RealLabels | None = None,
    csv_file: Path | None = None,
    skip_bad: bool = False,
    cache: str = "auto",
) -> SetResults:
    """Scores models and their average on a test set, which is read and decoded once for all of them.

    Args:
        models: by name; of any architecture and image size, with the same classes.
        test_set: with the same classes or some of them.
        match: the set's classes among the models'.
        num_crops: 1; or 5 or 10, which give the scores of the centre crop, too.
        real: ReaL labels to score by, too.
        csv_file: for the predictions: of the average, if there are several models, over the most crops.
        skip_bad: whether unreadable images are left out.
        cache: where training may have stored the decoded images, as for `prepare`.

    Raises:
        UserError: an image cannot be read and must not be skipped, no image is left, a file cannot be written, or a
            network's output is not finite.
    """
    networks, names, keys = list(models.values()), list(models), test_set.split.keys
    classes, labels, skipped = torch.from_numpy(match.indices), networks[0].labels, list[str]()
    with _csv_rows(csv_file, labels) as write_rows:

        def watch(batch: ImageBatch, log_probs: LogProbs) -> None:
            assert batch.indices is not None
            files = [keys[i] for i in batch.indices.tolist()]
            for of_crops in log_probs.values():
                for name, values in zip(names, of_crops, strict=False):
                    require_finite(values, [f"{name}: {file}" for file in files])
            write_rows(files, classes[batch.labels], log_probs[num_crops][-1])

        batches = image_batches(test_set, networks, cache, skip_bad, skipped)
        scores = score(networks, batches, num_crops, classes, watch=watch) or {}

    def result(each: Scores) -> SetResult:
        predictions = each.predictions(len(keys))
        is_wrong = match.indices[predictions.labels] != predictions.predicted
        corruptions = counted = None
        if test_set.group_of is not None:
            group_of = test_set.group_of[predictions.indices]
            corruptions = CorruptionErrors.of_groups(test_set.groups, group_of, is_wrong)
        if real:
            images, wrong = real.count([keys[i] for i in predictions.indices.tolist()], predictions.predicted)
            counted = images, wrong / images if images else None
        among_set = each.among_set.result() if each.among_set else None
        confusion = Confusion(predictions, match.indices, len(labels))
        return SetResult(each.result(), among_set, confusion, corruptions, counted)

    rows = [*names, f"average of {len(names)}"] if len(names) > 1 else names
    by_crops = {n: [result(each) for each in per_model] for n, per_model in scores.items()}
    return SetResults(rows, by_crops, len(keys) - len(skipped), skipped)


@contextmanager
def _csv_rows(path: Path | None, classes: Sequence[str]) -> Iterator[Callable[[Sequence[str], Tensor, Tensor], None]]:
    """Yields a function that writes the rows of a batch, by files, labels (n,) and log-probabilities (n, classes).

    A row has file, label, the five most probable classes and their probabilities. The file appears if the block raises
    no exception; names of files that are not UTF-8 keep their bytes.
    """
    if path is None:
        yield lambda *_: None
        return
    if path.is_dir():
        raise UserError(f"--csv {path}: is a folder; name a file")
    most = min(5, len(classes))

    def write(file: BinaryIO, rows: Iterable[Sequence[str]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        with writing(f"--csv {path}"):
            file.write(text.getvalue().encode("utf-8", "surrogateescape"))

    def write_batch(files: Sequence[str], labels: Tensor, log_probs: Tensor) -> None:
        top = log_probs.topk(most, dim=1)
        rows = zip(files, labels.tolist(), top.indices.tolist(), top.values.exp().tolist(), strict=True)
        write(
            file, ([f, classes[k], *(classes[i] for i in best), *(f"{p:.6g}" for p in ps)] for f, k, best, ps in rows)
        )

    stack = ExitStack()
    with writing(f"--csv {path}"):
        file = stack.enter_context(atomic_file(path))
    with stack:  # an error of the block is not the file's
        numbers = range(1, most + 1)
        write(file, [["file", "label", *(f"guess{i}" for i in numbers), *(f"probability{i}" for i in numbers)]])
        yield write_batch
        with writing(f"--csv {path}"):
            stack.close()


def results_text(test_set: TestSet, match: ClassMatch, results: SetResults, crops: Sequence[int]) -> str:
    """Returns the tables of errors in % with some numbers of crops: among all classes and the set's, by ReaL labels."""
    shown = {n: results.by_crops[n] for n in crops}
    all_errors = {n: [result.errors for result in per_model] for n, per_model in shown.items()}
    table = error_table(results.rows, all_errors, match.model_classes)
    parts = [f"among the model's {match.model_classes:,} classes:\n{table}" if match.is_subset else table]
    if match.is_subset:
        among = {n: [r.among_set for r in per_model if r.among_set] for n, per_model in shown.items()}
        own = len(match.indices)
        parts.append(f"among the set's {own:,} classes:\n{error_table(results.rows, among, own)}")
    for n, per_model in shown.items():
        for name, result in zip(results.rows, per_model, strict=True):
            if result.real:
                images, error = result.real
                label = f"{name}: {_crops(n)}, error by ReaL labels"
                parts.append(f"{label} {percent(error, 1)} of {images:,} images that have some")
            if result.corruptions:
                parts.append(_corruptions_text(name, len(test_set.classes), result.corruptions))
    if results.skipped:
        parts.append(f"{len(results.skipped):,} unreadable image(s) left out, such as {results.skipped[0]}")
    return "\n".join(parts)


def _crops(number: int) -> str:
    return "centre crop" if number == 1 else f"{number} crops"


def error_table(rows: Sequence[str], results: Mapping[int, Sequence[EvalResult]], classes: int) -> str:
    """Returns a table of errors in %, by the number of crops; of fewer than six classes without top-5 errors."""
    columns = {f"{_crops(n)}, top-1": [r.top1_error for r in each] for n, each in results.items()}
    if classes > 5:
        by_crops = {f"{_crops(n)}, top-5": [r.top5_error for r in each] for n, each in results.items()}
        pairs = zip(columns.items(), by_crops.items(), strict=True)
        columns = dict(column for pair in pairs for column in pair)
    cells = [[name, *(f"{errors[i]:.2%}" for errors in columns.values())] for i, name in enumerate(rows)]
    return text_table(["error", *columns], cells)


def _corruptions_text(name: str, classes: int, errors: CorruptionErrors) -> str:
    """Returns a table of top-1 errors by corruption and severity, and mCE."""
    rows = []
    for corruption, by_severity in errors.by_severity.items():
        mean, published = errors.means.get(corruption), ALEXNET_ERRORS.get(corruption)
        relative = mean / published if mean is not None and published else None
        values = [*map(by_severity.get, SEVERITIES), mean, relative]
        rows.append([corruption, *(percent(value, 1) for value in values)])
    table = text_table(["", *map(str, SEVERITIES), "mean", "relative"], rows)
    lines = [f"{name}: top-1 error by corruption and severity", table]
    if errors.mce is None:
        lines.append(f"mCE needs all 15 corruptions; missing: {', '.join(errors.missing)}")
    else:
        lines.append(f"mCE, relative to AlexNet's published errors: {errors.mce:.1%}")
        if classes < 1000:
            lines.append(f"only {classes} of ImageNet's 1,000 classes: not comparable with published mCE")
    return "\n".join(lines)


def results_json(
    test_set: TestSet, model: TrainedModel, match: ClassMatch, results: SetResults, crops: Sequence[int]
) -> dict[str, Any]:
    """Returns the scores as values for JSON; a number that is not finite is null.

    Errors are fractions. `confusion` has a row for each of `classes` and a column for each of `model_classes`; it is
    null for more than MOST_CELLS.

    Args:
        test_set: that was scored.
        model: one of the models: all have the same classes.
        match: the set's classes among these.
        results: the scores.
        crops: the numbers of crops to show.
    """
    classes = [model.labels[index] for index in match.indices]
    return {
        "data": str(test_set.root),
        "form": test_set.form,
        "images": results.images,
        "left_out": results.skipped,
        "matched_by": match.how,
        "classes": classes,
        "identities": [each.identity for each in test_set.classes],
        "model_classes": list(model.labels),
        "model_identities": list(model.classes),
        "results": [
            {"run": name, "crops": n, **_result_json(result, classes, model.labels)}
            for n in crops
            for name, result in zip(results.rows, results.by_crops[n], strict=True)
        ],
    }


def _result_json(result: SetResult, classes: Sequence[str], model_classes: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = _errors_json(result.errors)
    if result.among_set:
        values["among_set_classes"] = _errors_json(result.among_set)
    if result.real:
        values["real"] = {"images": result.real[0], "top1_error": result.real[1]}
    if errors := result.corruptions:
        values["corruptions"] = {
            name: {"mean": errors.means.get(name), **{str(s): error for s, error in by_severity.items()}}
            for name, by_severity in errors.by_severity.items()
        }
        values["mce"], values["mce_lacks"] = errors.mce, errors.missing
    confusion = result.confusion
    return values | {
        "class_images": confusion.images.tolist(),
        "class_errors": [_finite(error) for error in confusion.class_errors().tolist()],
        "most_confused": [
            {"class": classes[pair.label], "taken_for": model_classes[pair.predicted], "images": pair.images}
            for pair in confusion.most_confused()
        ],
        "confusion": confusion.counts.tolist() if len(classes) * len(model_classes) <= MOST_CELLS else None,
    }


def _errors_json(errors: EvalResult) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in vars(errors).items()}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
