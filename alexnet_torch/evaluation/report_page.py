"""The page about a run: one HTML file that needs no server and no other file, and its pictures in TensorBoard."""

import base64
import shlex
from io import BytesIO
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from alexnet_torch.data.cache import PreparedImages
from alexnet_torch.evaluation.figures.curves import confusion_figure, curves_figure, read_history, wrong_images_figure
from alexnet_torch.evaluation.figures.filters import filter_colours, filters_figure, grey_note
from alexnet_torch.evaluation.figures.style import render, svg_text
from alexnet_torch.evaluation.metrics import Confusion, wilson_interval
from alexnet_torch.evaluation.runs import duration, read_config, read_records, training_seconds
from alexnet_torch.evaluation.scoring import Tested, score_validation_images, worst_images
from alexnet_torch.files import atomic_write
from alexnet_torch.recipes.settings import Settings, flag, options_of, resolve
from alexnet_torch.run_folder import REPORT, TENSORBOARD
from alexnet_torch.weights.model_file import TrainedModel

_EVENTS = "report"  # a folder beside the run's events: TensorBoard follows only the newest file of a folder
_DRAWN, _LISTED = 2000, 1000  # most classes of a picture, and of a table
_OF_THE_FIRST_RUN = ("output", "resume")


def write_report(
    run: Path,
    model: TrainedModel,
    prepared: PreparedImages | None,
    output: Path | None = None,
    tested: Tested | None = None,
) -> Path:
    """Writes a run's page, and the confusion matrix and the worst images into its TensorBoard events.

    Args:
        run: the run's folder.
        model: the run's best weights.
        prepared: the images to test it on; without them the page says nothing about what it gets wrong.
        output: the page; RUN/report.html by default.
        tested: the model's test on these images, if it has been done.

    Returns:
        the page's file.

    Raises:
        UserError: config.json or metrics.jsonl is damaged.
        OSError: a file cannot be written.
    """
    if tested is None and prepared:
        tested = score_validation_images(model, prepared)
    name, config, history, net = run.resolve().name, read_config(run), read_history(run), model.net
    stage = net.architecture.convs[0].name
    weights = [tower.detach().float().cpu() for tower in net.stage_weights(stage)]
    pictures = {"filters": render(filters_figure(name, weights, filter_colours(stage, weights)))}
    values: dict[str, Any] = {"errors": []}  # of the template
    if history and len(history.val.epoch):
        best = int(history.val.error.argmin())
        values["best_epoch"] = float(history.val.epoch[best])
        values["errors"] = [(1, (float(history.val.error[best]), None))]
        values["trained"] = duration(training_seconds(read_records(run) or [], config["settings"]["batch_size"]))
    if history and (len(history.train.epoch) or len(history.val.epoch)):
        svg = svg_text(curves_figure({name: [history]}))
        values["curves"] = svg[svg.index("<svg") :]
    if tested and prepared:
        values["errors"] = [(1, (tested.errors[1].top1_error, tested.errors[1].top5_error))]
        confusion = Confusion(tested.predictions, np.arange(net.num_classes), net.num_classes)
        worst = worst_images(tested, prepared)
        if net.num_classes <= _DRAWN:
            pictures["val/confusion"] = render(confusion_figure(prepared.names, confusion.counts))
        if worst:
            pictures["val/worst_images"] = render(wrong_images_figure(worst))
        values |= _mistakes(confusion, prepared.names)
        values["images"] = len(tested.predictions.labels)
        values["worst"] = [(image, _source(image.pixels)) for image in worst]
    if history and history.test:
        test = history.test
        values["errors"].append((test["crops"], (test["top1_error"], test["top5_error"])))
    if config:
        values |= _settings(run, config)
    html = (
        jinja2.Environment(autoescape=True)
        .from_string(Path(__file__).with_suffix(".html").read_text())
        .render(
            **values,
            name=name,
            net=net,
            parameters=sum(value.numel() for value in net.parameters()),
            config=config,
            interval=wilson_interval,
            note=grey_note(model.mean),
            pictures={picture: _source(pixels) for picture, pixels in pictures.items() if "worst" not in picture},
        )
    )
    path, events = output or run / REPORT, run / TENSORBOARD / _EVENTS
    atomic_write(path, lambda file: file.write(html.encode(errors="replace")))  # names of files may not be UTF-8
    if tested:
        for file in events.glob("events.out.tfevents.*"):
            file.unlink()
        with SummaryWriter(str(events)) as writer:
            for picture, pixels in pictures.items():
                if picture != "filters":
                    writer.add_image(picture, pixels, history.best_step() if history else 0, dataformats="HWC")
    return path


def _source(pixels: np.ndarray) -> str:
    """Returns an image (H, W, 3) uint8 as the source of an <img>."""
    content = BytesIO()
    Image.fromarray(pixels).save(content, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def _mistakes(confusion: Confusion, names: tuple[str, ...]) -> dict[str, Any]:
    """Returns the wrong images of each class, those with the highest error first, and the most confused pairs."""
    errors, images = confusion.class_errors(), confusion.images
    order = np.argsort(-np.nan_to_num(errors, nan=-1.0), kind="stable")[:_LISTED]
    rows = [(names[i], round(errors[i] * images[i]), images[i]) for i in order.tolist() if images[i]]
    pairs = [(names[pair.label], names[pair.predicted], pair.images) for pair in confusion.most_confused()]
    return {"class_errors": rows, "confused": pairs}


def _settings(run: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings, the facts about the machine, and the commands that repeat the run."""
    settings, hardware, changed = config["settings"], config.get("hardware", {}), changed_settings(config["settings"])
    facts = {
        "devices": ", ".join(dict.fromkeys(config.get("devices", []))),
        "placement": config.get("placement"),
        "machine": config.get("machine"),
        **{name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in hardware.items()},
        "python": config.get("python"),
        **config.get("versions", {}),
        "commit of alexnet_torch": config.get("commit"),
    }
    again = ["--output", f"{run}-again"]
    words = [[flag(name)] if value is True else [flag(name), str(value)] for name, value in changed.items()]
    repeated = [*train_program(config.get("processes", 1)), *(word for option in words for word in option), *again]
    copied = [*train_program(), "--config", f"{run}/config.json", *again]
    return {
        "settings": [
            (flag(name), value, name in changed)
            for name, value in settings.items()
            if name not in _OF_THE_FIRST_RUN and value not in (None, False)
        ],
        "facts": [(name, value) for name, value in facts.items() if value],
        "commands": [shlex.join(repeated), shlex.join(copied)],
    }


def changed_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings that differ from the defaults of the run's recipe and ablation, by name."""
    named = {name: settings[name] for name in ("recipe", "ablation") if settings.get(name) is not None}
    defaults = vars(resolve(named)[0])
    return {
        name: value
        for name in options_of(Settings)
        if name in settings and name not in _OF_THE_FIRST_RUN
        # a value of None or False is one that no option gives
        if (value := settings[name]) not in (None, False) and (name in ("data", "recipe") or value != defaults[name])
    }


def train_program(processes: int = 1) -> list[str]:
    """Returns the first words of a command that trains: train.py of this checkout, or the installed program."""
    is_checkout = (Path(__file__).parents[2] / "train.py").is_file()
    if processes > 1:
        torchrun = ["torchrun", f"--nproc_per_node={processes}"]
        return [*torchrun, "train.py"] if is_checkout else [*torchrun, "-m", "alexnet_torch", "train"]
    return ["python", "train.py"] if is_checkout else ["alexnet-torch", "train"]
