"""The settings and images of a run that has been trained."""

import json
from pathlib import Path
from typing import Any

from alexnet_torch.data.digits import data_folder
from alexnet_torch.data.prepare import prepare
from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.data.sources.class_names import same_names
from alexnet_torch.data.sources.val_split import ValSplit
from alexnet_torch.errors import UserError
from alexnet_torch.run_folder import CONFIG
from alexnet_torch.weights.model_file import TrainedModel

NO_DATA = "none"  # the value of --data for what needs no images


def read_config(run: Path) -> dict[str, Any]:
    """Returns the content of a run's config.json; nothing without that file, as for imported weights.

    Raises:
        UserError: it is no configuration.
    """
    path = run / CONFIG
    if not path.exists():
        return {}
    try:
        config = dict(json.loads(path.read_text()))
        dict(config["settings"])
        return config
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); restore it") from error


def images_of_run(run: Path, model: TrainedModel, data: str | None) -> PreparedImages | None:
    """Returns the images that a run was trained on, or those that `data`, a value of --data, names.

    Returns None if they are unknown, as for imported weights, or `data` is "none".

    Raises:
        UserError: the images cannot be prepared, or have other classes than the model.
    """
    settings = read_config(run).get("settings", {})
    data = data or settings.get("data")
    if data is None or data == NO_DATA:
        return None
    side = model.mean.shape[0]
    cache, skip_bad = settings.get("cache", "auto"), settings.get("skip_bad", False)
    fraction = settings.get("val_split") if data == settings.get("data") else None
    val_split = None if fraction is None else ValSplit(fraction, settings["seed"])
    prepared = prepare(data_folder(data), side, cache, skip_bad, val_split=val_split, former_classes=model.classes)
    if not same_names(prepared.classes, model.classes):
        raise UserError(f"--data {data}: its classes differ from those of {run}; name the images it was trained on")
    return prepared
