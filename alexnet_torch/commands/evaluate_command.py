"""evaluate: the errors of runs on images with known classes."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from alexnet_torch.commands.options import Devices, SkipBad, load_run, shown
from alexnet_torch.errors import UserError


def evaluate_command(
    runs: Annotated[tuple[Path, ...], Positional, shown("RUN [RUN ...]", "required")],
    data: Annotated[str, shown("DIR|digits")],
    crops: Annotated[Literal[1, 5, 10] | None, shown("1|5|10", "default: 1 and 10; 5 for --no-mirror runs")] = None,
    devices: Devices = None,
    cache: Annotated[str, shown("DIR|auto|none")] = "auto",
    skip_bad: SkipBad = False,
) -> None:
    """Test runs on a folder's val/ images: each run, and the average of several.

    Args:
        runs: Runs' folders, with model.pt and model.json, of the same classes.
        data: A folder as for training, or "digits".
        crops: 1, the centre crop; 5, with the corners; or 10, with mirror images, as in the paper.
        cache: Where to store decoded images, as in training: a folder, auto or none.
    """
    if not runs:
        raise UserError("evaluate: name at least one run's folder")
    if len({run.resolve() for run in runs}) < len(runs):
        raise UserError("evaluate: the same run is named twice; name each run once")
    from alexnet_torch.data.digits import data_folder
    from alexnet_torch.data.prepare import prepare
    from alexnet_torch.evaluation.evaluate import check_same_classes, evaluate_models, refuse_diverged
    from alexnet_torch.evaluation.metrics import error_table
    from alexnet_torch.evaluation.multi_crop import default_num_crops

    names, models = [str(run) for run in runs], [load_run(run, devices) for run in runs]
    check_same_classes({name: model.classes for name, model in zip(names, models, strict=True)})
    sides = {model.mean.shape[0] for model in models}
    prepared = {side: prepare(data_folder(data), side, cache, skip_bad) for side in sides}
    data_classes = {f"--data {data}": images.classes for images in prepared.values()}
    check_same_classes({names[0]: models[0].classes} | data_classes)
    results = evaluate_models(models, prepared, crops or default_num_crops(models))
    assert results is not None  # only a stop signal makes it None, and none is passed
    refuse_diverged(names, results)
    print(error_table(names, {n: result for n, result in results.items() if crops in (None, n)}))
