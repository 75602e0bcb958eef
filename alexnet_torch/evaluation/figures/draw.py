"""All figures of runs: the command `python -m alexnet_torch figures`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.figures.colourfulness import TowerColourfulness, tower_colourfulness
from alexnet_torch.evaluation.figures.curves import History, curves_figure, read_history
from alexnet_torch.evaluation.figures.figure3_filters import filters_figure, grey_note
from alexnet_torch.evaluation.figures.figure4_examples import (
    NUM_EXAMPLES,
    Example,
    Neighbour,
    choose_examples,
    classify,
    last_hidden_stage,
    nearest_training_images,
)
from alexnet_torch.evaluation.figures.figure4_plots import labels_figure, neighbours_figure
from alexnet_torch.evaluation.figures.figure_files import FigureWriter
from alexnet_torch.evaluation.runs import images_of_run, read_settings, same_but_seed
from alexnet_torch.files import atomic_write, explain_os_error
from alexnet_torch.run_folder import FIGURE_NUMBERS, FIGURES, METRICS, TENSORBOARD
from alexnet_torch.text_files import require_utf8
from alexnet_torch.weights.model_file import TrainedModel, load_model

FIGURE_NAMES = ("filters", "labels", "neighbours", "curves")
MAX_IMAGES = 40  # each image is a row of 260 pixels


@dataclass(frozen=True)
class FigureOptions:
    """What to draw and where."""

    runs: tuple[Path, ...]  # folders, at least one
    # by default each run's figures go into RUN/figures and its TensorBoard, and all runs' curves into the first run's
    output: Path | None = None
    data: str | None = None  # the images; None for those that each run was trained on, "none" for no images
    images: tuple[Path, ...] = ()  # shown in Figure 4 instead of validation images
    seed: int = 0  # of the choice of validation images
    devices: tuple[str, ...] | None = None  # for the network; None for the default


def draw_figures(options: FigureOptions) -> None:
    """Draws the figures of each run; prints the colourfulness and the names of the files.

    Raises:
        UserError: a run, the images or the output folder cannot be used.
    """
    if len(options.images) > MAX_IMAGES:
        raise UserError(f"--image: {len(options.images)} files do not fit into one figure; name {MAX_IMAGES} at most")
    for folder in (options.output or Path(), *options.runs):
        require_utf8(folder, "--output" if folder == options.output else "figures:")
    runs = distinct_names(options.runs)
    histories = {name: history for name, run in runs.items() if (history := read_history(run))}
    for index, (name, run) in enumerate(runs.items()):
        model = load_model(run, options.devices)
        history = histories.get(name)
        writer = _figure_writer(options, name, run, history.best_step() if history else 0)
        try:
            _draw_run(options, writer, name, run, model)
            if index == 0:
                _draw_curves(writer, runs, histories)
            writer.remove_old(FIGURE_NAMES)
        except OSError as error:
            raise UserError(f"--output {writer.folder}: {explain_os_error(error)}") from error
        finally:
            writer.close()
        print(f"{name}: {', '.join(path.name for path in writer.written)} in {writer.folder}")


def distinct_names(runs: Sequence[Path]) -> dict[str, Path]:
    """Returns runs by the name of their folder, with as many parent folders as make all names different.

    Raises:
        UserError: a run is named twice.
    """
    resolved = [run.resolve() for run in runs]
    if len(set(resolved)) < len(resolved):
        raise UserError("figures: the same run is named twice; name each run once")
    parts = 1
    while len(names := {"/".join(run.parts[-parts:]): run for run in resolved}) < len(resolved):
        parts += 1
    return dict(zip(names, runs, strict=True))


def _figure_writer(options: FigureOptions, name: str, run: Path, step: int) -> FigureWriter:
    # beside the run's own events, not in their folder: TensorBoard follows only the newest file of a folder
    if options.output is None:
        return FigureWriter(run / FIGURES, run / TENSORBOARD / FIGURES, step)
    folder = options.output if len(options.runs) == 1 else options.output / name.replace("/", "-")
    return FigureWriter(folder, folder / TENSORBOARD / FIGURES, step)


def _draw_run(options: FigureOptions, writer: FigureWriter, name: str, run: Path, model: TrainedModel) -> None:
    stage = model.net.architecture.convs[0].name
    weights = [tower.detach().float().cpu() for tower in model.net.stage_weights(stage)]
    colours = tower_colourfulness(stage, [tower.numpy() for tower in weights])
    print(f"{name}: {colours.table()}")
    if note := grey_note(model.mean):
        print(f"{name}: {note}")
    writer.add("filters", filters_figure(name, weights, colours, note))
    with TemporaryDirectory() as copies:  # of images that are in archives
        _draw_predictions(options, writer, name, run, model, colours, Path(copies))


def _draw_predictions(
    options: FigureOptions,
    writer: FigureWriter,
    name: str,
    run: Path,
    model: TrainedModel,
    colours: TowerColourfulness,
    copies: Path,
) -> None:
    """Draws Figure 4, and writes the numbers of all figures; `copies` is a folder for images that are in archives."""
    prepared = _load_images(options, run, model)
    files = list(options.images)
    if not files and prepared is not None:
        files = choose_examples(prepared, NUM_EXAMPLES, options.seed, copies)
    examples = classify(model, files)
    neighbours: list[list[Neighbour]] = [[] for _ in examples]
    if examples:
        writer.add("labels", labels_figure(name, examples))
    if prepared is not None:
        neighbours = nearest_training_images(model, prepared, files, copies)
        writer.add("neighbours", neighbours_figure(name, last_hidden_stage(model), examples, neighbours))
    _write_numbers(writer, model, colours, examples, neighbours, copies)


def _draw_curves(writer: FigureWriter, runs: dict[str, Path], histories: dict[str, History]) -> None:
    for name, run in runs.items():
        if name not in histories:
            print(f"{name}: no curves, because {run / METRICS} is missing")
    if histories:
        settings = {name: read_settings(runs[name]) for name in histories}
        groups = {" ".join(names): [histories[name] for name in names] for names in same_but_seed(settings)}
        writer.add("curves", curves_figure(groups))


def _load_images(options: FigureOptions, run: Path, model: TrainedModel) -> PreparedImages | None:
    """Returns the images of Figure 4; None, with a message, if there are none or --data is "none"."""
    prepared = images_of_run(run, model, options.data)
    if prepared is None:
        missing = "neighbours" if options.images else "labels and neighbours"
        print(f"{run}: no {missing}, which need images: name a folder with --data DIR")
    return prepared


def _write_numbers(
    writer: FigureWriter,
    model: TrainedModel,
    colours: TowerColourfulness,
    examples: Sequence[Example],
    neighbours: Sequence[Sequence[Neighbour]],
    copies: Path,
) -> None:
    """Writes the numbers that the figures show to a JSON file."""

    def shown(file: Path) -> str:
        return str(file.relative_to(copies) if file.is_relative_to(copies) else file)

    numbers = {
        "colourfulness": colours.json_values(),
        "neighbours_stage": last_hidden_stage(model),
        "examples": [
            {
                "file": shown(example.file),
                "label": example.label,
                "classes": example.predictions,
                "neighbours": [
                    {**{k: v for k, v in asdict(n).items() if k != "image"}, "file": shown(n.file)} for n in row
                ],
            }
            for example, row in zip(examples, neighbours, strict=True)
        ],
    }
    path, text = writer.folder / FIGURE_NUMBERS, json.dumps(numbers, indent=1, allow_nan=False).encode()
    atomic_write(path, lambda file: file.write(text))
    writer.written.append(path)
