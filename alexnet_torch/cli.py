"""The commands of python -m alexnet_torch: what a trained run can be used for.

Each command imports what it calls when it runs: torch takes seconds to import, which --help and a wrong command line
do not need.
"""

import json as json_format
import sys
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from alexnet_torch.errors import UserError
from alexnet_torch.malloc import reuse_freed_memory
from alexnet_torch.recipes.command_line import one_line_errors

if TYPE_CHECKING:
    from alexnet_torch.weights.model_file import TrainedModel

PROGRAM = "python -m alexnet_torch"


def _shown(metavar: str, hint: str | None = None, help: str | None = None) -> Any:
    """Returns how --help shows an option: its values, a hint, and its help if the docstring has none."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint and f"({hint})", help=help)


Run = Annotated[Path, Positional, _shown("RUN", help="A run's folder, with model.pt and model.json.")]
Devices = Annotated[
    str | None,
    _shown("NAME[,NAME]", "default: best", "One device for all towers, or one for each: cpu, cuda:0 or cuda:0,cuda:1."),
]
SkipBad = Annotated[
    bool, tyro.conf.arg(help="Leave out files that cannot be read, instead of stopping with a list of them.")
]


def predict_command(
    run: Run,
    images: Annotated[tuple[Path, ...], Positional, _shown("FILE [FILE ...]", "required")],
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

    for file, predictions in predict(_load_model(run, devices), images):
        if json:
            print(json_format.dumps({"file": str(file), "classes": predictions}))
            continue
        print(file)
        for prediction in predictions:
            print(f"  {prediction['probability']:7.2%}  {prediction['label']}")


def _load_model(run: Path, devices: str | None) -> "TrainedModel":
    """Loads a run's model onto the devices that --devices names."""
    import torch

    from alexnet_torch.weights.model_file import load_model

    model = load_model(run, devices.split(",") if devices else None)
    model.net.to(memory_format=torch.channels_last)  # the convolutions' format: else each batch converts the weights
    return model


def evaluate_command(
    runs: Annotated[tuple[Path, ...], Positional, _shown("RUN [RUN ...]", "required")],
    data: Annotated[str, _shown("DIR|digits")],
    crops: Annotated[Literal[1, 5, 10] | None, _shown("1|5|10", "default: 1 and 10; 5 for --no-mirror runs")] = None,
    devices: Devices = None,
    cache: Annotated[str, _shown("DIR|auto|none")] = "auto",
    skip_bad: SkipBad = False,
) -> None:
    """Test runs on a folder's val/ images: each run, and the average of several.

    Args:
        runs: Runs' folders, with model.pt and model.json, of the same classes.
        data: A folder as for training, or "digits".
        crops: 1, the centre crop; 5, with the corners; or 10, with mirror images, as in the paper.
        cache: Where to store decoded images, as in training: a folder, auto or none.
    """
    if not runs:
        raise UserError("evaluate: name at least one run's folder")
    if len({run.resolve() for run in runs}) < len(runs):
        raise UserError("evaluate: the same run is named twice; name each run once")
    from alexnet_torch.data.digits import data_folder
    from alexnet_torch.data.prepare import prepare
    from alexnet_torch.evaluation.evaluate import check_same_classes, evaluate_models
    from alexnet_torch.evaluation.metrics import error_table
    from alexnet_torch.evaluation.multi_crop import default_num_crops

    names, models = [str(run) for run in runs], [_load_model(run, devices) for run in runs]
    check_same_classes({name: model.classes for name, model in zip(names, models, strict=True)})
    sides = {model.mean.shape[0] for model in models}
    prepared = {side: prepare(data_folder(data), side, cache, skip_bad) for side in sides}
    data_classes = {f"--data {data}": images.classes for images in prepared.values()}
    check_same_classes({names[0]: models[0].classes} | data_classes)
    results = evaluate_models(models, prepared, crops or default_num_crops(models))
    assert results is not None  # only a stop signal makes it None, and none is passed
    print(error_table(names, {n: result for n, result in results.items() if crops in (None, n)}))


def import_command(
    file: Annotated[Path, Positional, _shown("FILE")],
    output: Annotated[Path, _shown("RUN")],
    classes: Annotated[Path | None, _shown("FILE", "default: detected")] = None,
    architecture: Annotated[str | None, _shown("NAME", "default: detected")] = None,
    inputs: Annotated[str | None, _shown("rgb|caffe|imagenet", "default: detected")] = None,
    mean: Annotated[str | None, _shown("R,G,B|FILE", "default: ImageNet's; required for rgb")] = None,
    image_size: Annotated[int | None, _shown("N", "default: detected")] = None,
    key: Annotated[str | None, _shown("NAME", "default: the only one")] = None,
) -> None:
    """Make a run's folder from a file of weights: of Caffe, ONNX, torchvision, another state dict, or safetensors.

    Args:
        file: A .caffemodel, .onnx or .safetensors file, or one that torch.load reads without unpickling.
        output: The folder to make, with model.pt and model.json.
        classes: A file with one class name on each line.
        architecture: paper, source_2012, caffe, tensorflow_post or torchvision.
        inputs: The images that the weights expect: RGB of 0..255 less the mean, the same in BGR, or torchvision's.
        mean: The mean to subtract: a colour of 0..255, a .binaryproto or a .npy file.
        image_size: Height and width of the network's images, in pixels.
        key: Which network of a checkpoint with several, such as model or ema.
    """
    from alexnet_torch.weights.import_model import ImportOptions, import_model
    from alexnet_torch.weights.model_file import save_new_model

    model, messages = import_model(file, ImportOptions(architecture, inputs, mean, image_size, key), classes)
    save_new_model(output, model)
    print("\n".join([*messages, f"the model is in {output}"]))


def export_command(
    run: Run,
    file: Annotated[Path, Positional, _shown("FILE")],
    format: Annotated[str | None, _shown("safetensors|grouped|torchvision|onnx|pt2", "default: from suffix")] = None,
) -> None:
    """Write a run's model to a file for other programs.

    Args:
        file: .safetensors; .pt, a state dict with both towers in each tensor; .onnx; .pt2 of torch.export.
        format: The file's format.
    """
    from alexnet_torch.weights.export_model import export_model
    from alexnet_torch.weights.model_file import load_model

    inputs = export_model(load_model(run, ["cpu"]), file, format)
    print(f"{file}: reads {inputs}")


def features_command(
    run: Run,
    folder: Annotated[Path, Positional, _shown("DIR")],
    output: Annotated[Path, _shown("FILE.npy|FILE.safetensors|FILE.h5")],
    stage: Annotated[str, _shown("NAME[,NAME]")] = "fc7",
    files: Annotated[Path | None, _shown("LIST.txt", "default: all, sorted")] = None,
    per_tower: bool = False,
    skip_bad: SkipBad = False,
    batch_size: Annotated[int, _shown("N")] = 64,
    devices: Devices = None,
) -> None:
    """Write stages' outputs for all images of a folder, or for a list of them, into one file.

    Args:
        folder: A folder of images, nested in any way.
        output: The file to write; a .npy file gets a .json with file and class names beside it.
        stage: Stages, from conv1 to fc8 in the paper's network, for example conv5,fc7 or conv1..conv5.
        files: A text file with the path of an image in DIR on each line, in the order that the rows get.
        per_tower: Write an array for each tower, instead of one with the channels of both.
        batch_size: Images in a batch.
    """
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: must be 1 or more")
    from alexnet_torch.evaluation.features import FeatureRequest, save_features
    from alexnet_torch.model.stage_names import parse_stages
    from alexnet_torch.run_folder import MODEL_DESCRIPTION, MODEL_WEIGHTS

    model = _load_model(run, devices)
    stages = parse_stages("--stage", stage, model.net.architecture.stage_names) or ()
    request = FeatureRequest(folder, output, stages, files, per_tower, skip_bad, batch_size)
    metadata, arrays = save_features(model, request, [run / MODEL_WEIGHTS, run / MODEL_DESCRIPTION])
    for array in arrays:
        name = array.name if len(arrays) > 1 else stage
        print(f"{output}: {name} of {len(metadata.files)} images, float32 {(len(metadata.files), *array.shape)}")


def figures_command(
    runs: Annotated[tuple[Path, ...], Positional, _shown("RUN [RUN ...]", "required")],
    output: Annotated[Path | None, _shown("DIR", "default: RUN/figures")] = None,
    data: Annotated[str | None, _shown("DIR|digits|none", "default: the run's")] = None,
    image: Annotated[tuple[Path, ...], _shown("FILE [FILE ...]", "default: none")] = (),
    seed: Annotated[int, _shown("N")] = 0,
    devices: Devices = None,
) -> None:
    """Draw the paper's figures for runs: filters, labels, neighbours, and curves; measure filters' colourfulness.

    Args:
        runs: Runs' folders; their curves are drawn in one figure.
        output: Where to write PNG and SVG files.
        data: The images that the run was trained on; none: draw only the figures that need no images.
        image: Image files to show instead of eight validation images.
        seed: Seed of the choice of validation images.
    """
    if not runs:
        raise UserError("figures: name at least one run's folder")
    if seed < 0:
        raise UserError(f"--seed {seed}: must be 0 or more")
    from alexnet_torch.evaluation.figures.draw import FigureOptions, draw_figures

    draw_figures(FigureOptions(runs, output, data, image, seed, tuple(devices.split(",")) if devices else None))


def _parse_only(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """Returns the command for tyro to parse but not to run, so that `one_line_errors` sees only tyro's messages."""

    @wraps(command)
    def parsed(*values: Any, **options: Any) -> Callable[[], None]:
        return partial(command, *values, **options)

    return parsed


COMMANDS: dict[str, Callable[..., None]] = {
    "predict": predict_command,
    "evaluate": evaluate_command,
    "import": import_command,
    "export": export_command,
    "figures": figures_command,
    "features": features_command,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command that the arguments (by default sys.argv) name; returns the exit status."""
    app = tyro.extras.SubcommandApp()
    for name, command in COMMANDS.items():
        app.command(name=name)(_parse_only(command))
    try:
        with one_line_errors(PROGRAM):
            run_command = app.cli(args=arguments, prog=PROGRAM, config=(tyro.conf.FlagCreatePairsOff,))
        reuse_freed_memory()
        run_command()
    except UserError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped", file=sys.stderr)
        return 130
    return 0
