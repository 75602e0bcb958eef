"""One process at a time writes a run: the claim of its folder."""

import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from alexnet_torch.errors import UserError
from alexnet_torch.run_folder import claimed
from alexnet_torch.weights.model_file import load_model, save_new_model
from tests.support.commands import demo_options, one_line, read_metrics, run_cli, run_train, train_demo
from tests.support.paths import PROJECT

pytestmark = pytest.mark.usefixtures("narrow_demo_recipe")

CLAIM = """
import sys, time
from pathlib import Path
from alexnet_torch.errors import UserError
from alexnet_torch.run_folder import claimed
sys.stdin.readline()
try:
    with claimed(Path(sys.argv[1])):
        print("claimed", flush=True)
        sys.stdin.readline()
except UserError as error:
    print(error, flush=True)
"""


def claiming(folder: Path) -> "subprocess.Popen[str]":
    """Starts a process that claims a folder after it reads a line, and gives it back after another."""
    line = [sys.executable, "-c", CLAIM, str(folder)]
    return subprocess.Popen(line, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def tell(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def answer(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_of_processes_that_start_together_one_gets_a_new_folder_and_the_others_hear_who(tmp_path: Path) -> None:
    processes = [claiming(tmp_path / "runs/new") for _ in range(3)]
    for process in processes:
        tell(process)
    answers = [answer(process) for process in processes]
    (winner,) = (process for process, text in zip(processes, answers, strict=True) if text == "claimed")
    refused = [text for text in answers if text != "claimed"]
    assert all(re.match(r"--output .*: another process is writing this run; wait", text) for text in refused), refused
    tell(winner)
    assert winner.wait(20) == 0
    # nothing was written; what a refused process made, it could not remove
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    for process in processes:
        process.communicate(timeout=20)


@pytest.mark.parametrize("killed", [True, False])
def test_a_claim_ends_with_its_process_even_if_that_is_killed(killed: bool, tmp_path: Path) -> None:
    process = claiming(tmp_path)
    tell(process)
    assert answer(process) == "claimed"
    with pytest.raises(UserError, match="another process is writing"), claimed(tmp_path):
        pass
    if killed:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)
        assert (tmp_path / ".lock").exists()
    else:
        tell(process)  # it gives the claim back
    with claimed(tmp_path, patience=20) as folder:  # as a restarted job, which waits for the process before
        assert folder == tmp_path
    process.communicate(timeout=20)
    assert not (tmp_path / ".lock").exists()


def test_a_claim_of_a_folder_that_is_moved_is_given_back(tmp_path: Path) -> None:
    with ExitStack() as other:
        with claimed(tmp_path / "run"):
            (tmp_path / "run").rename(tmp_path / "moved")
            other.enter_context(claimed(tmp_path / "run"))
        assert (tmp_path / "run/.lock").exists()  # the other's


def test_a_run_is_neither_started_nor_resumed_beside_its_writer(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train_demo(tmp_path, "--max-steps", "1").returncode == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert not (run / ".lock").exists()
    with claimed(run):
        for more in (["--resume"], ["--resume", "--max-steps", "2"], demo_options(tmp_path)):
            done = run_train("--output", run, *more)
            one_line(done, "train.py: --output .*run: another process is writing this run; wait until it has")
        with pytest.raises(UserError, match="another process"):
            save_new_model(run, load_model(run))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_runs_without_a_name_that_start_in_one_second_get_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []
    for _ in range(3):
        with claimed(tmp_path / "runs/demo-1", new=True) as folder:
            folders.append(folder)
            (folder / "config.json").touch()
    assert [folder.name for folder in folders] == ["demo-1", "demo-1-2", "demo-1-3"]
    monkeypatch.chdir(tmp_path)
    given = demo_options(tmp_path, "--max-steps", "1")
    del given[2:4]  # --output
    for _ in range(2):
        assert run_train(*given).returncode == 0
    runs = [path for path in (tmp_path / "runs").iterdir() if path.name.startswith("demo-2")]
    assert [len(read_metrics(run)) for run in runs] == [3, 3]


def test_wrong_input_leaves_no_folder(tmp_path: Path) -> None:
    output = tmp_path / "new/run"
    one_line(run_train("--data", tmp_path / "nowhere", "--output", output), "nowhere")
    one_line(run_cli("import", tmp_path / "nothing.pt", "--output", output), "nothing.pt")
    assert not (tmp_path / "new").exists()
