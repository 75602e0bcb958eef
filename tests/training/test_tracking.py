"""--track: what trackers get: modules that record calls, and the real packages where they are installed."""

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import read_metrics, run_train
from tests.support.folders import make_images
from tests.support.steps import before_step, send_sigterm

pytestmark = pytest.mark.usefixtures("narrow_demo_recipe")

# each module writes its calls to calls.jsonl beside it
RECORDER = """
import json, pathlib
def record(call, *values, **named):
    with (pathlib.Path(__file__).parent / "calls.jsonl").open("a") as file:
        file.write(json.dumps([call, values, named]) + "\\n")
"""
FAKES = {
    "wandb": """
class Summary:
    def update(self, metrics): record("log", metrics, "summary")
class Run:
    summary = Summary()
    def log(self, metrics, step): record("log", metrics, step)
    def finish(self): record("finish")
def init(**named): record("init", **named); return Run()
""",
    "trackio": """
class Run:
    def log(self, metrics, step): record("log", metrics, step)
    def finish(self): record("finish")
def init(project, **named): record("init", project, **named); return Run()
""",
    "mlflow": """
class Info:
    run_id = "given-by-the-server"
class Run:
    info = Info()
def set_experiment(name): record("experiment", name)
def start_run(**named): record("init", **named); return Run()
def log_params(values): record("params", values)
def log_metrics(metrics, step): record("log", metrics, step)
def end_run(): record("finish")
""",
}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], object]]:
    """A function that makes a module of a name and a text, to be imported in this test."""
    (tmp_path / "modules").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "modules")
    yield lambda name, text: (tmp_path / f"modules/{name}.py").write_text(RECORDER + text)
    for name in FAKES:
        sys.modules.pop(name, None)


def calls(tmp_path: Path) -> list[Any]:
    return [json.loads(line) for line in (tmp_path / "modules/calls.jsonl").read_text().splitlines()]


def given(tmp_path: Path, tool: str) -> list[str]:
    data = make_images(tmp_path / "images")
    options = ["--data", str(data), "--output", str(tmp_path / "run"), "--recipe", "demo", "--batch-size", "8"]
    return [*options, "--epochs", "2", "--log-every", "2", "--track", tool]


@pytest.mark.parametrize("fake", FAKES)
def test_a_tracker_gets_every_record_and_a_resumed_run_is_the_same_one(
    fake: str, install: Callable[[str, str], object], tmp_path: Path
) -> None:
    install(fake, FAKES[fake])
    with before_step(4, send_sigterm):
        assert run_train(*given(tmp_path, fake)).returncode == 143
    resumed = run_train("--output", str(tmp_path / "run"), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    made = calls(tmp_path)
    assert [call for call, *_ in made if call in ("init", "finish")] == ["init", "finish"] * 2
    first, second = (named for call, _, named in made if call == "init")
    if fake == "mlflow":
        assert (first, second) == ({"run_name": "run"}, {"run_id": "given-by-the-server"})
        (params,) = (values[0] for call, values, _ in made if call == "params")
    else:
        identity = "id" if fake == "wandb" else "name"
        assert first[identity] == second[identity]
        assert second["resume"] == "allow"
        params = first["config"]
    assert (params["batch_size"], params["recipe"], params["track"]) == (8, "demo", fake)
    sent = [values for call, values, _ in made if call == "log"]
    expected = []
    for record in read_metrics(tmp_path / "run"):
        split = "test" if record.get("crops", 1) != 1 else record["split"]
        expected.append((record["step"], {f"{split}/{k}": v for k, v in record.items() if isinstance(v, float)}))
    assert len(sent) == len(expected)
    for (metrics, number), (expected_step, values) in zip(sent, expected, strict=True):
        assert number == ("summary" if fake == "wandb" and "test/loss" in values else expected_step)
        assert values.items() <= metrics.items()
    assert "train/images_per_second" in sent[0][0]


def test_a_tracker_that_fails_does_not_stop_training(install: Callable[[str, str], object], tmp_path: Path) -> None:
    failing = 'raise ConnectionError("no\\nnetwork")'
    install("wandb", FAKES["wandb"].replace('record("log", metrics, step)', failing))
    done = run_train(*given(tmp_path, "wandb"))
    assert done.returncode == 0
    assert done.stderr.count("--track wandb: failed (no network); training goes on without it") == 1
    assert done.stderr.count("--track") == 1


def test_a_tracker_that_does_not_start_is_one_line(install: Callable[[str, str], object], tmp_path: Path) -> None:
    install("wandb", "def init(**_): raise RuntimeError('not logged in')")
    done = run_train(*given(tmp_path, "wandb"))
    assert done.returncode == 2
    told = "train.py: --track wandb: does not start (not logged in); fix it, or leave out --track"
    assert done.stderr.splitlines()[-1] == told


@pytest.mark.parametrize("tool", FAKES)
def test_a_missing_package_is_told_before_images_are_read(tool: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(tool):
        pytest.skip(f"{tool} is installed")
    done = run_train("--data", str(tmp_path / "nowhere"), "--output", str(tmp_path / "run"), "--track", tool)
    assert done.returncode == 2
    assert re.fullmatch(
        rf"train.py: --track {tool}: needs the package {tool}; run pip install {tool}, .*\n", done.stderr
    )


@pytest.mark.slow
def test_mlflow_itself_has_one_run_with_all_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    options = given(tmp_path, "mlflow")
    assert run_train(*options, "--max-steps", "3").returncode == 0
    done = run_train("--output", str(tmp_path / "run"), "--resume", "--max-steps", "6")
    assert done.returncode == 0, done.stderr
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("alexnet_torch")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["recipe"] == "demo"
    history = client.get_metric_history(run.info.run_id, "val/top1_error")
    expected = [r for r in read_metrics(tmp_path / "run") if r["split"] == "val" and r["crops"] == 1]
    assert [(m.step, m.value) for m in history] == [(r["step"], r["top1_error"]) for r in expected]


@pytest.mark.slow
def test_trackio_itself_has_one_run_with_all_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    options = given(tmp_path, "trackio")
    assert run_train(*options, "--max-steps", "3").returncode == 0
    done = run_train("--output", str(tmp_path / "run"), "--resume", "--max-steps", "6")
    assert done.returncode == 0, done.stderr
    (run,) = trackio.Api().runs("alexnet_torch")
    assert run.name.startswith("run-")
