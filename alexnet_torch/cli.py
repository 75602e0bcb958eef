"""python -m alexnet_torch: what can be done with a trained run."""

import json as json_format
import sys
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from alexnet_torch.errors import UserError
from alexnet_torch.malloc import keep_freed
from alexnet_torch.recipes.command_line import one_line_errors

PROGRAM = "python -m alexnet_torch"
_CROPS = tyro.conf.arg(metavar="1|5|10", help_behavior_hint="(default: 1 and 10; 5 for runs with --no-mirror)")
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
    from alexnet_torch.evaluation.predict import predict
    from alexnet_torch.weights.model_file import load_model

    model = load_model(Path(run), devices.split(",") if devices else None)
    for file, predictions in predict(model, [Path(image) for image in images]):
        if json:
            print(json_format.dumps({"file": str(file), "classes": predictions}))
            continue
        print(file)
        for prediction in predictions:
            print(f"  {prediction['probability']:7.2%}  {prediction['label']}")


def evaluate_command(
    runs: tyro.conf.Positional[tuple[str, ...]],
    data: str,
    crops: Annotated[Literal[1, 5, 10] | None, _CROPS] = None,
    devices: Devices = None,
    cache: str = "auto",
    skip_bad: bool = False,
) -> None:
    """Test runs on a folder's val/ images: each alone and, if there are several, averaged.

    Args:
        runs: Runs' folders, with model.pt and model.json, of the same classes.
        data: A folder as for training, or "digits".
        crops: 1, the centre crop; 5, with the corners; or 10, with mirror images, as in the paper.
        devices: Devices, one for all towers or one for each: cpu, cuda:0 or cuda:0,cuda:1.
        cache: Where decoded images are kept, as in training: a folder, auto or none.
        skip_bad: Leave out files that cannot be read, instead of stopping with their list.
    """
    if not runs:
        raise UserError("evaluate: name at least one run's folder")
    if len({Path(run).resolve() for run in runs}) < len(runs):
        raise UserError("evaluate: the same run is named twice, and averaged with itself it is no better")
    # not at the top: torch takes seconds that --help can do without
    from alexnet_torch.data.digits import data_folder
    from alexnet_torch.data.prepare import prepare
    from alexnet_torch.evaluation.evaluate import check_same_classes, evaluate_models
    from alexnet_torch.evaluation.metrics import error_table
    from alexnet_torch.evaluation.multi_crop import default_num_crops
    from alexnet_torch.weights.model_file import load_model

    models = [load_model(Path(run), devices.split(",") if devices else None) for run in runs]
    check_same_classes({run: model.classes for run, model in zip(runs, models, strict=True)})
    sides = {model.mean.shape[0] for model in models}
    prepared = {side: prepare(data_folder(data), side, cache, skip_bad) for side in sides}
    check_same_classes({runs[0]: models[0].classes} | {f"--data {data}": p.classes for p in prepared.values()})
    results = evaluate_models(models, prepared, crops or default_num_crops(models))
    assert results is not None  # nothing stops it
    print(error_table(runs, {n: result for n, result in results.items() if crops in (None, n)}))


def import_command(
    file: tyro.conf.Positional[str],
    output: Annotated[str, tyro.conf.arg(metavar="RUN")],
    classes: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: found out)")] = None,
    architecture: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: found out)")
    ] = None,
    inputs: Annotated[
        str | None, tyro.conf.arg(metavar="rgb|caffe|imagenet", help_behavior_hint="(default: found out)")
    ] = None,
    mean: Annotated[
        str | None, tyro.conf.arg(metavar="R,G,B|FILE", help_behavior_hint="(default: ImageNet's, but for rgb)")
    ] = None,
    image_size: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: found out)")] = None,
) -> None:
    """Make a run's folder of a file of weights: Caffe's, ONNX's, torchvision's, another state dict, safetensors.

    Args:
        file: .caffemodel, .onnx, .safetensors, or what torch.load reads without unpickling.
        output: The folder to make, with model.pt and model.json.
        classes: A file with a class's name on each line.
        architecture: paper, source_2012, caffe, tensorflow_post or torchvision.
        inputs: What images the weights read: RGB of 0..255 less the mean, the same in BGR, or torchvision's.
        mean: What they were less: a colour of 0..255, a .binaryproto or a .npy file.
        image_size: Height and width of the network's images, in pixels.
    """
    # not at the top: torch takes seconds that --help can do without
    from alexnet_torch.weights.import_model import ImportOptions, import_model
    from alexnet_torch.weights.model_file import save_new_model

    options = ImportOptions(architecture, inputs, mean, image_size)
    model, messages = import_model(Path(file), options, Path(classes) if classes else None)
    save_new_model(Path(output), model)
    print("\n".join([*messages, f"the model is in {output}"]))


def export_command(
    run: tyro.conf.Positional[str],
    file: tyro.conf.Positional[str],
    format: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="safetensors|grouped|torchvision|onnx|pt2", help_behavior_hint="(default: by the ending)"
        ),
    ] = None,
) -> None:
    """Write a run's model to a file for other programs.

    Args:
        run: A run's folder, with model.pt and model.json.
        file: .safetensors; .pt, a state dict with both towers in each tensor; .onnx; .pt2 of torch.export.
        format: The file's format.
    """
    # not at the top: torch takes seconds that --help can do without
    from alexnet_torch.weights.export_model import export_model
    from alexnet_torch.weights.model_file import load_model

    reads = export_model(load_model(Path(run), ["cpu"]), Path(file), format)
    print(f"{file}: reads {reads}")


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
    from alexnet_torch.evaluation.features import save_features
    from alexnet_torch.weights.model_file import load_model

    model = load_model(Path(run), devices.split(",") if devices else None)
    metadata, shape = save_features(model, Path(folder), stage, Path(output), skip_bad, batch_size)
    print(f"{output}: {stage} of {len(metadata.files)} images, float32 {(len(metadata.files), *shape)}")


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
    from alexnet_torch.evaluation.figures.draw import FigureOptions, draw_figures

    draw_figures(
        FigureOptions(
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


COMMANDS: dict[str, Callable[..., None]] = {
    "predict": predict_command,
    "evaluate": evaluate_command,
    "import": import_command,
    "export": export_command,
    "figures": figures_command,
    "features": features_command,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    app = tyro.extras.SubcommandApp()
    for name, command in COMMANDS.items():
        app.command(name=name)(_deferred(command))
    try:
        with one_line_errors(PROGRAM):
            work = app.cli(args=arguments, prog=PROGRAM, config=(tyro.conf.FlagCreatePairsOff,))
        keep_freed()
        work()
    except UserError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped", file=sys.stderr)
        return 130
    return 0
