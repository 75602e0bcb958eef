"""All figures of runs: the command `python -m alexnet_torch figures`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from alexnet_torch.data.cache import PreparedImages
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.figures.curves import curves_figure
from alexnet_torch.evaluation.figures.filters import colours_table, filter_colours, filters_figure, grey_note
from alexnet_torch.evaluation.figures.neighbours import find_examples, labels_figure, neighbours_figure
from alexnet_torch.evaluation.figures.style import DPI, Figure, render, svg_text
from alexnet_torch.evaluation.runs import images_of_run, read_run, same_but_seed
from alexnet_torch.files import require_utf8, write_json, writing
from alexnet_torch.run_folder import FIGURE_NUMBERS, FIGURES, METRICS, TENSORBOARD
from alexnet_torch.weights.model_file import TrainedModel, load_model

FIGURE_NAMES = ("filters", "labels", "neighbours", "curves")
MAX_IMAGES = 40  # each image is a row of 260 pixels


def draw_figures(
    runs: Sequence[Path], output: Path | None, data: str | None, images: Sequence[Path], seed: int, devices: str | None
) -> None:
    """Draws each run's figures, and all runs' curves with the first's; prints colourfulness and files."""
    if len(images) > MAX_IMAGES:
        raise UserError(f"--image: {len(images)} files do not fit into one figure; name {MAX_IMAGES} at most")
    for path in (output or Path(), *runs):
        require_utf8(path, "--output" if path == output else "figures:")
    named = distinct_names(runs)
    for index, (name, path) in enumerate(named.items()):
        model = load_model(path, devices.split(",") if devices else None)
        folder = output / (name.replace("/", "-") if len(runs) > 1 else "") if output else path / FIGURES
        with writing(f"--output {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
        figures, numbers = _run_figures(name, path, model, images_of_run(path, model, data), images, seed)
        if index == 0 and (curves := _curves(named)):
            figures["curves"] = curves
        with writing(f"--output {folder}"):
            # beside the run's own events, not in their folder: TensorBoard follows only the newest file of a folder
            events = (folder if output else path) / TENSORBOARD / FIGURES
            written = _write(figures, numbers, folder, events, int(read_run(path).best.get("step", 0)))
        print(f"{name}: {', '.join(written)} in {folder}")


def distinct_names(runs: Sequence[Path]) -> dict[str, Path]:
    """Names runs by their folders, with as few parent folders as make the names different."""
    resolved = [run.resolve() for run in runs]
    parts = 1
    while len(names := {"/".join(run.parts[-parts:]): run for run in resolved}) < len(resolved):
        parts += 1
    return dict(zip(names, runs, strict=True))


def _run_figures(
    name: str, run: Path, model: TrainedModel, prepared: PreparedImages | None, images: Sequence[Path], seed: int
) -> tuple[dict[str, Figure], dict[str, Any]]:
    first, stage = model.net.architecture.convs[0].name, model.net.architecture.stage_names[-2]
    weights, note = model.net.stage_weights(first), grey_note(model.mean)
    colours = filter_colours(first, weights)
    print("\n".join(f"{name}: {text}" for text in (colours_table(colours), note) if text))
    if prepared is None:
        missing = "neighbours" if images else "labels and neighbours"
        print(f"{run}: no {missing}, which need images: name a folder with --data DIR")
    examples = find_examples(model, prepared, images, seed)
    figures = {"filters": filters_figure(name, weights, colours, note)}
    if examples:
        figures["labels"] = labels_figure(name, examples)
    if prepared:
        figures["neighbours"] = neighbours_figure(name, stage, examples)
    shown = [
        {"file": each.file, "label": each.label, "classes": each.predictions}
        | {"neighbours": [{"file": p.file, "label": p.label, "distance": p.distance} for p in each.neighbours]}
        for each in examples
    ]
    return figures, {"colourfulness": colours, "neighbours_stage": stage, "examples": shown}


def _curves(named: dict[str, Path]) -> Figure | None:
    runs = {name: run for name, path in named.items() if (run := read_run(path)).train or run.val}
    for name in named.keys() - runs.keys():
        print(f"{name}: no curves, because {named[name] / METRICS} is missing")
    groups = {" ".join(names): [runs[name] for name in names] for names in same_but_seed(runs)}
    return curves_figure(groups) if groups else None


def _write(
    figures: dict[str, Figure], numbers: dict[str, Any], folder: Path, tensorboard: Path, step: int
) -> list[str]:
    """Writes figures as PNG, SVG and for TensorBoard, and their numbers; returns the names of the files."""
    for events in tensorboard.glob("events.out.tfevents.*"):
        events.unlink()
    with SummaryWriter(str(tensorboard)) as writer:
        for name in FIGURE_NAMES:
            png, svg = folder / f"{name}.png", folder / f"{name}.svg"
            if name not in figures:
                png.unlink(missing_ok=True)  # of an earlier command
                svg.unlink(missing_ok=True)
                continue
            pixels = render(figures[name])
            figures[name].set_layout_engine("none")  # the SVG keeps the layout of the pixels
            Image.fromarray(pixels).save(png, dpi=(DPI, DPI))
            svg.write_text(svg_text(figures[name]), "utf-8")
            writer.add_image(f"figures/{name}", pixels, step, dataformats="HWC")
    write_json(folder / FIGURE_NUMBERS, numbers, indent=1)
    return [f"{name}{suffix}" for name in figures for suffix in (".png", ".svg")] + [FIGURE_NUMBERS]
