"""The model card of a saved model: a README.md in Markdown that says what the model is, reads and scored."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet_torch.errors import UserError
from alexnet_torch.run_folder import CONFIG, METRICS, library_versions

_HEADER = """---
library_name: alexnet_torch
pipeline_tag: image-classification
tags:
- alexnet
- image-classification
---
"""


def model_card(description: Mapping[str, Any], parameters: int, weights_sha256: str, run: Path | None) -> str:
    """Returns the card's text.

    Args:
        description: as model_file.describe_model returns it.
        parameters: the number of weights and biases.
        weights_sha256: SHA-256 of model.safetensors.
        run: the folder of the run that trained the model, whose settings and errors the card then contains.

    Raises:
        UserError: the run's files cannot be read.
    """
    net, size = description["architecture"], description["image_size"]
    classes, side = description["classes"], description["mean"]["side"]
    colour = ", ".join(f"{value:.2f}" for value in description["mean_rgb"])
    stages = ", ".join(stage["name"] for stage in [*net["convs"], *net["linears"]])
    mirrored = "have" if description["mirror"] else "may not have"
    versions = ", ".join(f"{name} {number}" for name, number in library_versions().items())
    title = f"# AlexNet ({net['name']}), {len(classes)} classes, {size} pixels"
    facts = [
        f"- **Network**: architecture `{net['name']}`, {net['towers']} tower(s), {parameters:,} parameters; "
        f"stages {stages}.",
        f"- **Images**: rotated as EXIF says, the central square scaled to {side} pixels (bicubic with antialiasing), "
        f"the central {size} x {size} pixels; RGB of 0..255 minus the mean image, whose mean colour is {colour}. The "
        "mean image itself is in the metadata of `model.safetensors`.",
        f"- **Mirror images** {mirrored} the same class.",
        f"- **Outputs**: logits of {len(classes)} classes, in this order: {', '.join(classes)}.",
        f"- **Files**: `model.safetensors`, SHA-256 `{weights_sha256}`; written with {versions}.",
    ]
    training = _UNKNOWN_TRAINING if run is None else _training(run)
    return "\n\n".join([_HEADER + title, _INTRODUCTION, "\n".join(facts), training, _USE]) + "\n"


_INTRODUCTION = "AlexNet (Krizhevsky, Sutskever and Hinton, 2012), trained or imported with alexnet_torch."
_UNKNOWN_TRAINING = """## Training

The model was saved without the run that trained it: this card cannot name its data and its error."""
_USE = """## Use

```python
from pathlib import Path

from alexnet_torch import TrainedModel, predict

model = TrainedModel.from_pretrained("FOLDER")  # the folder of this file
for file, guesses in predict(model, [Path("image.jpg")]):
    print(file, guesses[0]["label"], guesses[0]["probability"])
```"""


def _training(run: Path) -> str:
    try:
        config = json.loads((run / CONFIG).read_text())
        reports = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{run}: its {CONFIG} or {METRICS} cannot be read ({error}); name a run's folder") from error
    settings = config["settings"]
    lines = [f"- **{name}**: `{settings[name]}`" for name in _SETTINGS if settings.get(name) is not None]
    lines += [f"- **{name}**: `{config[name]}`" for name in ("commit",) if config.get(name)]
    lines += [f"- **versions**: {', '.join(f'{name} {v}' for name, v in config.get('versions', {}).items())}"]
    return "\n\n".join(["## Training", "\n".join(lines), *_errors(reports)])


_SETTINGS = ("data", "recipe", "ablation", "image_size", "colour", "epochs", "batch_size", "lr", "seed", "init", "amp")


def _errors(reports: list[dict[str, Any]]) -> list[str]:
    """Returns the validation errors of the best epoch as a table, a row for each number of crops; [] without any."""
    best: dict[int, dict[str, Any]] = {}
    for report in reports:
        if report.get("split") == "val":
            crops = report.get("crops", 1)
            if crops not in best or report["top1_error"] < best[crops]["top1_error"]:
                best[crops] = report
    if not best:
        return []
    rows = [
        f"| {crops} | {report['top1_error']:.2%} | {_percent(report.get('top5_error'))} |"
        for crops, report in sorted(best.items())
    ]
    heading = "Validation error of the weights, which are those of the best epoch:"
    return [heading, "\n".join(["| crops | top-1 | top-5 |", "|---|---|---|", *rows])]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
