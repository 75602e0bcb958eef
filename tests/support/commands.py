"""Runs the two command lines in the test's own process, where torch is imported, and reads what a run leaves."""

import io
import json
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

import train
from alexnet_torch import cli
from alexnet_torch.training import launch
from tests.support.folders import make_images


def _captured(command: list[str], main: Callable[[], int]) -> CompletedProcess[str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main()
        except SystemExit as end:  # of --help
            status = int(end.code or 0)
    return CompletedProcess(command, status, out.getvalue(), err.getvalue())


def run_train(*options: str | Path, page: bool = False) -> CompletedProcess[str]:
    """Runs train.py with these options; writes the page about the run, which takes two seconds, only if asked for."""
    command = ["train.py", *map(str, options)]
    with pytest.MonkeyPatch.context() as patch:
        if not page:
            patch.setattr(launch, "write_page", lambda _: None)
        patch.setattr(sys, "argv", command)
        return _captured(command, train.main)


def demo_options(folder: Path, *more: str | Path, run: str = "run") -> list[str]:
    """Returns options to train recipe demo, three steps an epoch, on FOLDER/images, which are made if missing."""
    if not (folder / "images").exists():
        make_images(folder / "images")
    given = ("--data", folder / "images", "--output", folder / run, "--recipe", "demo", "--batch-size", "8", *more)
    return [str(word) for word in given]


def train_demo(folder: Path, *more: str | Path, run: str = "run") -> CompletedProcess[str]:
    """Runs train.py with the options of `demo_options`."""
    return run_train(*demo_options(folder, *more, run=run))


def resume(run: Path, *more: str | Path) -> CompletedProcess[str]:
    """Runs train.py --resume for a run's folder."""
    return run_train("--output", run, "--resume", *more)


def run_cli(*options: str | Path) -> CompletedProcess[str]:
    """Runs `python -m alexnet_torch` with a command and its options."""
    command = [str(option) for option in options]
    return _captured(command, lambda: cli.main(command))


def one_line(done: CompletedProcess[str], pattern: str) -> str:
    """Returns the one line of an error with status 2, after what was told about images; fails if another is found."""
    told = re.compile("^(decoding|compiling|these files were decoded)|image/s|(validation images|matched by name)$")
    lines = [line for line in done.stderr.splitlines() if not told.search(line)]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert re.match(r"(train\.py|python -m alexnet_torch): ", lines[0]), lines[0]
    assert re.search(pattern, lines[0]), lines[0]
    return lines[0]


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Reads a run's reports, without the values that measure the machine's speed."""
    reports = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in report.items() if k not in ("images_per_second", "data_wait")} for report in reports]
