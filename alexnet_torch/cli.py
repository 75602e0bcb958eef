"""python -m alexnet_torch: what can be done with a trained run."""

import json as json_format
import sys
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any

import tyro

from alexnet_torch.errors import UserError
from alexnet_torch.settings import one_line_errors

PROGRAM = "python -m alexnet_torch"

Devices = Annotated[str | None, tyro.conf.arg(metavar="NAME[,NAME]", help_behavior_hint="(default: best)")]


def predict_command(
    run: tyro.conf.Positional[str],
    images: tyro.conf.Positional[tuple[str, ...]],
    json: bool = False,
    devices: Devices = None,
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


def features_command(
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")],
    output: Annotated[str, tyro.conf.arg(metavar="FILE.npy|FILE.safetensors")],
    stage: Annotated[str, tyro.conf.arg(metavar="NAME")] = "fc7",
    skip_bad: bool = False,
    batch_size: int = 64,
    devices: Devices = None,
) -> None:
    """Write a stage's output for all images of a folder into one file.

    Args:
        run: A run's folder, with model.pt and model.json.
        folder: A folder of images, nested in any way.
        output: The file to write; a .npy file gets a .json with file and class names beside it.
        stage: The stage's name, from conv1 to fc8 in the paper's network.
        skip_bad: Leave out files that cannot be read, instead of stopping with their list.
        batch_size: Images in a batch.
        devices: Devices, one for all towers or one for each: cpu, cuda:0 or cuda:0,cuda:1.
    """
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: must be 1 or more")
    from alexnet_torch.features import save_features
    from alexnet_torch.weights import load_model

    model = load_model(Path(run), devices.split(",") if devices else None)
    listing, row = save_features(model, Path(folder), stage, Path(output), skip_bad, batch_size)
    print(f"{output}: {stage} of {len(listing.files)} images, float32 {(len(listing.files), *row)}")


def figures_command(
    runs: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)")
    ],
    output: Annotated[str | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: RUN/figures)")] = None,
    data: Annotated[
        str | None, tyro.conf.arg(metavar="DIR|digits|none", help_behavior_hint="(default: the run's)")
    ] = None,
    image: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="FILE [FILE ...]", help_behavior_hint="(default: none)")
    ] = (),
    seed: int = 0,
    devices: Devices = None,
) -> None:
    """Draw the paper's figures of runs: filters, labels, neighbours, and curves; measure filters' colourfulness.

    Args:
        runs: Runs' folders; their curves are drawn together.
        output: Where PNG and SVG files go.
        data: The images that the run was trained on; none: draw what takes no images.
        image: Image files to show in place of eight validation images.
        seed: Of the choice of validation images.
        devices: Devices, one for all towers or one for each: cpu, cuda:0 or cuda:0,cuda:1.
    """
    if not runs:
        raise UserError("figures: name at least one run's folder")
    if seed < 0:
        raise UserError(f"--seed {seed}: must be 0 or more")
    from alexnet_torch.figures.draw import Order, draw

    draw(
        Order(
            tuple(map(Path, runs)),
            Path(output) if output else None,
            data,
            tuple(map(Path, image)),
            seed,
            tuple(devices.split(",")) if devices else None,
        )
    )


def _deferred(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """The command, parsed but not run yet: what it says to stderr must not be taken for a wrong command line."""

    @wraps(command)
    def parsed(*given: Any, **options: Any) -> Callable[[], None]:
        return partial(command, *given, **options)

    return parsed


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    app = tyro.extras.SubcommandApp()
    for name, command in (("predict", predict_command), ("features", features_command), ("figures", figures_command)):
        app.command(name=name)(_deferred(command))
    try:
        with one_line_errors(PROGRAM):
            work = app.cli(args=arguments, prog=PROGRAM, config=(tyro.conf.FlagCreatePairsOff,))
        work()
    except UserError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped", file=sys.stderr)
        return 130
    return 0
