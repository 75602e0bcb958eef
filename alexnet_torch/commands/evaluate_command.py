"""evaluate: the errors of runs on images with known classes."""

import json as json_format
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional

from alexnet_torch.commands.options import Devices, SkipBad, load_run, shown
from alexnet_torch.errors import UserError

if TYPE_CHECKING:
    from alexnet_torch.evaluation.test_sets.test_set import TestSet
    from alexnet_torch.weights.model_file import TrainedModel


def evaluate_command(
    runs: Annotated[tuple[Path, ...], Positional, shown("RUN [RUN ...]", "required")],
    data: Annotated[str, shown("SET|digits")],
    crops: Annotated[Literal[1, 5, 10] | None, shown("1|5|10", "default: 1 and 10; 5 for --no-mirror runs")] = None,
    real: Annotated[Path | None, shown("FILE", "default: none")] = None,
    csv: Annotated[Path | None, shown("FILE", "default: none")] = None,
    json: bool = False,
    devices: Devices = None,
    cache: Annotated[str, shown("DIR|auto|none")] = "auto",
    skip_bad: SkipBad = False,
) -> None:
    """Test runs on a set of images: each run, and the average of several.

    Args:
        runs: Runs' folders, with model.pt and model.json, of the same classes.
        data: Class folders, a folder with val/, any data set for training, ImageNet-V2, -A, -R, -Sketch or -C, or
            "digits"; with the model's classes or some of them.
        crops: 1, the centre crop; 5, with the corners; or 10, with mirror images, as in the paper.
        real: Test on ImageNet's validation images by ReaL labels, too: their real.json.
        csv: Write a row for each image: file, label, five guesses, probabilities.
        cache: Where training may have stored the decoded images, as in training: a folder, auto or none.
        json: Print one JSON document, with the error of each class, the confusion matrix and the most confused pairs.
    """
    if not runs:
        raise UserError("evaluate: name at least one run's folder")
    if len({run.resolve() for run in runs}) < len(runs):
        raise UserError("evaluate: the same run is named twice; name each run once")
    from alexnet_torch.data.digits import data_folder
    from alexnet_torch.evaluation.evaluate import check_same_classes
    from alexnet_torch.evaluation.test_sets.class_matching import match_classes, model_identities
    from alexnet_torch.evaluation.test_sets.find_test_set import find_test_set
    from alexnet_torch.evaluation.test_sets.held_out import held_out_part
    from alexnet_torch.evaluation.test_sets.real_labels import RealLabels
    from alexnet_torch.evaluation.test_sets.score import ScoreOptions, score_models
    from alexnet_torch.evaluation.test_sets.set_report import results_json, results_text

    names, models = [str(run) for run in runs], [load_run(run, devices) for run in runs]
    check_same_classes({name: model.classes for name, model in zip(names, models, strict=True)})
    root = data_folder(data)
    test_set = find_test_set(root, held_out_part(runs, root), cache)
    first = models[0]
    match = match_classes(first.classes, names[0], test_set.classes, f"--data {data}", first.names)
    real_labels = RealLabels(real, model_identities(first.classes)) if real else None
    if real_labels:
        real_labels.check_names(test_set.split.keys)
    most = _most_crops(test_set, models, crops)
    logging.getLogger(__name__).warning(f"{test_set.describe()}; classes matched by {match.how}")
    results = score_models(models, names, test_set, match, ScoreOptions(most, real_labels, csv, skip_bad, cache))
    shown_crops = [n for n in results.by_crops if crops in (None, n)]
    if json:
        print(json_format.dumps(results_json(test_set, names, first, match, results, shown_crops), allow_nan=False))
    else:
        print(results_text(test_set, names, match, results, shown_crops))


def _most_crops(test_set: "TestSet", models: "list[TrainedModel]", crops: int | None) -> int:
    """Returns the largest number of crops to test: images that are centre crops already have no others."""
    from alexnet_torch.evaluation.multi_crop import default_num_crops

    if test_set.cropped_side is None:
        return crops or default_num_crops(models)
    if crops not in (None, 1):
        raise UserError(f"--crops {crops}: the images of {test_set.root} are centre crops already; use --crops 1")
    return 1
