"""The list of runs, their comparison over seeds, and how training says how it ended."""

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_torch.evaluation.figures.curves import Curve, across_seeds
from alexnet_torch.evaluation.runs import duration
from alexnet_torch.run_folder import claimed
from tests.support.commands import run_cli, run_train
from tests.support.folders import make_images
from tests.support.steps import before_step, send_sigterm

pytestmark = pytest.mark.usefixtures("narrow_demo_recipe")


def write_run(folder: Path, errors: list[float], test: float | None = None, **settings: Any) -> Path:
    """Writes what `runs` reads of a run: each epoch has 10 steps of 8 images, in two reports, at 40 images/s."""
    folder.mkdir(parents=True)
    given = {"recipe": "demo", "seed": 0, "lr": 0.01, "epochs": 3, "batch_size": 8, "output": str(folder), **settings}
    (folder / "config.json").write_text(json.dumps({"settings": given}))
    records: list[dict[str, Any]] = []
    for epoch, error in enumerate(errors, 1):
        for step in (10 * epoch - 5, 10 * epoch):
            report = {"split": "train", "step": step, "epoch": step / 10, "loss": 1, "top1_error": 0.5}
            records.append(report | {"images_per_second": 40.0})
        done = {"split": "val", "step": 10 * epoch, "epoch": epoch, "loss": 1, "top1_error": error, "crops": 1}
        records.append(done)
    if test is not None:
        records.append({**records[-1], "step": 10, "epoch": 1, "top1_error": test, "crops": 10})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def rows(*options: str | Path) -> list[list[str]]:
    done = run_cli("runs", *options)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


def test_runs_are_listed_with_what_differs_and_how_they_ended(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [0.5, 0.2, 0.3], 0.15)
    write_run(tmp_path / "b", [0.5], lr=0.02)
    write_run(tmp_path / "group/c", [0.4], lr=50.0)
    (tmp_path / "group/c/end.json").write_text('{"state": "diverged", "message": "..."}')
    write_run(tmp_path / "d", [], lr=0.03)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text('{"settings": {"theme": "dark"}}')
    with claimed(tmp_path / "d"):
        listed = rows(tmp_path)
    assert listed == [
        ["run", "lr", "state", "epochs", "best", "at", "test", "time"],
        ["a", "0.01", "done", "3/3", "20.00%", "2", "15.00%", "6 s"],  # 30 steps of 8 images at 40 images/s
        ["b", "0.02", "stopped", "1/3", "50.00%", "1", "2 s"],
        ["d", "0.03", "running", "0/3", "0 s"],
        ["group/c", "50.0", "diverged", "1/3", "40.00%", "1", "2 s"],
    ]
    assert rows(tmp_path)[3][2] == "stopped"


def test_a_table_of_many_settings_has_80_columns(tmp_path: Path) -> None:
    for seed in (0, 1):
        name = tmp_path / f"cifar-18-20261130-21400{seed}"
        write_run(name, [0.5], 0.4, seed=seed, lr=0.1 + seed, data=f"/long/{'path' * 9}{seed}", epochs=9 + seed)
    heading, *lines = run_cli("runs", tmp_path).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert heading.split() == ["run", "state", "epochs", "best", "at", "test", "time"]
    assert "    seed 1, lr 1.1, epochs 10, data ...pathpath" in lines[3]


def test_a_damaged_run_is_left_out_with_a_line(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [0.5])
    for name, file in (("b", "config.json"), ("c", "metrics.jsonl"), ("d", "end.json")):
        (write_run(tmp_path / name, [0.5]) / file).write_text("{\n")
    done = run_cli("runs", tmp_path)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["run", "a"]
    assert [line.partition(str(tmp_path))[2][:10] for line in done.stderr.splitlines()] == [
        *("/b/config.", "/c/metrics", "/d/end.jso")
    ]
    assert "no such folder" in run_cli("runs", tmp_path / "x").stderr
    (tmp_path / "empty").mkdir()
    assert run_cli("runs", tmp_path / "empty").stdout.endswith("no runs\n")


def test_runs_are_compared_over_seeds(tmp_path: Path) -> None:
    errors = {0: 0.21, 1: 0.24, 2: 0.18}
    for seed, error in errors.items():
        write_run(tmp_path / f"seed{seed}", [0.5, error], error - 0.02, seed=seed)
    write_run(tmp_path / "stopped", [0.9], seed=3)
    write_run(tmp_path / "fast", [0.5, 0.3], 0.29, lr=0.02)
    heading, fast, slow = rows(tmp_path, "--compare")
    assert heading[:2] == ["lr", "seeds"]
    assert fast == ["0.02", "1", "30.00%", "30.00%", "30.00%", "29.00%"]
    spread = f"± {statistics.stdev(errors.values()):.2%}"
    assert slow == ["0.01", "3 + 1 not done", "21.00%", spread, "18.00%", "24.00%", "19.00%", spread]


def test_a_band_has_the_steps_of_all_seeds() -> None:
    a = Curve(*np.array([[1, 2, 3], [10, 20, 30], [3, 2, 1], [0.9, 0.5, 0.4]], np.float64))
    b = Curve(*np.array([[1, 2], [10, 20], [5, 1], [0.7, 0.6]], np.float64))
    mean, low, high = across_seeds([a, b])
    assert mean.step.tolist() == [10, 20]
    assert mean.loss.tolist() == [4, 1.5]
    assert low.error.tolist() == [0.7, 0.5]
    assert high.error.tolist() == [0.9, 0.6]
    _, low, high = across_seeds([a])
    assert low.error.tolist() == high.error.tolist() == a.error.tolist()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (184, "3 min 04 s"), (18370, "5 h 06 min")]
)
def test_times_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_training_says_how_it_ended(tmp_path: Path) -> None:
    images, run = make_images(tmp_path / "images"), tmp_path / "run"
    given = ["--data", str(images), "--output", str(run), "--recipe", "demo", "--batch-size", "8"]

    def end() -> Any:
        return json.loads((run / "end.json").read_text())["state"]

    def stop() -> None:
        assert not (run / "end.json").exists()  # while it runs
        send_sigterm()

    with before_step(1, stop):
        assert run_train(*given).returncode == 143
    assert end() == "stopped"
    assert run_train("--output", str(run), "--resume", "--max-steps", "9", "--lr", "1e30").returncode == 1
    assert end() == "diverged"
    assert run_train("--output", str(run), "--resume", "--max-steps", "3", "--lr", "0.001").returncode == 0
    assert end() == "done"


def test_seeds_are_drawn_as_a_band(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images")
    for seed in ("0", "1"):
        given = ["--data", str(images), "--recipe", "demo", "--batch-size", "8", "--epochs", "2", "--seed", seed]
        assert run_train(*given, "--output", str(tmp_path / f"runs/seed{seed}")).returncode == 0
    drawn = run_cli("figures", *(tmp_path / "runs").glob("seed*"), "--data", "none", "--output", tmp_path / "figures")
    assert drawn.returncode == 0, drawn.stderr
    (curves,) = (tmp_path / "figures").rglob("curves.svg")
    assert "PolyCollection" in curves.read_text() or "FillBetween" in curves.read_text()
