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
from alexnet_torch.recipes.settings import flag, resolve
from alexnet_torch.run_folder import REPORT, TENSORBOARD
from alexnet_torch.weights.model_file import TrainedModel

_DRAWN, _LISTED = 2000, 1000  # most classes of a picture, and of a table


def write_report(
    run: Path,
    model: TrainedModel,
    prepared: PreparedImages | None,
    output: Path | None = None,
    tested: Tested | None = None,
) -> Path:
    """Writes a run's page, and pictures into its TensorBoard events; returns the file, RUN/report.html by default.

    Without images and without a test of the model that has been done, it does not say what the model gets wrong.
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
        errors, images, names = confusion.class_errors(), confusion.images, prepared.names
        order = np.argsort(-np.nan_to_num(errors, nan=-1.0), kind="stable")[:_LISTED].tolist()  # the highest first
        values["class_errors"] = [(names[i], round(errors[i] * images[i]), images[i]) for i in order if images[i]]
        values["confused"] = [(names[label], names[other], count) for label, other, count in confusion.most_confused()]
        values["images"] = len(tested.predictions.labels)
        values["worst"] = [(image, _source(image.pixels)) for image in worst]
    if history and history.test:
        values["errors"].append((history.test["crops"], (history.test["top1_error"], history.test["top5_error"])))
    if config:
        values |= _settings(run, config)
    values |= {"name": name, "net": net, "config": config, "interval": wilson_interval, "note": grey_note(model.mean)}
    values["parameters"] = sum(value.numel() for value in net.parameters())
    values["pictures"] = {picture: _source(pixels) for picture, pixels in pictures.items() if "worst" not in picture}
    template = jinja2.Environment(autoescape=True).from_string(Path(__file__).with_suffix(".html").read_text())
    html = template.render(values)
    path = output or run / REPORT
    # beside the run's own events: TensorBoard follows only the newest file of a folder
    events = run / TENSORBOARD / "report"
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


def _settings(run: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings, the facts about the machine, and the commands that repeat the run."""
    # a value of None or False is one that no option gives
    given = {name: value for name, value in config["settings"].items() if value not in (None, False)}
    settings = {name: value for name, value in given.items() if name not in ("output", "resume")}
    defaults = vars(resolve({name: settings[name] for name in ("recipe", "ablation") if name in settings})[0])
    changed = [n for n, value in settings.items() if n in ("data", "recipe") or value != defaults.get(n)]
    facts = {
        "devices": ", ".join(dict.fromkeys(config.get("devices", []))),
        "placement": config.get("placement"),
        "machine": config.get("machine"),
        **config.get("hardware", {}),
        "python": config.get("python"),
        **config.get("versions", {}),
        "commit of alexnet_torch": config.get("commit"),
    }
    shown = {name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in facts.items()}
    is_checkout = (Path(__file__).parents[2] / "train.py").is_file()
    program = ["python", "train.py"] if is_checkout else ["alexnet-torch", "train"]
    again, copied = ["--output", f"{run}-again"], [*program, "--config", f"{run}/config.json"]
    if (processes := config.get("processes", 1)) > 1:
        script = ["train.py"] if is_checkout else ["-m", "alexnet_torch", "train"]
        program = ["torchrun", f"--nproc_per_node={processes}", *script]
    for name in changed:
        program += [flag(name)] if settings[name] is True else [flag(name), str(settings[name])]
    return {
        "settings": [(flag(name), value, name in changed) for name, value in settings.items()],
        "facts": [(name, value) for name, value in shown.items() if value],
        "commands": [shlex.join([*command, *again]) for command in (program, copied)],
    }
