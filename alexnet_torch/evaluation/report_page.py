"""The page about a run: one HTML file that needs no server and no other file."""

import base64
import shlex
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from alexnet_torch.data.cache import PreparedImages
from alexnet_torch.evaluation.figures.curves import confusion_figure, curves_figure
from alexnet_torch.evaluation.figures.filters import filter_colours, filters_figure, grey_note
from alexnet_torch.evaluation.figures.style import printable_name, render, svg_text
from alexnet_torch.evaluation.metrics import Confusion, wilson_interval
from alexnet_torch.evaluation.runs import Run, duration, read_run
from alexnet_torch.evaluation.scoring import Tested, score_validation_images, worst_images
from alexnet_torch.files import atomic_write
from alexnet_torch.recipes.recipe import Schedule
from alexnet_torch.recipes.settings import flag, resolve
from alexnet_torch.run_folder import METRICS, REPORT
from alexnet_torch.weights.model_file import TrainedModel

_DRAWN, _LISTED = 2000, 1000  # most classes of a picture, and of a table


def write_report(
    folder: Path,
    model: TrainedModel,
    prepared: PreparedImages | None,
    output: Path | None = None,
    tested: Tested | None = None,
) -> Path:
    """Writes a run's page, FOLDER/report.html by default; only images or a test say what the model gets wrong."""
    if tested is None and prepared:
        tested = score_validation_images(model, prepared)
    run, name, net = read_run(folder), folder.resolve().name, model.net
    stage = net.architecture.convs[0].name
    weights = [tower.detach().float().cpu() for tower in net.stage_weights(stage)]
    values: dict[str, Any] = {  # of the template
        **{"name": name, "net": net, "run": run, "note": grey_note(model.mean)},
        **{"interval": wilson_interval, "errors": []},
        "filters": _source(render(filters_figure(name, weights, filter_colours(stage, weights)))),
        "parameters": sum(value.numel() for value in net.parameters()),
    }
    if run.val:
        values["errors"] = [(1, (run.best["top1_error"], None))]
    if run.train or run.val:
        svg = svg_text(curves_figure({name: [run]}))
        values["curves"] = svg[svg.index("<svg") :]
    if tested and prepared:
        values["errors"] = [(1, (tested.errors[1].top1_error, tested.errors[1].top5_error))]
        confusion = Confusion(tested.predictions, np.arange(net.num_classes), net.num_classes)
        if net.num_classes <= _DRAWN:
            values["confusion"] = _source(render(confusion_figure(model.labels, confusion.counts)))
        errors, images = confusion.class_errors(), confusion.images
        names = [printable_name(label, 60) for label in model.labels]
        order = np.argsort(-np.nan_to_num(errors, nan=-1.0), kind="stable")[:_LISTED].tolist()  # the highest first
        values["class_errors"] = [(names[i], round(errors[i] * images[i]), images[i]) for i in order if images[i]]
        values["confused"] = [(names[label], names[other], count) for label, other, count in confusion.most_confused()]
        values["images"] = len(tested.predictions.labels)
        values["worst"] = [(image, _source(image["pixels"])) for image in worst_images(tested, prepared)]
    if run.train:
        first, last = run.train[0], run.train[-1]
        values["training"] = [
            ("last report", f"{datetime.fromtimestamp((folder / METRICS).stat().st_mtime):%Y-%m-%d %H:%M}"),
            ("time without validation", duration(run.seconds)),
            ("images/s", f"{last['images_per_second']:.0f}"),
            ("learning rate", f"{first['lr']:.3g}, at the end {last['lr']:.3g}"),
            ("loss in the last report", f"{last['loss']:.4f}"),
            ("top-1 error in the last report", f"{last['top1_error']:.2%}"),
        ]
    if run.test:
        values["errors"].append((run.test["crops"], (run.test["top1_error"], run.test["top5_error"])))
    if run.config:
        values |= _settings(folder, run)
    template = jinja2.Environment(autoescape=True).from_string(Path(__file__).with_suffix(".html").read_text())
    html, path = template.render(values), output or folder / REPORT
    atomic_write(path, html.encode(errors="replace"))  # names of files may not be UTF-8
    return path


def _source(pixels: np.ndarray) -> str:
    content = BytesIO()
    Image.fromarray(pixels).save(content, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def _settings(folder: Path, run: Run) -> dict[str, Any]:
    config, others = run.config, ("output", "resume")
    # a value of None or False is one that no option gives
    settings = {n: v for n, v in run.settings.items() if v is not None and v is not False and n not in others}
    defaults = vars(resolve({name: settings[name] for name in ("recipe", "ablation") if name in settings})[0])
    recipe = resolve(settings)[1]
    schedule = "constant" if type(recipe.schedule) is Schedule else recipe.schedule
    of_recipe = [("the recipe's optimizer", recipe.optimizer, False), ("schedule", schedule, False)]
    changed = [n for n, value in settings.items() if n in ("data", "recipe") or value != defaults.get(n)]
    facts = {
        "devices": ", ".join(dict.fromkeys(config.get("devices", []))),
        **{name: config.get(name) for name in ("placement", "machine")},
        **config.get("hardware", {}),
        "python": config.get("python"),
        **config.get("versions", {}),
        "commit of alexnet_torch": config.get("commit"),
    }
    shown = {name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in facts.items()}
    is_checkout = (Path(__file__).parents[2] / "train.py").is_file()
    program = ["python", "train.py"] if is_checkout else ["alexnet-torch", "train"]
    again, copied = ["--output", f"{folder}-again"], [*program, "--config", f"{folder}/config.json"]
    if (processes := config.get("processes", 1)) > 1:
        script = ["train.py"] if is_checkout else ["-m", "alexnet_torch", "train"]
        program = ["torchrun", f"--nproc_per_node={processes}", *script]
    for name in changed:
        program += [flag(name)] if settings[name] is True else [flag(name), str(settings[name])]
    return {
        "settings": [(flag(name), value, name in changed) for name, value in settings.items()] + of_recipe,
        "facts": [(name, value) for name, value in shown.items() if value],
        "commands": [shlex.join([*command, *again]) for command in (program, copied)],
    }
