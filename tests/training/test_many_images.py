"""Tests that take minutes; `make test-all` runs them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.commands import read_metrics
from tests.support.paths import PROJECT

pytestmark = pytest.mark.slow


def test_a_run_killed_at_random_moments_and_resumed_gives_the_same_result() -> None:
    line = [sys.executable, "-m", "benchmarks.experiments.kill_resume", "--kills", "8", "--epochs", "1", "--seed", "1"]
    done = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "model.pt bitwise equal: True; metrics equal: True"


@pytest.mark.parametrize("batch_size", [32, 128])
def test_the_default_recipe_learns_small_images(
    batch_size: int, tmp_path: Path, shared_data: Callable[[str], Path]
) -> None:
    """Chance is 90%; with Caffe's initial weights the error is still 90% after 3 epochs of batch 128."""
    given = ["--data", str(shared_data("tiny-imagenet-10")), "--image-size", "64", "--epochs", "4", "--val-every", "4"]
    line = [sys.executable, str(PROJECT / "train.py"), *given, "--batch-size", str(batch_size)]
    subprocess.run([*line, "--output", str(tmp_path / "run")], check=True, capture_output=True)
    reports = read_metrics(tmp_path / "run")
    assert min(r["top1_error"] for r in reports if r["split"] == "val" and r["crops"] == 1) < 0.7
