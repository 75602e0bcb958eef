"""The names of the files in the folder of a run, and of a pretrained model; how damaged ones are made again."""

from pathlib import Path

CONFIG = "config.json"  # settings, architecture, classes, versions
METRICS = "metrics.jsonl"  # one line of JSON for each report
MODEL_WEIGHTS = "model.pt"  # the best weights: a plain state dict
MODEL_DESCRIPTION = "model.json"  # what a prediction needs besides the weights
PRETRAINED_WEIGHTS = "model.safetensors"  # the full model, as save_pretrained writes it
MODEL_CARD = "README.md"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
FIGURES = "figures"
REPORT = "report.html"  # a page about the run
FIGURE_NUMBERS = "figures.json"  # the numbers that the figures show
TRACKING = "tracking.json"  # the identifiers of the run in the trackers of --track
END = "end.json"  # how the run's last process ended, unless it was killed
LOCK = ".lock"  # names the process that writes the run, while it does


def fix_of_damage(run: Path, without_checkpoints: str) -> str:
    """Returns what a user can do about a damaged metrics.jsonl, model.pt or model.json of a run.

    Args:
        run: the run's folder.
        without_checkpoints: what to do where the run has no checkpoints.
    """
    anew = f"train.py --output {run} --resume writes it anew from the run's checkpoint"
    return anew if (run / CHECKPOINTS).is_dir() else without_checkpoints
