"""Scores of models on a test set, and what evaluate writes of them: tables, one JSON document, a CSV file."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

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
    """The scores of a model, or of an average, on a test set, with a number of crops."""

    name: str
    crops: int
    errors: EvalResult  # among all of the model's classes
    among_set: EvalResult | None  # among the set's classes, if the set lacks some of the model's
    confusion: Confusion  # rows: the set's classes; columns: the model's
    corruptions: CorruptionErrors | None  # of ImageNet-C
    real: tuple[int, float | None] | None  # images with ReaL labels, and the fraction predicted as none of theirs


@dataclass(frozen=True)
class SetScores:
    """Scores by number of crops, of each model in order and, if there are several, of their average."""

    test_set: TestSet
    model: TrainedModel  # one of the models: all have the same classes
    match: ClassMatch  # the set's classes among these
    results: list[SetResult]
    skipped: list[str]  # messages about images that were left out

    def text(self) -> str:
        """Returns the tables of errors in %: among all classes and the set's, by ReaL labels, of corruptions."""
        own, of_model = len(self.match.indices), self.match.model_classes
        parts = [_error_table([(r.name, r.crops, r.errors) for r in self.results], of_model)]
        if self.match.is_subset:
            among_set = [(r.name, r.crops, r.among_set) for r in self.results if r.among_set]
            parts.insert(0, f"among the model's {of_model:,} classes:")
            parts += [f"among the set's {own:,} classes:", _error_table(among_set, own)]
        for each in self.results:
            if each.real:
                error = f"{each.name}: {_crops(each.crops)}, error by ReaL labels {percent(each.real[1], 1)}"
                parts.append(f"{error} of {each.real[0]:,} images that have some")
            if each.corruptions:
                parts.append(_corruptions_text(each.name, own, each.corruptions))
        if self.skipped:
            parts.append(f"{len(self.skipped):,} unreadable image(s) left out, such as {self.skipped[0]}")
        return "\n".join(parts)

    def json_values(self) -> dict[str, Any]:
        """Returns the scores as values for JSON: errors as fractions, null for a number that is not finite.

        `confusion` has a row for each of `classes` and a column for each of `model_classes`; null above MOST_CELLS.
        """
        labels, test_set = self.model.labels, self.test_set
        classes = [labels[index] for index in self.match.indices]
        return {
            "data": str(test_set.source.root),
            "form": test_set.source.form,
            "images": len(test_set.split) - len(self.skipped),
            "left_out": self.skipped,
            "matched_by": self.match.how,
            "classes": classes,
            "identities": [each.identity for each in test_set.source.classes],
            "model_classes": list(labels),
            "model_identities": list(self.model.classes),
            "results": [_result_json(each, classes, labels) for each in self.results],
        }


def score_test_set(
    models: Mapping[str, TrainedModel],
    test_set: TestSet,
    match: ClassMatch,
    crops: Sequence[int] = (1, 10),
    real: RealLabels | None = None,
    csv_file: Path | None = None,
    skip_bad: bool = False,
    cache: str = "auto",
) -> SetScores:
    """Scores models, by name, of the same classes and their average on a test set, which is decoded once for all.

    A row for each image goes into `csv_file`: predictions of the average, if there are several models, over the most
    of `crops`, which has at most one number besides 1. A UserError says which network's outputs are not finite.
    """
    networks, names, keys = list(models.values()), list(models), test_set.split.keys
    classes, labels, skipped = torch.from_numpy(match.indices), networks[0].labels, list[str]()
    most = min(5, len(labels))
    with _csv_writer(csv_file, most) as writer:

        def watch(batch: ImageBatch, log_probs: LogProbs) -> None:
            assert batch.indices is not None
            files = [keys[i] for i in batch.indices.tolist()]
            for of_crops in log_probs.values():
                for name, values in zip(names, of_crops, strict=False):
                    require_finite(values, [f"{name}: {file}" for file in files])
            if writer:
                top = log_probs[max(crops)][-1].topk(most, dim=1)
                columns = classes[batch.labels].tolist(), top.indices.tolist(), top.values.exp().tolist()
                for file, label, best, probabilities in zip(files, *columns, strict=True):
                    numbers = [f"{probability:.6g}" for probability in probabilities]
                    writer.writerow([file, labels[label], *(labels[i] for i in best), *numbers])

        batches = image_batches(test_set, networks, cache, skip_bad, skipped)
        scores = score(networks, batches, max(crops), classes, watch=watch) or {}

    def result(name: str, crops: int, each: Scores) -> SetResult:
        predictions = each.predictions(len(keys))
        corruptions = counted = None
        if test_set.group_of is not None:
            is_wrong = match.indices[predictions.labels] != predictions.predicted
            group_of = test_set.group_of[predictions.indices]
            corruptions = CorruptionErrors.of_groups(test_set.groups, group_of, is_wrong)
        if real:
            images, wrong = real.count([keys[i] for i in predictions.indices.tolist()], predictions.predicted)
            counted = images, wrong / images if images else None
        among_set = each.among_set.result() if each.among_set else None
        confusion = Confusion(predictions, match.indices, len(labels))
        return SetResult(name, crops, each.result(), among_set, confusion, corruptions, counted)

    rows = [*names, f"average of {len(names)}"] if len(names) > 1 else names
    results = [result(name, n, each) for n in crops for name, each in zip(rows, scores[n], strict=True)]
    return SetScores(test_set, networks[0], match, results, skipped)


@contextmanager
def _csv_writer(path: Path | None, most: int) -> Iterator[Any]:
    """Yields a csv.writer of a file that appears if the block raises nothing; names keep bytes that are not UTF-8."""
    if path is None:
        yield None
        return
    if path.is_dir():
        raise UserError(f"--csv {path}: is a folder; name a file")
    with writing(f"--csv {path}"), atomic_file(path) as file:
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        writer, numbers = csv.writer(text, lineterminator="\n"), range(1, most + 1)
        writer.writerow(["file", "label", *(f"guess{i}" for i in numbers), *(f"probability{i}" for i in numbers)])
        yield writer
        text.detach()  # writes what it holds


def _crops(number: int) -> str:
    return "centre crop" if number == 1 else f"{number} crops"


def _error_table(results: Sequence[tuple[str, int, EvalResult]], classes: int) -> str:
    """Returns a table of errors in %, a column for each number of crops; without top-5 errors of few classes."""
    rows, headings = dict[str, list[str]](), dict[str, None]()
    for name, crops, errors in results:
        shown = {1: errors.top1_error, 5: errors.top5_error} if classes > 5 else {1: errors.top1_error}
        headings |= dict.fromkeys(f"{_crops(crops)}, top-{k}" for k in shown)
        rows.setdefault(name, [name]).extend(map(percent, shown.values()))
    return text_table(["error", *headings], list(rows.values()))


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


def _result_json(result: SetResult, classes: Sequence[str], model_classes: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {"run": result.name, "crops": result.crops, **_errors_json(result.errors)}
    if result.among_set:
        values["among_set_classes"] = _errors_json(result.among_set)
    if result.real:
        values["real"] = dict(zip(("images", "top1_error"), result.real, strict=True))
    if errors := result.corruptions:
        values["corruptions"] = {
            name: {"mean": errors.means.get(name), **{str(s): error for s, error in by_severity.items()}}
            for name, by_severity in errors.by_severity.items()
        }
        values["mce"], values["mce_lacks"] = errors.mce, errors.missing
    confusion, cells = result.confusion, len(classes) * len(model_classes)
    values["class_images"] = confusion.images.tolist()
    values["class_errors"] = [None if math.isnan(error) else error for error in confusion.class_errors()]
    values["most_confused"] = [
        {"class": classes[pair.label], "taken_for": model_classes[pair.predicted], "images": pair.images}
        for pair in confusion.most_confused()
    ]
    values["confusion"] = confusion.counts.tolist() if cells <= MOST_CELLS else None
    return values


def _errors_json(errors: EvalResult) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in vars(errors).items()}
