"""The start of commands: its phases are measured, and no start imports a package that it does not use."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.harness.startup_child import HEAVY
from tests.support.paths import PROJECT

IMPORTS = ["Python", "import the options' parser", "import torch", "import the rest"]


def start(command: str, *options: str | Path) -> tuple[dict[str, float], list[str], float]:
    """Returns the phases of a command, what it imported of HEAVY, and how long it took."""
    started = time.time()
    line = [sys.executable, "-m", "benchmarks.harness.startup_child", command, *map(str, options)]
    environment = {**os.environ, "STARTED": str(started)}
    done = subprocess.run(line, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    return result["phases"], result["heavy"], time.time() - started


def test_train_starts_without_what_it_does_not_use(tmp_path: Path, images: Path) -> None:
    given = ("--data", images, "--cache", images.parent / "cache", "--recipe", "demo", "--batch-size", "4")
    phases, heavy, total = start("train", *given, "--output", tmp_path / "run")
    assert heavy == [], f"train.py imports {heavy}; HEAVY knows {HEAVY}"
    work = ["decode, or find decoded images", "network", "first step", "the rest"]
    assert list(phases) == [*IMPORTS, *work]
    assert all(seconds >= 0 for seconds in phases.values())
    assert 0.5 * total < sum(phases.values()) <= total


@pytest.mark.parametrize("command", ["predict", pytest.param("evaluate", marks=pytest.mark.slow)])
def test_commands_start_without_what_they_do_not_use(command: str, run_folder: Path) -> None:
    images = run_folder.parent / "images"
    given = [images / "val/class0/000.png"] if command == "predict" else ["--data", images]
    phases, heavy, total = start(command, run_folder, *given)
    assert heavy == [], f"{command} imports {heavy}; HEAVY knows {HEAVY}"
    assert set(phases) - {"decode"} == {*IMPORTS, "load the model", "compute", "the rest"}
    assert ("decode" in phases) == (command == "predict")
    assert 0.5 * total < sum(phases.values()) <= total
