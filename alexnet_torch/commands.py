"""The commands of python -m alexnet_torch: what a trained run can be used for.

Each imports what it calls when it runs: torch takes seconds to import, which --help and a wrong command line do not
need. --help shows the docstrings, with an argument's values in brackets; what follows the * in a signature are options.
"""

import json as json_format
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from alexnet_torch.errors import UserError
from alexnet_torch.files import writing

if TYPE_CHECKING:
    from alexnet_torch.weights.model_file import TrainedModel

logger = logging.getLogger(__name__)


# of several commands
SHARED_ARGUMENTS = """
    run (RUN): A run's folder, with model.pt and model.json.
    runs (RUN): Runs' folders, with model.pt and model.json, of the same classes.
    data (DIR|digits|none): The images that the run was trained on; none: do without. (default: the run's)
    image_size (N): Height and width of the network's images, in pixels.
    architecture (NAME): paper, source_2012, caffe, caffenet, tensorflow_post or torchvision.
    devices (NAME[,NAME]): One device for all towers, or one for each: cpu, cuda:0 or cuda:0,cuda:1. (default: best)
    skip_bad: Leave out files that cannot be read, instead of stopping with a list of them.
"""


def _load_run(run: Path, devices: str | None) -> "TrainedModel":
    import torch

    from alexnet_torch.weights.model_file import load_model

    model = load_model(run, devices.split(",") if devices else None)
    model.net.to(memory_format=torch.channels_last)  # the convolutions' format: else each batch converts the weights
    return model


def train_command() -> None:
    """Train a network on a folder of images."""  # only for the list: its options are in cli.py


def prepare_command(
    source: str,
    *,
    output: Path,
    image_size: int = 224,
    skip_bad: bool = False,
    val_split: float | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Decode a data set into a folder that --data takes, also on another machine, without the original images.

    Args:
        source (SOURCE): A data set in any form that --data takes, or "digits".
        output (DIR): The folder to make. If the command is interrupted, the same command continues.
        image_size (N): The network's image size: 224 for most recipes, 64 for demo.
        val_split (FRACTION): Part of each class's training images to validate with, if there are no others. (default:
            none)
        seed (N): Decides, with the images' content, which images these are.
        workers (N): Processes that decode. (default: one for each core)
    """
    if val_split is not None and not 0 < val_split < 1:
        raise UserError(f"--val-split {val_split:g}: must be between 0 and 1, such as 0.1")
    from alexnet_torch.data.cache_build import prepare_ahead
    from alexnet_torch.data.decode import decoded_side
    from alexnet_torch.data.sources.recognise import data_folder
    from alexnet_torch.data.sources.val_split import ValSplit

    side, chosen = decoded_side(image_size), ValSplit(val_split, seed) if val_split else None
    prepare_ahead(data_folder(source), output.expanduser(), side, skip_bad, chosen, workers)


def predict_command(run: Path, images: tuple[Path, ...], *, json: bool = False, devices: str | None = None) -> None:
    """Print the five most probable classes of image files.

    Args:
        images (FILE): Image files, or folders of them.
        json: Print one line of JSON for each image.
    """
    from alexnet_torch.data.sources.classes import in_one_line
    from alexnet_torch.evaluation.predict import predict

    for file, predictions in predict(_load_run(run, devices), images):
        if json:
            print(json_format.dumps({"file": str(file), "classes": predictions}, allow_nan=False))
            continue
        print(in_one_line(str(file)))
        for prediction in predictions:
            print(f"  {prediction['probability']:7.2%}  {prediction['label']}")


def evaluate_command(
    runs: tuple[Path, ...],
    *,
    data: str | None = None,
    crops: Literal[1, 5, 10] | None = None,
    real: Path | None = None,
    csv: Path | None = None,
    mean: str | None = None,
    json: bool = False,
    devices: str | None = None,
    cache: str = "auto",
    skip_bad: bool = False,
) -> None:
    """Test runs on a set of images: each run, and the average of several.

    Args:
        data (SET|digits): Class folders, a folder with val/, any data set for training, ImageNet-V2, -A, -R, -Sketch or
            -C, or "digits"; with the model's classes or some of them. (default: the run's)
        crops (1|5|10): The centre crop; with the corners; with mirror images, as in the paper. (default: 1 and 10; 5
            for --no-mirror runs)
        real (FILE): Also test by ReaL labels of ImageNet's validation images: their real.json. (default: none)
        csv (FILE): Write a row for each image: file, label, five guesses, probabilities. (default: none)
        mean (R,G,B|FILE|ilsvrc-2012): Subtract this mean, as in import, in place of the runs' own. (default: none)
        cache (DIR|auto|none): Where training may have stored the decoded images.
        json: Print one JSON document, with the error of each class, the confusion matrix and the most confused pairs.
    """
    from alexnet_torch.data.sources.classes import require_same_classes
    from alexnet_torch.data.sources.recognise import data_folder
    from alexnet_torch.evaluation.results import score_test_set, tables
    from alexnet_torch.evaluation.robustness import read_real_labels
    from alexnet_torch.evaluation.runs import read_config
    from alexnet_torch.evaluation.scoring import default_num_crops
    from alexnet_torch.evaluation.test_sets import find_test_set, held_out_part, match_classes, model_identities
    from alexnet_torch.weights.inputs import mean_from_option

    models = {str(run): _load_run(run, devices) for run in runs}
    if mean:
        models = {n: replace(m, mean=mean_from_option(mean, m.net.image_size)) for n, m in models.items()}
    (name, first), *_ = models.items()
    for other, model in models.items():
        require_same_classes(other, model.classes, name, first.classes, "name runs of the same classes")
    if (data := data or read_config(runs[0]).get("settings", {}).get("data")) is None:
        raise UserError(f"evaluate: {name} does not say which images it was trained on; name some with --data")
    root = data_folder(data)
    test_set = find_test_set(root, held_out_part(runs, root))
    match = match_classes(first.classes, name, test_set.source.classes, f"--data {data}", first.names)
    real_labels = read_real_labels(real, model_identities(first.classes), test_set.split.keys) if real else None
    if test_set.cropped_side and crops not in (None, 1):
        raise UserError(f"--crops {crops}: the images of {root} are centre crops already; use --crops 1")
    logger.warning("%s; classes matched by %s", test_set.describe(), match.how)
    tested = [crops] if crops else [1] if test_set.cropped_side else [1, default_num_crops(list(models.values()))]
    scores = score_test_set(models, test_set, match, tested, real_labels, csv, skip_bad, cache, with_confusion=json)
    print(json_format.dumps(scores, allow_nan=False) if json else tables(scores))


def import_command(
    file: Path,
    *,
    output: Path,
    classes: Path | None = None,
    architecture: str | None = None,
    inputs: str | None = None,
    mean: str | None = None,
    image_size: int | None = None,
    key: str | None = None,
) -> None:
    """Make a run's folder from a file of weights: of Caffe, ONNX, torchvision, another state dict, or safetensors.

    What no option gives is detected.

    Args:
        file (FILE): A .caffemodel, .onnx or .safetensors file, or one that torch.load reads without unpickling.
        output (RUN): The folder to make, with model.pt and model.json.
        classes (FILE): A file with one class name on each line.
        inputs (rgb|caffe|imagenet): The images that the weights expect: RGB of 0..255 less the mean, the same in
            BGR, or torchvision's.
        mean (R,G,B|FILE|ilsvrc-2012): The mean to subtract: a colour of 0..255, a .binaryproto or a .npy file, or the
            mean image of AlexNet's authors. (default: ImageNet's mean colour; required for rgb)
        key (NAME): Which network of a checkpoint with several, such as model or ema.
    """
    from alexnet_torch.weights.model_file import save_new_model
    from alexnet_torch.weights.weight_file import import_model

    model, messages = import_model(file, classes, architecture, inputs, mean, image_size, key)
    save_new_model(output, model)
    print("\n".join([*messages, f"the model is in {output}"]))


def export_command(run: Path, file: Path, *, format: str | None = None) -> None:
    """Write a run's model to a file for other programs.

    Args:
        file (FILE): .safetensors; .pt, a state dict with both towers in each tensor; .onnx; .pt2 of torch.export.
        format (safetensors|grouped|torchvision|onnx|pt2): The file's format. (default: from suffix)
    """
    from alexnet_torch.weights.export import export_model
    from alexnet_torch.weights.model_file import load_model

    print(f"{file}: reads {export_model(load_model(run, ['cpu']), file, format)}")


def figures_command(
    runs: tuple[Path, ...],
    *,
    output: Path | None = None,
    data: str | None = None,
    image: tuple[Path, ...] = (),
    seed: int = 0,
    devices: str | None = None,
) -> None:
    """Draw the paper's figures for runs: filters, labels, neighbours, and curves; measure filters' colourfulness.

    Args:
        runs (RUN): Runs' folders; their curves are drawn in one figure.
        output (DIR): Where to write PNG and SVG files. (default: RUN/figures)
        image (FILE): Image files to show instead of eight validation images. (default: none)
        seed (N): Seed of the choice of validation images.
    """
    from alexnet_torch.evaluation.figures.draw import draw_figures

    draw_figures(runs, output, data, image, seed, devices)


def report_command(
    run: Path, *, output: Path | None = None, data: str | None = None, devices: str | None = None
) -> None:
    """Write a page about a run for a browser, in one file: errors, curves, what it gets wrong, settings, machine.

    Args:
        output (FILE.html): The file to write. (default: RUN/report.html)
    """
    from alexnet_torch.evaluation.report_page import write_report
    from alexnet_torch.evaluation.runs import images_of_run

    model = _load_run(run, devices)
    with writing(f"--output {output or run}"):
        print(f"the page is {write_report(run, model, images_of_run(run, model, data), output)}")


def runs_command(folder: Path = Path("runs"), *, compare: bool = False) -> None:
    """List runs: the settings that differ, state, best error, time; or compare them over seeds.

    Args:
        folder (DIR): The folder of the runs.
        compare: Print mean and spread over the runs that differ only in their seed.
    """
    from alexnet_torch.evaluation.runs import comparison_table, find_runs, run_table

    if runs := find_runs(folder):
        print(comparison_table(runs) if compare else run_table(runs))
    else:
        print(f"{folder}: no runs")


def layers_command(
    architecture: str = "paper", *, image_size: int = 224, num_classes: int = 1000, csv: bool = False
) -> None:
    """Print the table of a network's layers: shapes, kernels, groups, parameters, multiply-adds of an image.

    Args:
        num_classes (N): Outputs of the last layer.
        csv: Print comma-separated values.
    """
    from alexnet_torch.model.layer_table import layer_table, table_text
    from alexnet_torch.model.presets import preset

    try:
        print(table_text(layer_table(preset(architecture), num_classes, image_size), csv))
    except ValueError as error:
        raise UserError(f"layers: {error}") from error


def features_command(
    run: Path,
    folder: Path,
    *,
    output: Path,
    stage: str = "fc7",
    files: Path | None = None,
    per_tower: bool = False,
    skip_bad: bool = False,
    batch_size: int = 64,
    devices: str | None = None,
) -> None:
    """Write stages' outputs for all images of a folder, or for a list of them, into one file.

    Args:
        folder (DIR): A folder of images, nested in any way.
        output (FILE.npy|FILE.h5): The file to write; a .npy file gets a .json with file and class names beside it.
        stage (NAME[,NAME]): Stages, from conv1 to fc8 in the paper's network, for example conv5,fc7 or conv1..conv5.
        files (LIST.txt): A text file with the path of an image in DIR on each line, in the order that the rows get.
            (default: all, sorted)
        per_tower: Write an array for each tower, instead of one with the channels of both.
        batch_size (N): Images in a batch.
    """
    from alexnet_torch.evaluation.features import FeatureRequest, save_features
    from alexnet_torch.model.architecture import parse_stages

    model = _load_run(run, devices)
    stages = parse_stages("--stage", stage, model.net.architecture.stage_names) or ()
    arrays = save_features(model, FeatureRequest(folder, output, stages, files, per_tower, skip_bad, batch_size))
    for name, shape in arrays.items():
        print(f"{output}: {name if len(arrays) > 1 else stage} of {shape[0]} images, float32 {shape}")


COMMANDS: dict[str, Callable[..., None]] = {
    name.removesuffix("_command"): command for name, command in dict(globals()).items() if name.endswith("_command")
}
