"""The commands of python -m alexnet_torch: what a trained run can be used for.

Each imports what it calls when it runs: torch takes seconds to import, which --help and a wrong command line do not
need. Docstrings and annotations are what --help shows.
"""

import json as json_format
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from alexnet_torch.errors import UserError
from alexnet_torch.files import writing

if TYPE_CHECKING:
    from alexnet_torch.weights.model_file import TrainedModel

logger = logging.getLogger(__name__)


class Shown(NamedTuple):
    """How --help shows an option: its values, a hint, and its help if the docstring has none."""

    values: str | None = None
    hint: str | None = None
    help: str | None = None
    is_positional: bool = False


def _argument(values: str, hint: str | None = None, help: str | None = None) -> Shown:
    return Shown(values, hint, help, is_positional=True)


Run = Annotated[Path, _argument("RUN", help="A run's folder, with model.pt and model.json.")]
Runs = Annotated[tuple[Path, ...], _argument("RUN")]
Input = Annotated[Path, _argument("FILE")]
RunData = Annotated[str | None, Shown("DIR|digits|none", "default: the run's")]
Devices = Annotated[
    str | None,
    Shown("NAME[,NAME]", "default: best", "One device for all towers, or one for each: cpu, cuda:0 or cuda:0,cuda:1."),
]
SkipBad = Annotated[bool, Shown(help="Leave out files that cannot be read, instead of stopping with a list of them.")]
Seed = Annotated[int, Shown("N")]


def _load_run(run: Path, devices: str | None) -> "TrainedModel":
    import torch

    from alexnet_torch.weights.model_file import load_model

    model = load_model(run, devices.split(",") if devices else None)
    model.net.to(memory_format=torch.channels_last)  # the convolutions' format: else each batch converts the weights
    return model


def _require_at_least(least: int, **options: int | None) -> None:
    for name, value in options.items():
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be {least} or more")


def train_command() -> None:
    """Train a network on a folder of images."""  # only for the list: its options are in cli.py


def prepare_command(
    source: Annotated[str, _argument("SOURCE")],
    output: Annotated[Path, Shown("DIR")],
    image_size: Annotated[int, Shown("N")] = 224,
    skip_bad: SkipBad = False,
    val_split: Annotated[float | None, Shown("FRACTION", "default: none")] = None,
    seed: Seed = 0,
    workers: Annotated[int | None, Shown("N", "default: one for each core")] = None,
) -> None:
    """Decode a data set into a folder that --data takes, also on another machine, without the original images.

    Args:
        source: A data set in any form that --data takes, or "digits".
        output: The folder to make. If the command is interrupted, the same command continues.
        image_size: The network's image size: 224 for most recipes, 64 for demo.
        val_split: Part of each class's training images to validate with, where there are no validation images.
        seed: Decides, with the images' content, which images these are.
        workers: Processes that decode.
    """
    _require_at_least(1, image_size=image_size, workers=workers)
    _require_at_least(0, seed=seed)
    if val_split is not None and not 0 < val_split < 1:
        raise UserError(f"--val-split {val_split:g}: must be between 0 and 1, such as 0.1")
    from alexnet_torch.data.cache_build import prepare_ahead
    from alexnet_torch.data.decode import decoded_side
    from alexnet_torch.data.digits import data_folder
    from alexnet_torch.data.sources.val_split import ValSplit

    side, chosen = decoded_side(image_size), ValSplit(val_split, seed) if val_split else None
    try:
        prepare_ahead(data_folder(source), output.expanduser(), side, skip_bad, chosen, workers)
    except KeyboardInterrupt:
        logger.warning("interrupted: the same command continues")
        raise


def predict_command(
    run: Run,
    images: Annotated[tuple[Path, ...], _argument("FILE")],
    json: bool = False,
    devices: Devices = None,
) -> None:
    """Print the five most probable classes of image files.

    Args:
        images: Image files, or folders of them.
        json: Print one line of JSON for each image.
    """
    from alexnet_torch.evaluation.predict import predict

    for file, predictions in predict(_load_run(run, devices), images):
        if json:
            print(json_format.dumps({"file": str(file), "classes": predictions}, allow_nan=False))
            continue
        print(file)
        for prediction in predictions:
            print(f"  {prediction['probability']:7.2%}  {prediction['label']}")


def evaluate_command(
    runs: Runs,
    data: Annotated[str | None, Shown("SET|digits", "default: the run's")] = None,
    crops: Annotated[Literal[1, 5, 10] | None, Shown("1|5|10", "default: 1 and 10; 5 for --no-mirror runs")] = None,
    real: Annotated[Path | None, Shown("FILE", "default: none")] = None,
    csv: Annotated[Path | None, Shown("FILE", "default: none")] = None,
    json: bool = False,
    devices: Devices = None,
    cache: Annotated[str, Shown("DIR|auto|none")] = "auto",
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
    if len({run.resolve() for run in runs}) < len(runs):
        raise UserError("evaluate: the same run is named twice; name each run once")
    from alexnet_torch.data.digits import data_folder
    from alexnet_torch.evaluation.class_matching import check_same_classes, match_classes, model_identities
    from alexnet_torch.evaluation.results import score_test_set, tables
    from alexnet_torch.evaluation.robustness import RealLabels
    from alexnet_torch.evaluation.runs import read_settings
    from alexnet_torch.evaluation.scoring import default_num_crops
    from alexnet_torch.evaluation.test_sets import find_test_set, held_out_part

    models = {str(run): _load_run(run, devices) for run in runs}
    (name, first), *_ = models.items()
    check_same_classes({name: model.classes for name, model in models.items()})
    if (data := data or read_settings(runs[0]).get("data")) is None:
        raise UserError(f"evaluate: {name} does not say which images it was trained on; name some with --data")
    root = data_folder(data)
    test_set = find_test_set(root, held_out_part(runs, root))
    match = match_classes(first.classes, name, test_set.source.classes, f"--data {data}", first.names)
    real_labels = RealLabels(real, model_identities(first.classes), test_set.split.keys) if real else None
    if test_set.cropped_side and crops not in (None, 1):
        raise UserError(f"--crops {crops}: the images of {root} are centre crops already; use --crops 1")
    logger.warning("%s; classes matched by %s", test_set.describe(), match.how)
    tested = [crops] if crops else [1] if test_set.cropped_side else [1, default_num_crops(list(models.values()))]
    scores = score_test_set(models, test_set, match, tested, real_labels, csv, skip_bad, cache)
    print(json_format.dumps(scores, allow_nan=False) if json else tables(scores))


def import_command(
    file: Input,
    output: Annotated[Path, Shown("RUN")],
    classes: Annotated[Path | None, Shown("FILE", "default: detected")] = None,
    architecture: Annotated[str | None, Shown("NAME", "default: detected")] = None,
    inputs: Annotated[str | None, Shown("rgb|caffe|imagenet", "default: detected")] = None,
    mean: Annotated[str | None, Shown("R,G,B|FILE", "default: ImageNet's; required for rgb")] = None,
    image_size: Annotated[int | None, Shown("N", "default: detected")] = None,
    key: Annotated[str | None, Shown("NAME", "default: the only one")] = None,
) -> None:
    """Make a run's folder from a file of weights: of Caffe, ONNX, torchvision, another state dict, or safetensors.

    Args:
        file: A .caffemodel, .onnx or .safetensors file, or one that torch.load reads without unpickling.
        output: The folder to make, with model.pt and model.json.
        classes: A file with one class name on each line.
        architecture: paper, source_2012, caffe, caffenet, tensorflow_post or torchvision.
        inputs: The images that the weights expect: RGB of 0..255 less the mean, the same in BGR, or torchvision's.
        mean: The mean to subtract: a colour of 0..255, a .binaryproto or a .npy file.
        image_size: Height and width of the network's images, in pixels.
        key: Which network of a checkpoint with several, such as model or ema.
    """
    from alexnet_torch.weights.import_model import import_model
    from alexnet_torch.weights.model_file import save_new_model

    model, messages = import_model(file, classes, architecture, inputs, mean, image_size, key)
    save_new_model(output, model)
    print("\n".join([*messages, f"the model is in {output}"]))


def export_command(
    run: Run,
    file: Input,
    format: Annotated[str | None, Shown("safetensors|grouped|torchvision|onnx|pt2", "default: from suffix")] = None,
) -> None:
    """Write a run's model to a file for other programs.

    Args:
        file: .safetensors; .pt, a state dict with both towers in each tensor; .onnx; .pt2 of torch.export.
        format: The file's format.
    """
    from alexnet_torch.weights.export import export_model
    from alexnet_torch.weights.model_file import load_model

    print(f"{file}: reads {export_model(load_model(run, ['cpu']), file, format)}")


def figures_command(
    runs: Runs,
    output: Annotated[Path | None, Shown("DIR", "default: RUN/figures")] = None,
    data: RunData = None,
    image: Annotated[tuple[Path, ...], Shown("FILE", "default: none")] = (),
    seed: Seed = 0,
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
    _require_at_least(0, seed=seed)
    from alexnet_torch.evaluation.figures.draw import draw_figures

    draw_figures(runs, output, data, image, seed, devices)


def report_command(
    run: Run,
    output: Annotated[Path | None, Shown("FILE.html", "default: RUN/report.html")] = None,
    data: RunData = None,
    devices: Devices = None,
) -> None:
    """Write a page about a run for a browser, in one file: errors, curves, what it gets wrong, settings, machine.

    Args:
        output: The file to write.
        data: The images that the run was trained on; none: write what needs no images.
    """
    from alexnet_torch.evaluation.report_page import write_report
    from alexnet_torch.evaluation.runs import images_of_run

    model = _load_run(run, devices)
    with writing(f"--output {output or run}"):
        print(f"the page is {write_report(run, model, images_of_run(run, model, data), output)}")


def runs_command(folder: Annotated[Path, _argument("DIR")] = Path("runs"), compare: bool = False) -> None:
    """List runs: the settings that differ, state, best error, time; or compare them over seeds.

    Args:
        folder: The folder of the runs.
        compare: Print mean and spread over the runs that differ only in their seed.
    """
    from alexnet_torch.evaluation.runs import comparison_table, find_runs, run_table

    if runs := find_runs(folder):
        print(comparison_table(runs) if compare else run_table(runs))
    else:
        print(f"{folder}: no runs")


def layers_command(
    architecture: Annotated[str, _argument("NAME")] = "paper",
    image_size: Annotated[int, Shown("N")] = 224,
    num_classes: Annotated[int, Shown("N")] = 1000,
    csv: bool = False,
) -> None:
    """Print the table of a network's layers: shapes, kernels, groups, parameters, multiply-adds of an image.

    Args:
        architecture: paper, source_2012, caffe, caffenet, tensorflow_post or torchvision.
        image_size: Height and width of the images, in pixels.
        num_classes: Outputs of the last layer.
        csv: Print comma-separated values.
    """
    from alexnet_torch.model.layer_table import layer_table, table_text
    from alexnet_torch.model.presets import preset

    _require_at_least(1, image_size=image_size, num_classes=num_classes)
    try:
        print(table_text(layer_table(preset(architecture), num_classes, image_size), csv))
    except ValueError as error:
        raise UserError(f"layers: {error}") from error


def features_command(
    run: Run,
    folder: Annotated[Path, _argument("DIR")],
    output: Annotated[Path, Shown("FILE.npy|FILE.h5")],
    stage: Annotated[str, Shown("NAME[,NAME]")] = "fc7",
    files: Annotated[Path | None, Shown("LIST.txt", "default: all, sorted")] = None,
    per_tower: bool = False,
    skip_bad: SkipBad = False,
    batch_size: Annotated[int, Shown("N")] = 64,
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
    _require_at_least(1, batch_size=batch_size)
    from alexnet_torch.evaluation.features import FeatureRequest, save_features
    from alexnet_torch.model.architecture import parse_stages
    from alexnet_torch.run_folder import MODEL_DESCRIPTION, MODEL_WEIGHTS

    model = _load_run(run, devices)
    stages = parse_stages("--stage", stage, model.net.architecture.stage_names) or ()
    request = FeatureRequest(folder, output, stages, files, per_tower, skip_bad, batch_size)
    arrays = save_features(model, request, [run / MODEL_WEIGHTS, run / MODEL_DESCRIPTION])
    for name, shape in arrays.items():
        print(f"{output}: {name if len(arrays) > 1 else stage} of {shape[0]} images, float32 {shape}")


COMMANDS: dict[str, Callable[..., None]] = {
    "train": train_command,
    "prepare": prepare_command,
    "predict": predict_command,
    "evaluate": evaluate_command,
    "import": import_command,
    "export": export_command,
    "figures": figures_command,
    "report": report_command,
    "runs": runs_command,
    "features": features_command,
    "layers": layers_command,
}
