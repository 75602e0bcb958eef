"""All figures of runs: what `python -m alexnet_torch figures` does."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alexnet_torch.data.digits import data_folder
from alexnet_torch.data.prepare import prepare
from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.figures.colourfulness import TowerColours, measure
from alexnet_torch.evaluation.figures.curves import History, curves_figure, read_history
from alexnet_torch.evaluation.figures.figure3_filters import filters_figure
from alexnet_torch.evaluation.figures.figure4_examples import (
    EXAMPLES,
    Example,
    Neighbour,
    choose,
    classified,
    feature_stage,
    nearest_training_images,
)
from alexnet_torch.evaluation.figures.figure4_plots import labels_figure, neighbours_figure
from alexnet_torch.evaluation.figures.figure_files import Album
from alexnet_torch.files import atomic_write
from alexnet_torch.run_folder import CONFIG, TENSORBOARD
from alexnet_torch.run_folder import FIGURES as FIGURES_FOLDER
from alexnet_torch.weights.model_file import TrainedModel, load_model

FIGURES = ("filters", "labels", "neighbours", "curves")
NO_DATA = "none"  # what --data says for figures that take no images alone
MOST_IMAGES = 40  # in rows of 260 pixels each


@dataclass(frozen=True)
class Order:
    """What is wanted.

    Attributes:
        runs: folders, at least one.
        output: where to; by default each run's own figures go into RUN/figures, and to its TensorBoard, and the
            curves of all into the first's.
        data: the images; None for those that each run was trained on, "none" for none.
        images: of Figure 4, in place of validation images.
        seed: of the choice of validation images.
        devices: for the network; None to choose.
    """

    runs: tuple[Path, ...]
    output: Path | None = None
    data: str | None = None
    images: tuple[Path, ...] = ()
    seed: int = 0
    devices: tuple[str, ...] | None = None


def draw(order: Order) -> None:
    """Draws the figures of each run, prints what they measure and which files they are.

    Raises:
        UserError: a run, the images or the output folder cannot be used.
    """
    if len(order.images) > MOST_IMAGES:
        raise UserError(f"--image: {len(order.images)} files are too many for one figure; name {MOST_IMAGES} at most")
    names = distinct_names(order.runs)
    histories = {name: history for name, run in names.items() if (history := read_history(run))}
    for place, (name, run) in enumerate(names.items()):
        model = load_model(run, order.devices)
        history = histories.get(name)
        album = _album(order, name, run, history.best_step() if history else 0)
        try:
            _draw_run(order, album, name, run, model)
            if place == 0:
                _draw_curves(album, names, histories)
            album.remove_earlier(FIGURES)
        except OSError as error:
            raise UserError(f"--output {album.folder}: cannot be written ({error}); make room") from error
        finally:
            album.close()
        print(f"{name}: {', '.join(path.name for path in album.written)} in {album.folder}")


def distinct_names(runs: Sequence[Path]) -> dict[str, Path]:
    """Runs by their folder's name; by the fewest last parts of their paths where names are the same.

    Raises:
        UserError: a run is named twice.
    """
    resolved = [run.resolve() for run in runs]
    if len(set(resolved)) < len(resolved):
        raise UserError("figures: the same run is named twice")
    parts = 1
    while len(names := {"/".join(run.parts[-parts:]): run for run in resolved}) < len(resolved):
        parts += 1
    return dict(zip(names, runs, strict=True))


def _album(order: Order, name: str, run: Path, step: int) -> Album:
    # beside the run's own events, not among them: TensorBoard would follow the newest file of a folder alone
    if order.output is None:
        return Album(run / FIGURES_FOLDER, run / TENSORBOARD / FIGURES_FOLDER, step)
    folder = order.output if len(order.runs) == 1 else order.output / name.replace("/", "-")
    return Album(folder, folder / TENSORBOARD / FIGURES_FOLDER, step)


def _draw_run(order: Order, album: Album, name: str, run: Path, model: TrainedModel) -> None:
    first = model.net.architecture.convs[0].name
    weights = [tower.detach().float().cpu() for tower in model.net.stage_weights(first)]
    colours = measure(first, [tower.numpy() for tower in weights])
    print(f"{name}: {colours.table()}")
    album.add("filters", filters_figure(name, weights, colours))
    prepared = _prepared(order, run, model)
    files = list(order.images)
    if not files and prepared is not None:
        files = choose(prepared, EXAMPLES, order.seed)
    examples = classified(model, files)
    neighbours: list[list[Neighbour]] = [[] for _ in examples]
    if examples:
        album.add("labels", labels_figure(name, examples))
    if prepared is not None:
        neighbours = nearest_training_images(model, prepared, files)
        album.add("neighbours", neighbours_figure(name, feature_stage(model), examples, neighbours))
    _write_measured(album, model, colours, examples, neighbours)


def _draw_curves(album: Album, names: dict[str, Path], histories: dict[str, History]) -> None:
    for name, run in names.items():
        if name not in histories:
            print(f"{name}: no curves, since {run / 'metrics.jsonl'} is missing")
    if histories:
        album.add("curves", curves_figure(histories))


def _prepared(order: Order, run: Path, model: TrainedModel) -> PreparedImages | None:
    """The images of Figure 4; None, saying so, where none are named or wanted."""
    settings = _settings(run)
    data = order.data or settings.get("data")
    if data is None or data == NO_DATA:
        print(f"{run}: no neighbours of images{'' if order.images else ', and no labels'}: --data DIR names the images")
        return None
    side = model.mean.shape[0]
    prepared = prepare(data_folder(data), side, settings.get("cache", "auto"), settings.get("skip_bad", False))
    if prepared.classes != model.classes:
        raise UserError(f"--data {data}: its classes are not those of {run}; name the images that it was trained on")
    return prepared


def _settings(run: Path) -> dict[str, Any]:
    """What the run was started with; nothing if it has no config.json, as when its weights were imported."""
    path = run / CONFIG
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text())["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); restore it") from error


def _write_measured(
    album: Album,
    model: TrainedModel,
    colours: TowerColours,
    examples: Sequence[Example],
    neighbours: Sequence[Sequence[Neighbour]],
) -> None:
    """figures.json: the numbers that the figures show."""
    described = {
        "colourfulness": colours.described(),
        "neighbours_stage": feature_stage(model),
        "examples": [
            {
                "file": str(example.file),
                "label": example.label,
                "classes": example.guesses,
                "neighbours": [
                    {k: str(v) if k == "file" else v for k, v in asdict(n).items() if k != "picture"} for n in row
                ],
            }
            for example, row in zip(examples, neighbours, strict=True)
        ],
    }
    text = json.dumps(described, indent=1).encode()
    atomic_write(album.folder / "figures.json", lambda file: file.write(text))
    album.written.append(album.folder / "figures.json")
