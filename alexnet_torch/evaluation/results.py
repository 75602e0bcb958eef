"""Scores of models on a test set, which evaluate writes: one JSON document, or its tables, and a CSV file."""

import csv
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alexnet_torch.console import text_table
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.metrics import Confusion, Scores
from alexnet_torch.evaluation.robustness import ALEXNET_ERRORS, SEVERITIES, corruption_errors
from alexnet_torch.evaluation.runs import percent
from alexnet_torch.evaluation.scoring import ImageBatch, LogProbs, require_finite, score
from alexnet_torch.evaluation.test_sets import ClassMatch, TestSet, image_batches
from alexnet_torch.files import atomic_file, writing
from alexnet_torch.weights.model_file import TrainedModel

logger = logging.getLogger(__name__)

MOST_CELLS = 25_000_000  # of a confusion matrix in a JSON document


def score_test_set(
    models: Mapping[str, TrainedModel],
    test_set: TestSet,
    match: ClassMatch,
    crops: Sequence[int] = (1, 10),
    real: Sequence[set[int]] | None = None,
    csv_file: Path | None = None,
    skip_bad: bool = False,
    cache: str = "auto",
    with_confusion: bool = True,
) -> dict[str, Any]:
    """Scores models, by name, of the same classes and their average on a test set; returns values for JSON.

    The CSV file has a row for each image: the predictions of the average, over the most crops.
    """
    networks, names, keys = list(models.values()), list(models), test_set.split.keys
    indices, labels, skipped = torch.from_numpy(match.indices), networks[0].labels, list[str]()
    classes, most = [labels[index] for index in match.indices], min(5, len(labels))
    with _csv_writer(csv_file, most) as writer:

        def watch(batch: ImageBatch, log_probs: LogProbs) -> None:
            assert batch.indices is not None
            files = [keys[i] for i in batch.indices.tolist()]
            for of_crops in log_probs.values():
                for name, values in zip(names, of_crops, strict=False):
                    require_finite(values, [f"{name}: {file}" for file in files])
            if writer:
                top = log_probs[max(crops)][-1].topk(most, dim=1)
                columns = batch.labels.tolist(), top.indices.tolist(), top.values.exp().tolist()
                for file, label, best, values in zip(files, *columns, strict=True):
                    numbers = [f"{value:.6g}" for value in values]
                    writer.writerow([file, classes[label], *(labels[i] for i in best), *numbers])

        batches = image_batches(test_set, networks, cache, skip_bad, skipped)
        scores = score(networks, batches, max(crops), indices, watch=watch) or {}

    def result(name: str, crops: int, each: Scores) -> dict[str, Any]:
        found, scored = each.predictions(len(keys)), each.result()
        if line := scored.warning(labels):
            logger.warning("%s, %s: %s", name, _crops({"crops": crops}), line)
        values: dict[str, Any] = {"run": name, "crops": crops, **scored.values()}
        if each.among_set:
            values["among_set_classes"] = each.among_set.result().values()
        if real:
            pairs = [(guess, real[i]) for guess, i in zip(found.predicted, found.indices, strict=True) if real[i]]
            wrong = sum(guess not in right for guess, right in pairs)
            values["real"] = {"images": len(pairs), "top1_error": wrong / len(pairs) if pairs else None}
        if test_set.group_of is not None:
            is_wrong = match.indices[found.labels] != found.predicted
            group_of, groups = test_set.group_of[found.indices], test_set.groups
            values |= corruption_errors({groups[i]: is_wrong[group_of == i].mean() for i in np.unique(group_of)})
        confusion, cells = Confusion(found, match.indices, len(labels)), len(classes) * len(labels)
        confused, errors = confusion.most_confused(), confusion.class_errors()
        return values | {
            "class_images": confusion.images.tolist(),
            "class_errors": [None if np.isnan(error) else error for error in errors.tolist()],
            "most_confused": [{"class": classes[i], "taken_for": labels[j], "images": n} for i, j, n in confused],
            "confusion": confusion.counts.tolist() if with_confusion and cells <= MOST_CELLS else None,
        }

    rows = [*names, f"average of {len(names)}"] if len(names) > 1 else names
    return {
        "data": str(test_set.source.root),
        "form": test_set.source.form,
        "images": len(keys) - len(skipped),
        "left_out": skipped,
        "matched_by": match.how,
        "classes": classes,
        "identities": [each.identity for each in test_set.source.classes],
        "model_classes": list(labels),
        "model_identities": list(networks[0].classes),
        "results": [result(name, n, each) for n in crops for name, each in zip(rows, scores[n], strict=True)],
    }


@contextmanager
def _csv_writer(path: Path | None, most: int) -> Iterator[Any]:
    """Yields a csv.writer of a file that appears if nothing is raised; names keep all bytes."""
    if path is None:
        yield None
        return
    if path.is_dir():  # else noticed at the end
        raise UserError(f"--csv {path}: is a folder; name a file")
    with writing(f"--csv {path}"), atomic_file(path) as file:
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        writer, numbers = csv.writer(text, lineterminator="\n"), range(1, most + 1)
        writer.writerow(["file", "label", *(f"guess{i}" for i in numbers), *(f"probability{i}" for i in numbers)])
        yield writer
        text.detach()  # writes what it holds


def tables(document: Mapping[str, Any]) -> str:
    results, own, of_model = document["results"], len(document["classes"]), len(document["model_classes"])
    parts = [error_table(results, of_model)]
    if own < of_model:
        parts.insert(0, f"among the model's {of_model:,} classes:")
        parts += [f"among the set's {own:,} classes:", error_table([r | r["among_set_classes"] for r in results], own)]
    for each in results:
        if real := each.get("real"):
            error = f"{each['run']}: {_crops(each)}, error by ReaL labels {percent(real['top1_error'], 1)}"
            parts.append(f"{error} of {real['images']:,} images that have some")
        if "corruptions" in each:
            parts += _corruption_lines(each, own)
    if skipped := document["left_out"]:
        parts.append(f"{len(skipped):,} unreadable image(s) left out, such as {skipped[0]}")
    return "\n".join(parts)


def _crops(result: Mapping[str, Any]) -> str:
    return "centre crop" if result["crops"] == 1 else f"{result['crops']} crops"


def error_table(results: Sequence[Mapping[str, Any]], classes: int) -> str:
    rows, headings = dict[str, list[str]](), dict[str, None]()
    for result in results:
        for k in (1, 5) if classes > 5 else (1,):
            headings[f"{_crops(result)}, top-{k}"] = None
            rows.setdefault(result["run"], [result["run"]]).append(percent(result[f"top{k}_error"]))
    return text_table(["error", *headings], list(rows.values()))


def _corruption_lines(result: Mapping[str, Any], classes: int) -> list[str]:
    rows, severities = [], list(map(str, SEVERITIES))
    for name, errors in result["corruptions"].items():
        mean, alexnet = errors["mean"], ALEXNET_ERRORS.get(name)
        relative = mean / alexnet if mean is not None and alexnet else None
        rows.append([name, *(percent(value, 1) for value in (*map(errors.get, severities), mean, relative))])
    table = text_table(["", *severities, "mean", "relative"], rows)
    lines = [f"{result['run']}: top-1 error by corruption and severity", table]
    if result["mce"] is None:
        return [*lines, f"mCE needs all 15 corruptions; missing: {', '.join(result['mce_lacks'])}"]
    lines.append(f"mCE, relative to AlexNet's published errors: {result['mce']:.1%}")
    few = f"only {classes} of ImageNet's 1,000 classes: not comparable with published mCE"
    return [*lines, few] if classes < 1000 else lines
