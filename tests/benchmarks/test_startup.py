"""The start of commands: its phases are measured, and no start imports a package that it does not use."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.harness.startup_child import HEAVY
from tests.support.paths import PROJECT

IMPORTS = ["Python", "import the options' parser", "import torch", "import the rest"]
WORK = {
    "train": ["decode, or find decoded images", "network", "first step", "the rest"],
    "predict": ["load the model", "decode", "compute", "the rest"],
    "evaluate": ["load the model", "compute", "the rest"],
}


@pytest.mark.parametrize("command", ["train", "predict", pytest.param("evaluate", marks=pytest.mark.slow)])
def test_commands_start_without_what_they_do_not_use(command: str, run_folder: Path, tmp_path: Path) -> None:
    images = run_folder.parent / "images"
    given: dict[str, tuple[str | Path, ...]] = {
        "train": ("--data", images, "--recipe", "demo", "--batch-size", "4", "--output", tmp_path / "new"),
        "predict": (run_folder, images / "val/class0/000.png"),
        "evaluate": (run_folder, "--data", images),
    }
    started = time.time()
    line = [sys.executable, "-m", "benchmarks.harness.startup_child", command, *map(str, given[command])]
    environment = {**os.environ, "STARTED": str(started)}
    done = subprocess.run(line, cwd=PROJECT, env=environment, capture_output=True, text=True)
    total = time.time() - started
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    of_torch = ["sympy"] if torch.__version__ < "2.11" else []  # by its meta tensors
    assert result["heavy"] == of_torch, f"{command} imports {result['heavy']}; HEAVY knows {HEAVY}"
    assert set(result["phases"]) == {*IMPORTS, *WORK[command]}
    assert all(seconds >= 0 for seconds in result["phases"].values())
    assert 0.5 * total < sum(result["phases"].values()) <= total
