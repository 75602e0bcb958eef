"""What is printed never stops or corrupts a run: a reader, a terminal or the descriptors may be gone."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from alexnet_torch.training.checkpoints import list_checkpoints
from tests.support.folders import make_images
from tests.support.paths import NARROW_TRAIN, PROJECT

SLOW = pytest.mark.slow
LONG = "--epochs 1000 --val-every 1000 --log-every 1"


def training(folder: Path, more: str) -> str:
    """Returns a shell's command that trains on FOLDER/images into FOLDER/run."""
    if not (folder / "images").exists():
        make_images(folder / "images")
    options = f"--data {folder}/images --output {folder}/run --recipe demo --batch-size 8 {more}"
    return f"{sys.executable} {NARROW_TRAIN} {options}"


def shell(command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=600, check=False, cwd=PROJECT
    )


def reported_steps(run: Path) -> int:
    lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
    return len([json.loads(line) for line in lines])


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + 300
    while reported_steps(run) < step:
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
    assert reported_steps(tmp_path / "run") == 5  # each line is JSON: nothing was printed into the file
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


def test_what_is_left_at_the_end_is_no_error(tmp_path: Path) -> None:
    code = (
        "import sys; from alexnet_torch.console import console\nwith console(): print('x'); print('y', file=sys.stderr)"
    )
    python = f'{sys.executable} -c "{code}"'
    lines = [f"sleep 0.2 | {python} > >(:)", f"{python} >/dev/full 2>{tmp_path}/err", f"{python} >&-", f"{python} 2>&-"]
    for line in lines:
        done = shell(line)
        assert (done.returncode, done.stderr.replace("y\n", "")) == (0, ""), line
    assert (tmp_path / "err").read_text() == "y\n"


def test_ctrl_c_to_a_pipeline_saves(tmp_path: Path) -> None:
    """Ctrl-C ends tee, too: what the run prints after it has no reader."""
    line = f"{training(tmp_path, LONG)} | tee {tmp_path}/log; exit ${{PIPESTATUS[0]}}"
    process = subprocess.Popen(
        ["bash", "-c", f"trap : INT; {line}"], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
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
    make_images(tmp_path / "images", train=8)
    large = tmp_path / "images/train/class0/large.png"
    Image.new("RGB", (5000, 5000)).save(large, compress_level=1)
    for number_of_link in range(60):  # decoding takes several seconds
        os.link(large, large.with_name(f"large-{number_of_link}.png"))
    process = subprocess.Popen(
        training(tmp_path, "").split(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert any("decoding once" in line for line in process.stderr)
    time.sleep(0.5)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors.splitlines()[-1] == "train.py: interrupted; the same command continues"
    assert not (tmp_path / "run").exists()
