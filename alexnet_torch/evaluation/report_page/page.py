"""A run's page: what it was, how it learnt, what it gets wrong, and how to repeat it."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_torch.evaluation.figures.curves import History, curves_figure
from alexnet_torch.evaluation.figures.filters import filter_colours, filters_figure, grey_note
from alexnet_torch.evaluation.guesses import Guesses
from alexnet_torch.evaluation.report_page.html import (
    drawing,
    page,
    paragraph,
    section,
    table,
    text,
    vector_drawing,
)
from alexnet_torch.evaluation.report_page.repeat import changed_settings, repeating_command, train_program
from alexnet_torch.evaluation.report_page.results import (
    class_section,
    confusion_section,
    error_section,
    worst_section,
)
from alexnet_torch.recipes.settings import flag
from alexnet_torch.weights.model_file import TrainedModel


@dataclass(frozen=True)
class RunContent:
    """What a page is about."""

    run: Path
    config: dict[str, Any]  # of config.json; empty for imported weights
    history: History | None  # None without metrics.jsonl
    model: TrainedModel
    guesses: Guesses | None  # None without images


def run_page(content: RunContent) -> str:
    """Returns the HTML of a run's page."""
    name, history, guesses = content.run.resolve().name, content.history, content.guesses
    best = None
    if history and len(history.val.epoch):
        index = int(history.val.error.argmin())
        best = float(history.val.epoch[index]), float(history.val.error[index])
    parts = [f"<h1>{text(name)}</h1>", paragraph(_description(content), "note")]
    parts.append(error_section(best, history.test if history else None, guesses))
    if history and (len(history.train.epoch) or len(history.val.epoch)):
        parts.append(section("Curves", vector_drawing(curves_figure({name: [history]}))))
    if guesses:
        parts += [class_section(guesses), confusion_section(guesses), worst_section(guesses.worst)]
    else:
        parts.append(section("What it gets wrong", paragraph("The images were not read: name them with --data DIR.")))
    parts.append(_filter_section(name, content.model))
    if content.config:
        parts += [_settings_section(content.config), _machine_section(content.config), _repeat_section(content)]
    return page(f"{name}: AlexNet", parts)


def _description(content: RunContent) -> str:
    net = content.model.net
    parameters = sum(value.numel() for value in net.parameters())
    images = content.config.get("images")
    counts = f" Trained on {images['train']:,} images, validated on {images['val']:,}." if images else ""
    return (
        f"AlexNet ({net.architecture.name}), {net.architecture.towers} tower(s), {parameters:,} parameters, "
        f"{net.num_classes} classes, images of {net.image_size} x {net.image_size} pixels.{counts}"
    )


def _filter_section(name: str, model: TrainedModel) -> str:
    stage, note = model.net.architecture.convs[0].name, grey_note(model.mean)
    weights = model.net.stage_weights(stage)
    figure = filters_figure(name, weights, filter_colours(stage, weights))
    notes = [paragraph(f"{note[0].upper()}{note[1:]}.", "note")] if note else []
    return section(
        "Filters",
        *notes,
        drawing(figure, f"the filters of {stage}, by tower, and their colourfulness"),
    )


def _settings_section(config: dict[str, Any]) -> str:
    changed = changed_settings(config["settings"])
    rows = [
        [
            f"<code>{text(flag(name))}</code>",
            f'<span class="changed">{text(value)}</span>' if name in changed else text(value),
        ]
        for name, value in config["settings"].items()
        if name not in ("output", "resume")
    ]
    note = "Bold: the data, the recipe, and what differs from the recipe."
    return section("Settings", paragraph(note, "note"), table(["option", "value"], rows))


def _machine_section(config: dict[str, Any]) -> str:
    hardware = config.get("hardware", {})
    facts = {
        "devices": ", ".join(dict.fromkeys(config.get("devices", []))),
        "placement": config.get("placement"),
        "machine": config.get("machine"),
        **{name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in hardware.items()},
        "python": config.get("python"),
        **config.get("versions", {}),
        "commit of alexnet_torch": config.get("commit"),
    }
    return section("Machine and versions", table(["", ""], [[text(k), text(v)] for k, v in facts.items() if v]))


def _repeat_section(content: RunContent) -> str:
    settings, processes = content.config["settings"], content.config.get("processes", 1)
    again = f"{content.run}-again"
    commands = [
        repeating_command(settings, processes, again),
        shlex.join([*train_program(), "--config", f"{content.run}/config.json", "--output", again]),
    ]
    note = "Either command trains the same network again; the second one copies every setting from the run."
    return section("Repeat it", paragraph(note), "<pre>" + "\n".join(map(text, commands)) + "</pre>")
