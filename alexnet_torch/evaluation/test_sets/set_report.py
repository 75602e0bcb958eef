"""What evaluate prints of a test set's scores: tables for people, or one JSON document."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alexnet_torch.evaluation.confusion import Confusion
from alexnet_torch.evaluation.metrics import EnsembleResult, EvalResult, error_table
from alexnet_torch.evaluation.test_sets.class_matching import ClassMatch
from alexnet_torch.evaluation.test_sets.imagenet_c import ALEXNET_ERRORS, SEVERITIES, CorruptionErrors
from alexnet_torch.evaluation.test_sets.score import SetResults
from alexnet_torch.evaluation.test_sets.set_scores import SetResult
from alexnet_torch.evaluation.test_sets.test_set import TestSet
from alexnet_torch.weights.model_file import TrainedModel


def row_names(models: Sequence[str]) -> list[str]:
    """Returns the names of the rows: of each model and, if there are several, of their average."""
    return [*models, f"average of {len(models)}"] if len(models) > 1 else list(models)


def results_text(
    test_set: TestSet, models: Sequence[str], match: ClassMatch, results: SetResults, crops: Sequence[int]
) -> str:
    """Returns the tables of errors in %: among all classes, among the set's, by ReaL labels, and of corruptions.

    Args:
        test_set: that was scored.
        models: names of the models.
        match: the set's classes among the models'.
        results: the scores.
        crops: the numbers of crops to show.
    """
    shown = {n: results.by_crops[n] for n in crops}
    among_all = f"among the model's {match.model_classes:,} classes"
    parts = [_table(among_all if match.is_subset else None, models, shown, lambda result: result.errors)]
    if match.is_subset:
        heading = f"among the set's {len(match.indices):,} classes"
        parts.append(_table(heading, models, shown, lambda result: result.errors_among_set))
    for n, per_model in shown.items():
        for name, result in zip(row_names(models), per_model, strict=True):
            if result.real:
                label = "centre crop" if n == 1 else f"{n} crops"
                parts.append(
                    f"{name}: {label}, error by ReaL labels {_percent(result.real.top1_error)} "
                    f"of {result.real.images:,} images that have some"
                )
            if test_set.groups:
                parts.append(_corruptions_text(name, test_set, result))
    if results.skipped:
        parts.append(f"{len(results.skipped):,} unreadable image(s) left out, such as {results.skipped[0]}")
    return "\n".join(parts)


def _table(heading: str | None, models: Sequence[str], shown: Mapping[int, list[SetResult]], errors: Any) -> str:
    by_crops = {}
    for n, per_model in shown.items():
        values: list[EvalResult] = [errors(result) for result in per_model]
        by_crops[n] = EnsembleResult(tuple(values[: len(models)]), values[-1])
    table = error_table(models, by_crops)
    return f"{heading}:\n{table}" if heading else table


def corruption_errors(test_set: TestSet, result: SetResult) -> CorruptionErrors:
    """Returns the errors of ImageNet-C's groups, which are named as "snow/3"."""
    by_severity: dict[str, dict[int, float]] = {}
    for group, error in zip(test_set.groups, result.group_errors.tolist(), strict=True):
        name, severity = group.rsplit("/", 1)
        if math.isfinite(error):
            by_severity.setdefault(name, {})[int(severity)] = error
    return CorruptionErrors(by_severity)


def _corruptions_text(name: str, test_set: TestSet, result: SetResult) -> str:
    """Returns a table of top-1 errors by corruption and severity, and mCE."""
    errors = corruption_errors(test_set, result)
    width = max(map(len, errors.by_severity))
    lines = [f"{name}: top-1 error by corruption and severity"]
    lines.append(f"{'':{width}}  " + "".join(f"{severity:>8}" for severity in SEVERITIES) + "    mean  relative")
    for corruption, by_severity in errors.by_severity.items():
        cells = "".join(f"{_percent(by_severity.get(severity)):>8}" for severity in SEVERITIES)
        mean, published = errors.means.get(corruption), ALEXNET_ERRORS.get(corruption)
        relative = mean / published if mean is not None and published else None
        lines.append(f"{corruption:{width}}  {cells}{_percent(mean):>8}{_percent(relative):>10}")
    if errors.mce is None:
        lines.append(f"mCE needs all 15 corruptions; missing: {', '.join(errors.missing)}")
    else:
        lines.append(f"mCE, relative to AlexNet's published errors: {errors.mce:.1%}")
        if len(test_set.classes) < 1000:
            lines.append(f"only {len(test_set.classes)} of ImageNet's 1,000 classes: not comparable with published mCE")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.1%}"


def results_json(
    test_set: TestSet,
    models: Sequence[str],
    model: TrainedModel,
    match: ClassMatch,
    results: SetResults,
    crops: Sequence[int],
) -> dict[str, Any]:
    """Returns the scores as values for JSON; a number that is not finite is null.

    Errors are fractions. `confusion` has a row for each of `classes` and a column for each of `model_classes`.

    Args:
        test_set: that was scored.
        models: names of the models.
        model: one of them: all have the same classes.
        match: the set's classes among these.
        results: the scores.
        crops: the numbers of crops to show.
    """
    labels = model.labels
    classes = [labels[index] for index in match.indices]
    scored = [
        {"run": name, "crops": n, **_result_json(test_set, result, classes, labels)}
        for n in crops
        for name, result in zip(row_names(models), results.by_crops[n], strict=True)
    ]
    return {
        "data": str(test_set.root),
        "form": test_set.form,
        "images": results.images,
        "left_out": list(results.skipped),
        "matched_by": match.how,
        "classes": classes,
        "identities": [each.identity for each in test_set.classes],
        "model_classes": list(labels),
        "model_identities": list(model.classes),
        "results": scored,
    }


def _result_json(
    test_set: TestSet, result: SetResult, classes: Sequence[str], model_classes: Sequence[str]
) -> dict[str, Any]:
    values: dict[str, Any] = _errors_json(result.errors)
    if result.errors_among_set:
        values["among_set_classes"] = _errors_json(result.errors_among_set)
    if result.real:
        values["real"] = {"images": result.real.images, "top1_error": finite(result.real.top1_error)}
    if test_set.groups:
        errors = corruption_errors(test_set, result)
        values["corruptions"] = {
            name: {"mean": errors.means.get(name), **{str(s): error for s, error in by_severity.items()}}
            for name, by_severity in errors.by_severity.items()
        }
        values["mce"], values["mce_lacks"] = errors.mce, errors.missing
    return values | confusion_json(result.confusion, classes, model_classes)


def confusion_json(confusion: Confusion, classes: Sequence[str], model_classes: Sequence[str]) -> dict[str, Any]:
    """Returns the error of each class, the confusion matrix and the most confused pairs, as values for JSON."""
    return {
        "class_images": confusion.images.tolist(),
        "class_errors": [finite(error) for error in confusion.class_errors().tolist()],
        "most_confused": [
            {"class": classes[pair.label], "taken_for": model_classes[pair.guess], "images": pair.images}
            for pair in confusion.most_confused()
        ],
        "confusion": confusion.counts.tolist(),
    }


def _errors_json(errors: EvalResult) -> dict[str, Any]:
    return {
        "loss": finite(errors.loss),
        "top1_error": finite(errors.top1_error),
        "top5_error": finite(errors.top5_error),
    }


def finite(value: float) -> float | None:
    """Returns the value, or None if it is not finite: JSON has no such numbers."""
    return value if np.isfinite(value) else None
