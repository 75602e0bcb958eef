"""The project's folder, where results are saved, and the training script."""

from pathlib import Path

PROJECT = Path(__file__).parents[2]
RESULTS = PROJECT / "benchmarks/results"
TRAIN_SCRIPT = PROJECT / "train.py"
