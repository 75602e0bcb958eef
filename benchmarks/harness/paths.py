"""Where results are saved, and the training script."""

from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"
TRAIN_SCRIPT = Path(__file__).parents[2] / "train.py"
