"""predict: the most probable classes of image files."""

import json as json_format
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from alexnet_torch.commands.options import Devices, Run, load_run, shown
from alexnet_torch.errors import UserError


def predict_command(
    run: Run,
    images: Annotated[tuple[Path, ...], Positional, shown("FILE [FILE ...]", "required")],
    json: bool = False,
    devices: Devices = None,
) -> None:
    """Print the five most probable classes of image files.

    Args:
        images: Image files.
        json: Print one line of JSON for each image.
    """
    if not images:
        raise UserError(f"predict: name at least one image file after {run}")
    from alexnet_torch.evaluation.predict import predict

    for file, predictions in predict(load_run(run, devices), images):
        if json:
            print(json_format.dumps({"file": str(file), "classes": predictions}, allow_nan=False))
            continue
        print(file)
        for prediction in predictions:
            print(f"  {prediction['probability']:7.2%}  {prediction['label']}")
