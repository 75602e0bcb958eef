"""Runs the two command lines in the test's own process, and reads what a run leaves.

Importing torch in a process of its own takes longer than most of these runs.
"""

import io
import json
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


def _captured(command: list[str], main: Callable[[], int]) -> CompletedProcess[str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main()
    return CompletedProcess(command, status, out.getvalue(), err.getvalue())


def run_train(*options: str | Path, page: bool = False) -> CompletedProcess[str]:
    """Runs train.py with these options; writes the page about the run, which takes two seconds, only if asked for."""
    command = ["train.py", *map(str, options)]
    with pytest.MonkeyPatch.context() as patch:
        if not page:
            patch.setattr(launch, "write_page", lambda _: None)
        patch.setattr(sys, "argv", command)
        return _captured(command, train.main)


def run_cli(*options: str | Path) -> CompletedProcess[str]:
    """Runs `python -m alexnet_torch` with a command and its options."""
    command = [str(option) for option in options]
    return _captured(command, lambda: cli.main(command))


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Reads a run's reports, without the values that measure the machine's speed."""
    reports = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in report.items() if k not in ("images_per_second", "data_wait")} for report in reports]
