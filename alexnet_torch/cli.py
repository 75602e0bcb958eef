"""python -m alexnet_torch: what can be done with a trained run."""

import json as json_format
import sys
from pathlib import Path
from typing import Annotated

import tyro

from alexnet_torch.errors import UserError
from alexnet_torch.settings import one_line_errors

PROGRAM = "python -m alexnet_torch"


def predict_command(
    run: tyro.conf.Positional[str],
    images: tyro.conf.Positional[tuple[str, ...]],
    json: bool = False,
    devices: Annotated[str | None, tyro.conf.arg(metavar="NAME[,NAME]", help_behavior_hint="(default: best)")] = None,
) -> None:
    """Print the five most probable classes of image files.

    Args:
        run: A run's folder, with model.pt and model.json.
        images: Image files.
        json: Print one line of JSON for each image.
        devices: Devices, one for all towers or one for each: cpu, cuda:0 or cuda:0,cuda:1.
    """
    if not images:
        raise UserError(f"predict: name at least one image file after {run}")
    # not at the top: torch takes seconds that --help can do without
    from alexnet_torch.prediction import predict
    from alexnet_torch.weights import load_model

    model = load_model(Path(run), devices.split(",") if devices else None)
    for file, guesses in predict(model, [Path(image) for image in images]):
        if json:
            print(json_format.dumps({"file": str(file), "classes": guesses}))
            continue
        print(file)
        for guess in guesses:
            print(f"  {guess['probability']:7.2%}  {guess['label']}")


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    app = tyro.extras.SubcommandApp()
    app.command(name="predict")(predict_command)
    try:
        with one_line_errors(PROGRAM):
            app.cli(args=arguments, prog=PROGRAM, config=(tyro.conf.FlagCreatePairsOff,))
    except UserError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    return 0
