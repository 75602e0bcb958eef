"""--quiet and --verbose, library warnings, and logs in files without remains of progress bars."""

import logging
import os
import pty
import re
import subprocess
import sys
import termios
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from alexnet_torch.training import trainer
from alexnet_torch.training.step import train_step
from tests.support.commands import run_cli, run_train
from tests.support.folders import make_images
from tests.support.paths import NARROW_TRAIN

pytestmark = pytest.mark.usefixtures("narrow_demo_recipe")


def options(tmp_path: Path, *more: str) -> list[str]:
    data = make_images(tmp_path / "images")
    given = ["--data", str(data), "--output", str(tmp_path / "run"), "--recipe", "demo", "--batch-size", "8"]
    return [*given, "--epochs", "2", *more]


@pytest.fixture
def _warning_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step warns as a library does."""
    inner = train_step

    def step(*values: Any) -> Any:
        if logging.getLogger("torch.utils.cpp_extension").isEnabledFor(logging.WARNING):
            print("logged No CUDA runtime is found", file=sys.stderr)
        warnings.warn("lr_scheduler.step() before optimizer.step()", UserWarning, stacklevel=1)
        return inner(*values)

    monkeypatch.setattr(trainer, "train_step", step)
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: print(f"showed {message}", file=sys.stderr))


@pytest.mark.usefixtures("_warning_library")
def test_quiet_prints_only_what_was_found(tmp_path: Path) -> None:
    quiet = run_train(*options(tmp_path, "--quiet"))
    assert quiet.returncode == 0
    assert quiet.stdout == ""
    lines = [line for line in quiet.stderr.splitlines() if not re.match("decoding|compiling", line)]
    assert len(lines) == 1, lines
    assert "3 classes, 24 training and 12 validation images" in lines[0]
    resumed = run_train("--output", str(tmp_path / "run"), "--resume", "--epochs", "3")
    assert "starting from" in resumed.stdout  # a resumed run is not quiet because the first one was


@pytest.mark.usefixtures("_warning_library")
def test_warnings_of_libraries_reach_the_user_only_if_verbose(tmp_path: Path) -> None:
    normal = run_train(*options(tmp_path))
    assert "showed" not in normal.stderr
    assert "logged" not in normal.stderr
    assert "checkpoint " not in normal.stderr
    verbose = run_train("--output", str(tmp_path / "run"), "--resume", "--epochs", "3", "--verbose")
    assert verbose.returncode == 0, verbose.stderr
    assert "showed lr_scheduler.step() before optimizer.step()" in verbose.stderr
    assert "logged No CUDA runtime is found" in verbose.stderr
    assert re.search(r"^checkpoint \S+/step-00000009-\w+\.pt, in \d+\.\d s$", verbose.stderr, re.M)
    assert re.search(r"^versions: .*'torch': ", verbose.stderr, re.M)


def test_commands_take_both_too(tmp_path: Path) -> None:
    assert run_train(*options(tmp_path, "--max-steps", "1")).returncode == 0
    image = str(tmp_path / "images/val/class0/000.png")
    plain = run_cli("predict", tmp_path / "run", image)
    quiet = run_cli("predict", "--quiet", tmp_path / "run", image)
    assert quiet.stdout == plain.stdout != ""


@pytest.mark.slow
def test_a_log_in_a_file_has_no_remains_of_a_bar_and_a_terminal_has_one(tmp_path: Path) -> None:
    line = [sys.executable, str(NARROW_TRAIN), *options(tmp_path, "--cache", str(tmp_path / "cache"))]
    log, first = tmp_path / "log", {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "new")}  # it compiles, then
    with log.open("w") as file:
        done = subprocess.run(line, stdout=file, stderr=subprocess.STDOUT, env=first, check=False)
    assert done.returncode == 0
    text = log.read_text()
    assert not re.search("\r|\x1b|it/s|CUDA runtime|Warning", text)
    assert "compiling" in text
    assert "step 6: loss" in text
    shown = on_a_terminal([*line[:-2], "--output", str(tmp_path / "other"), *line[-2:]])
    assert "step/s" in shown or "s/step" in shown
    assert "step/s" not in on_a_terminal([*line, "--output", str(tmp_path / "quiet"), "--quiet"])


def on_a_terminal(line: list[str]) -> str:
    """Returns what a command prints on a terminal."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (24, 100))
    process = subprocess.Popen(line, stdout=its, stderr=its)
    os.close(its)
    shown = b""
    with suppress(OSError):  # Linux's way to say that the terminal has no program
        while received := os.read(ours, 4096):
            shown += received
    os.close(ours)
    assert process.wait() == 0, shown.decode()
    return shown.decode()
