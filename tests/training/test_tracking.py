"""--track: what trackers get: modules that record calls, and the real packages where they are installed."""

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import one_line, read_metrics, resume, run_train, train_demo
from tests.support.steps import before_step, send_sigterm

pytestmark = pytest.mark.usefixtures("narrow_demo_recipe")

# each module writes its calls to calls.jsonl beside it
RECORDER = """
import json, pathlib
def record(call, *values, **named):
    with (pathlib.Path(__file__).parent / "calls.jsonl").open("a") as file:
        file.write(json.dumps([call, values, named]) + "\\n")
class Summary:
    def update(self, metrics): record("log", metrics, "summary")
class Run:
    summary = Summary()
    def log(self, metrics, step): record("log", metrics, step)
    def finish(self): record("finish")
"""
FAKES = {
    "wandb": 'def init(**named): record("init", **named); return Run()',
    "trackio": 'def init(project, **named): record("init", project, **named); return Run()\ndel Run.summary',
    "mlflow": """
class Info:
    run_id = "given-by-the-server"
Run.info = Info()
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


def given(tool: str) -> tuple[str, ...]:
    return "--epochs", "2", "--log-every", "2", "--track", tool


@pytest.mark.parametrize("fake", FAKES)
def test_a_tracker_gets_every_record_and_a_resumed_run_is_the_same_one(
    fake: str, install: Callable[[str, str], object], tmp_path: Path
) -> None:
    install(fake, FAKES[fake])
    with before_step(4, send_sigterm):
        assert train_demo(tmp_path, *given(fake)).returncode == 143
    resumed = resume(tmp_path / "run")
    assert resumed.returncode == 0, resumed.stderr
    made: list[Any] = [json.loads(line) for line in (tmp_path / "modules/calls.jsonl").read_text().splitlines()]
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
    assert "train/images_per_second" in sent[0][0]
    for (metrics, number), record in zip(sent, read_metrics(tmp_path / "run"), strict=True):
        split = "test" if record.get("crops", 1) != 1 else record["split"]
        assert number == ("summary" if (fake, split) == ("wandb", "test") else record["step"])
        assert {f"{split}/{k}": v for k, v in record.items() if isinstance(v, float)}.items() <= metrics.items()


def test_a_tracker_that_fails_does_not_stop_training(install: Callable[[str, str], object], tmp_path: Path) -> None:
    install("wandb", FAKES["wandb"] + '\ndef log(*_, **__): raise ConnectionError("no\\nnetwork")\nRun.log = log')
    done = train_demo(tmp_path, *given("wandb"))
    assert done.returncode == 0
    assert done.stderr.count("--track wandb: failed (no network); training goes on without it") == 1
    assert done.stderr.count("--track") == 1


def test_a_tracker_that_does_not_start_is_one_line(install: Callable[[str, str], object], tmp_path: Path) -> None:
    install("wandb", "def init(**_): raise RuntimeError('not logged in')")
    told = r"^train.py: --track wandb: does not start \(not logged in\); fix it, or leave out --track$"
    one_line(train_demo(tmp_path, *given("wandb")), told)


@pytest.mark.parametrize("tool", FAKES)
def test_a_missing_package_is_told_before_images_are_read(tool: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(tool):
        pytest.skip(f"{tool} is installed")
    done = run_train("--data", tmp_path / "nowhere", "--output", tmp_path / "run", "--track", tool)
    assert done.returncode == 2
    told = rf"train.py: --track {tool}: needs the package {tool}; run pip install {tool}, .*\n"
    assert re.fullmatch(told, done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["mlflow", "trackio"])
def test_trackers_themselves_have_one_run_with_all_metrics(
    tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.chdir(tmp_path)
    tracker = pytest.importorskip(tool)
    assert train_demo(tmp_path, *given(tool), "--max-steps", "3").returncode == 0
    done = resume(tmp_path / "run", "--max-steps", "6")
    assert done.returncode == 0, done.stderr
    if tool == "trackio":
        (run,) = tracker.Api().runs("alexnet_torch")
        assert run.name.startswith("run-")
        return
    client = tracker.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("alexnet_torch").experiment_id])
    assert run.data.params["recipe"] == "demo"
    history = client.get_metric_history(run.info.run_id, "val/top1_error")
    expected = [r for r in read_metrics(tmp_path / "run") if r["split"] == "val" and r["crops"] == 1]
    assert [(m.step, m.value) for m in history] == [(r["step"], r["top1_error"]) for r in expected]
