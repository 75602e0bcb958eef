"""What is printed, and how much; it never stops a run, whose reader, terminal or descriptors may be gone."""

import logging
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from alexnet_torch.training import trainer
from alexnet_torch.training.checkpoints import list_checkpoints
from alexnet_torch.training.step import train_step
from tests.support.commands import demo_options, read_metrics, resume, run_cli, train_demo
from tests.support.paths import NARROW_TRAIN, PROJECT

pytestmark = pytest.mark.usefixtures("narrow_demo_recipe")
SLOW = pytest.mark.slow
LONG = "--epochs 1000 --val-every 1000 --log-every 1"


def training(folder: Path, more: str) -> str:
    """Returns a shell's command that trains on FOLDER/images into FOLDER/run."""
    return f"{sys.executable} {NARROW_TRAIN} {' '.join(demo_options(folder))} {more}"


def shell(command: str) -> "subprocess.CompletedProcess[str]":
    line = ["bash", "-c", command]
    return subprocess.run(line, capture_output=True, text=True, timeout=600, check=False, cwd=PROJECT)


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + 300
    while not (run / "metrics.jsonl").exists() or len(read_metrics(run)) < step:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    "output",
    ["| sleep 0", ">/dev/full", *(pytest.param(closed, marks=SLOW) for closed in (">&-", "2>&-")), "<&- >&- 2>&-"],
)
def test_a_run_whose_output_nobody_reads_or_is_closed_goes_on_and_saves(output: str, tmp_path: Path) -> None:
    done = shell(f"{training(tmp_path, '--max-steps 3 --log-every 1')} {output}; exit ${{PIPESTATUS[0]}}")
    assert done.returncode == 0, done.stderr
    assert "BrokenPipe" not in done.stderr
    assert len(read_metrics(tmp_path / "run")) == 5  # each line is JSON: nothing was printed into the file
    (saved,) = list_checkpoints(tmp_path / "run/checkpoints")[:1]
    assert torch.load(saved, weights_only=True)["state"]["step"] == 3


@pytest.mark.parametrize(
    ("output", "status", "reason"),
    [("| sleep 0", 141, None), (">/dev/full", 2, "No space left on device"), (">&-", 2, "it is closed")],
)
def test_a_command_that_cannot_print_its_result_says_so_unless_its_reader_has_ended(
    output: str, status: int, reason: str | None, run_folder: Path
) -> None:
    image = run_folder.parent / "images/val/class0/000.png"
    done = shell(f"{sys.executable} -m alexnet_torch predict {run_folder} {image} {output}; exit ${{PIPESTATUS[0]}}")
    message = f"standard output cannot be written ({reason}); make room, or send it elsewhere"
    assert done.stderr == ("" if reason is None else f"python -m alexnet_torch: {message}\n")
    assert done.returncode == status


def test_ctrl_c_to_a_pipeline_saves(tmp_path: Path) -> None:
    """Ctrl-C ends tee, too: what the run prints after it has no reader."""
    line = f"trap : INT; {training(tmp_path, LONG)} | tee {tmp_path}/log; exit ${{PIPESTATUS[0]}}"
    process = subprocess.Popen(["bash", "-c", line], start_new_session=True, stderr=subprocess.PIPE, text=True)
    wait_for_step(tmp_path / "run", 3)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "finishing the step, then saving; Ctrl-C again stops at once" in errors
    assert re.search("stopped after step .*; continue with --resume", errors)
    assert list_checkpoints(tmp_path / "run/checkpoints")


def test_a_terminal_that_is_closed_saves(tmp_path: Path) -> None:
    """Its processes get SIGHUP, and cannot write to it any more."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(PROJECT)
        os.execv("/bin/bash", ["bash", "-c", f"exec {training(tmp_path, LONG)}"])
    wait_for_step(tmp_path / "run", 3)
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert list_checkpoints(tmp_path / "run/checkpoints")


@SLOW
def test_nohup_ignores_the_end_of_the_terminal(tmp_path: Path) -> None:
    line = f"trap '' HUP; exec {training(tmp_path, '--max-steps 12 --log-every 1')}"
    process = subprocess.Popen(["bash", "-c", line], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_step(tmp_path / "run", 1)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(n, marks=SLOW) for n in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1))],
)
def test_a_signal_while_images_are_decoded_says_that_the_same_command_continues(number: int, tmp_path: Path) -> None:
    line = training(tmp_path, "").split()
    large = tmp_path / "images/train/class0/large.png"
    Image.new("RGB", (5000, 5000)).save(large, compress_level=1)
    for number_of_link in range(60):  # decoding takes several seconds
        os.link(large, large.with_name(f"large-{number_of_link}.png"))
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert any("decoding once" in line for line in process.stderr)
    time.sleep(0.5)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors.splitlines()[-1] == "train.py: interrupted; the same command continues"
    assert not (tmp_path / "run").exists()


# --quiet and --verbose, warnings of libraries, and logs in files without remains of progress bars


@pytest.fixture
def _warning_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step warns as a library does."""

    def step(*values: Any) -> Any:
        if logging.getLogger("torch.utils.cpp_extension").isEnabledFor(logging.WARNING):
            print("logged No CUDA runtime is found", file=sys.stderr)
        warnings.warn("lr_scheduler.step() before optimizer.step()", UserWarning, stacklevel=1)
        return train_step(*values)

    monkeypatch.setattr(trainer, "train_step", step)
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: print(f"showed {message}", file=sys.stderr))


@pytest.mark.usefixtures("_warning_library")
def test_quiet_prints_only_what_was_found(tmp_path: Path) -> None:
    quiet = train_demo(tmp_path, "--epochs", "2", "--quiet")
    assert (quiet.returncode, quiet.stdout) == (0, "")
    (line,) = (line for line in quiet.stderr.splitlines() if not re.match("decoding|compiling", line))
    assert "3 classes, 24 training and 12 validation images" in line
    resumed = resume(tmp_path / "run", "--epochs", "3")
    assert "starting from" in resumed.stdout  # a resumed run is not quiet because the first one was
    for text in ("showed", "logged", "checkpoint "):
        assert text not in resumed.stderr
    verbose = resume(tmp_path / "run", "--epochs", "4", "--verbose")
    assert verbose.returncode == 0, verbose.stderr
    assert "showed lr_scheduler.step() before optimizer.step()" in verbose.stderr
    assert "logged No CUDA runtime is found" in verbose.stderr
    assert re.search(r"^checkpoint \S+/step-00000012-\w+\.pt, in \d+\.\d s$", verbose.stderr, re.M)
    assert re.search(r"^versions: .*'torch': ", verbose.stderr, re.M)


def test_commands_take_both_too(run_folder: Path) -> None:
    given = ("predict", run_folder, run_folder.parent / "images/val/class0/000.png")
    assert run_cli(*given, "--quiet").stdout == run_cli(*given).stdout != ""


@SLOW
def test_a_log_in_a_file_has_no_remains_of_a_bar_and_a_terminal_has_one(tmp_path: Path) -> None:
    options = demo_options(tmp_path, "--epochs", "2", "--cache", tmp_path / "cache")
    line, log = [sys.executable, str(NARROW_TRAIN), *options], tmp_path / "log"
    first = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "new")}  # it compiles, then
    with log.open("w") as file:
        done = subprocess.run(line, stdout=file, stderr=subprocess.STDOUT, env=first, check=False)
    assert done.returncode == 0
    text = log.read_text()
    assert not re.search("\r|\x1b|it/s|CUDA runtime|Warning", text)
    assert "compiling" in text
    assert "step 6: loss" in text
    shown = on_a_terminal([*line, "--output", str(tmp_path / "other")])
    whole = r"100%\|.+\| 6/6 \[\S+ left, loss [\d.]+, error [\d.]+%, \d+ images/s\]\s*"
    bars = re.findall(r"100%\|[^\r\x1b]*", shown)
    assert any(re.fullmatch(whole, bar) for bar in bars), bars
    assert " left, loss" not in on_a_terminal([*line, "--output", str(tmp_path / "quiet"), "--quiet"])


def on_a_terminal(line: list[str]) -> str:
    """Returns what a command prints on a terminal."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (24, 80))
    process = subprocess.Popen(line, stdout=its, stderr=its)
    os.close(its)
    shown = b""
    with suppress(OSError):  # Linux's way to say that the terminal has no program
        while received := os.read(ours, 4096):
            shown += received
    os.close(ours)
    assert process.wait() == 0, shown.decode()
    return shown.decode()
