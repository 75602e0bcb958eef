"""The names of the files in the folder of a run, and of a pretrained model."""

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
