"""train.py as a user runs it: exit status, messages, files, resuming."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

from alexnet_torch import AlexNet, load_model
from alexnet_torch.recipes.recipe import one_tower
from alexnet_torch.training import trainer
from alexnet_torch.training.checkpoints import list_checkpoints, load_newest_intact
from tests.support.commands import read_metrics, run_cli, run_train
from tests.support.folders import make_images
from tests.support.nets import narrow_demo
from tests.support.paths import NARROW_TRAIN, PROJECT
from tests.support.steps import before_step, send_sigterm

pytestmark = pytest.mark.usefixtures("narrow_demo_recipe")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images")


def options(root: Path | str, output: Path, *more: str) -> list[str]:
    given = ["--data", str(root), "--output", str(output), "--recipe", "demo", "--batch-size", "8"]
    return [*given, "--colour", "source", *more]


def train(root: Path | str, output: Path, *more: str) -> CompletedProcess[str]:
    return run_train(*options(root, output, *more))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 epochs of 3 steps; its images are beside it."""
    folder = tmp_path_factory.mktemp("finished")
    make_images(folder / "images")
    done = train(
        folder / "images", folder / "run", "--epochs", "4", "--log-every", "2", "--cache", str(folder / "cache")
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_a_run_folder_has_all_files_and_fields(finished: Path) -> None:
    config = json.loads((finished / "config.json").read_text())
    assert config["settings"]["batch_size"] == 8
    assert config["settings"]["recipe"] == "demo"
    assert config["versions"]["torch"] == torch.__version__
    assert config["devices"] == ["cpu", "cpu"] or config["devices"][0].startswith("cuda")
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    trained = [r for r in records if r["split"] == "train"]
    assert [r["step"] for r in trained] == [2, 4, 6, 8, 10, 12]
    assert all(
        set(r) == {"split", "step", "epoch", "loss", "top1_error", "lr", "images_per_second", "data_wait"}
        for r in trained
    )
    validated = [r for r in records if r["split"] == "val"]
    *centre, ten = validated
    assert [(r["step"], r["epoch"], r["crops"]) for r in centre] == [(3, 1, 1), (6, 2, 1), (9, 3, 1), (12, 4, 1)]
    best = min(centre, key=lambda r: float(r["top1_error"]))  # the first if several are equal
    assert (ten["step"], ten["epoch"], ten["crops"]) == (best["step"], best["epoch"], 10)
    assert all(0 <= r["top5_error"] <= r["top1_error"] <= 1 for r in validated)
    assert len(list_checkpoints(finished / "checkpoints")) in (2, 3)


def test_the_model_has_the_best_weights_and_loads_as_in_the_readme(finished: Path) -> None:
    net = AlexNet(narrow_demo().architecture, num_classes=3, image_size=64)
    net.load_state_dict(torch.load(finished / "model.pt", weights_only=True))
    errors = {r["step"]: r["top1_error"] for r in read_metrics(finished) if r["split"] == "val" and r["crops"] == 1}
    best = min(errors, key=lambda step: errors[step])
    (best_checkpoint,) = (p for p in list_checkpoints(finished / "checkpoints") if f"step-{best:08d}" in p.name)
    weights = torch.load(best_checkpoint, weights_only=True)["weights"]
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("steps", [2, 3, 5, 7])
def test_a_resumed_run_is_bitwise_equal_to_an_uninterrupted_one(steps: int, finished: Path, tmp_path: Path) -> None:
    """Interrupted within an epoch, between reports, and at a validation."""
    images, run = finished.parent / "images", tmp_path / "run"
    with before_step(steps, send_sigterm):
        stopped = train(images, run, "--epochs", "4", "--log-every", "2")
    assert stopped.returncode == 143, stopped.stderr
    assert f"stopped after step {steps}; continue with --resume" in stopped.stderr
    resumed = run_train("--output", str(run), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert f"step-{steps:08d}" in resumed.stdout
    assert read_metrics(run) == read_metrics(finished)
    assert (run / "model.pt").read_bytes() == (finished / "model.pt").read_bytes()
    resumed_state, finished_state = (
        torch.load(list_checkpoints(r / "checkpoints")[0], weights_only=True) for r in (run, finished)
    )
    for name in resumed_state["weights"]:
        assert torch.equal(resumed_state["weights"][name], finished_state["weights"][name])
    for name, tensors in resumed_state["optimizer"].items():
        assert torch.equal(tensors["negative_velocity"], finished_state["optimizer"][name]["negative_velocity"])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains_and_resumes_bitwise(precision: str, root: Path, tmp_path: Path) -> None:
    full, interrupted = tmp_path / "full", tmp_path / "interrupted"
    assert train(root, full, "--precision", precision, "--max-steps", "6").returncode == 0
    assert train(root, interrupted, "--precision", precision, "--max-steps", "3").returncode == 0
    resumed = run_train("--output", str(interrupted), "--resume", "--max-steps", "6")
    assert resumed.returncode == 0, resumed.stderr
    states = [load_newest_intact(run / "checkpoints") for run in (full, interrupted)]
    weights, scalers = ([state[1][part] for state in states if state] for part in ("weights", "scaler"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert scalers[0] == scalers[1]
    assert all(value.dtype == torch.float32 for value in weights[0].values())
    another = "fp16" if precision == "bf16" else "bf16"
    other = run_train("--output", interrupted, "--resume", "--max-steps", "8", "--amp", another)
    one_line(other, f"--resume: the run has --precision {precision}, not")


def test_resuming_a_finished_run_changes_nothing(finished: Path) -> None:
    before = {p: p.read_bytes() for p in finished.glob("*.*") if p.name != "config.json"}
    done = run_train("--output", str(finished), "--resume")
    assert done.returncode == 0
    assert {p: p.read_bytes() for p in before} == before


def test_a_checkpoint_is_refused_as_a_weight_file(finished: Path, tmp_path: Path) -> None:
    """It has no mean image: another one would be guessed."""
    newest = list_checkpoints(finished / "checkpoints")[0]
    done = run_cli("import", str(newest), "--output", str(tmp_path / "imported"))
    one_line(done, r"is a run's checkpoint, which has no mean image or class names; name the run's folder")
    assert not (tmp_path / "imported").exists()


def test_a_damaged_checkpoint_is_skipped(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    newest, before = list_checkpoints(run / "checkpoints")[:2]
    newest.write_bytes(newest.read_bytes()[:-100])
    resumed = train(finished.parent / "images", run, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert f"{newest} is damaged" in resumed.stderr
    assert f"starting from {before}" in resumed.stdout
    assert read_metrics(run) == read_metrics(finished)


def one_line(done: CompletedProcess[str], message: str) -> None:
    told = ("decoding", "image/s", "validation images")  # about the images, before the error
    lines = [line for line in done.stderr.splitlines() if not any(text in line for text in told)]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert re.search(message, lines[0]), lines[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "three"], r"--epochs: invalid int value: 'three' \(see train.py --help\)"),
        (["--lr", "1,5"], r"--lr: invalid float value: '1,5' \(see"),
        (["--amp", "fp8"], r"--precision/--amp: invalid choice: 'fp8' \(choose from .*'?bf16'?, '?fp16'?\) \(see"),
        (["--epoch", "3"], r"unrecognized arguments: --epoch 3 \(perhaps --epochs; see train.py --help\)"),
        (["--epochs", "0"], "--epochs 0: must be 1 or more"),
        (["--batch-size", "0"], "--batch-size 0: must be 1 or more"),
        (["--max-steps", "0"], "--max-steps 0: must be 1 or more"),
        (["--log-every", "0"], "--log-every 0: must be 1 or more"),
        (["--val-every", "0"], "--val-every 0: must be 1 or more"),
        (["--lr", "-1"], "--lr -1.0: must be positive"),
        (["--lr", "nan"], "--lr nan: must be positive"),
        (["--seed", "-1"], "--seed -1: must be 0 or more"),
        (["--ablation", "no-colour"], "--ablation no-colour: changes nothing in this recipe; choose another"),
        (
            ["--ablation", "no-colour", "--recipe", "paper", "--colour", "paper"],
            "--colour paper: must be none for --ablation no-colour",
        ),
        (["--recipe", "papr"], r"--recipe: invalid choice: 'papr' \(choose from .*demo.*\) \(perhaps paper; see"),
        (["photos/"], r"unrecognized arguments: photos/ \(perhaps --data photos/; see"),
        (["--image-size", "63"], "--image-size: image_size 63 is too small for .* smallest that works is 64"),
        (["--devices", "gpu"], "--devices: 'gpu' is not a device"),
        (["--devices", "cuda:99"], r"--devices cuda:99: this machine shows \d+ GPU"),
        (["--devices", "cpu,cpu,cpu"], r"--devices: 3 devices for 2 tower\(s\); name one device, or one for each"),
        (["--split", "devices", "--devices", "cpu"], "--split devices: needs 2 devices"),
        (["--data", "nowhere"], "--data nowhere: there is no such file or folder"),
        (["--resume"], r"--resume: .* holds no run \(no config.json\); start one without --resume"),
        (
            ["--output", "/dev/null/run"],
            "--output /dev/null/run: /dev/null/run: Not a directory; name another path",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_options_get_one_line_and_status_2(options: list[str], message: str, root: Path, tmp_path: Path) -> None:
    one_line(train(root, tmp_path / "run", *options), message)
    assert not (tmp_path / "run").exists()


def test_unreadable_files_are_listed_with_status_2(root: Path, tmp_path: Path) -> None:
    (root / "train/class0/000.png").write_bytes(b"")
    done = train(root, tmp_path / "run")
    assert done.returncode == 2
    assert f"  {root}/train/class0/000.png: empty file" in done.stderr
    assert "Traceback" not in done.stderr
    skipped = train(root, tmp_path / "run", "--skip-bad", "--max-steps", "1")
    assert skipped.returncode == 0
    assert "1 unreadable file(s) left out" in skipped.stderr


def test_a_run_is_not_overwritten(finished: Path) -> None:
    one_line(
        train(finished.parent / "images", finished), "holds a run already; continue it with --resume, or name another"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-size", "9"], "the run has --batch-size 8, not 9"),
        (["--seed", "5"], "the run has --seed 0, not 5"),
        (["--image-size", "67"], "the run has --image-size 64, not 67"),
        (["--no-mirror"], "the run has --no-mirror False, not True"),
        (["--colour", "paper"], "the run has --colour source, not paper"),
        (["--recipe", "source-2012", "--image-size", "64"], "the run does not have the architecture of --recipe"),
        (["--ablation", "no-norm"], "the run does not have the architecture of --recipe and --ablation"),
    ],
)
def test_resume_refuses_settings_of_another_run(options: list[str], message: str, finished: Path) -> None:
    one_line(run_train("--output", str(finished), "--resume", *options), f"--resume: {message}")


def test_an_ablation_is_saved_with_the_run_and_its_model(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = train(root, run, "--ablation", "one-tower", "--max-steps", "1")
    assert done.returncode == 0, done.stderr
    config = json.loads((run / "config.json").read_text())
    assert config["settings"]["ablation"] == "one-tower"
    assert config["devices"] == ["cpu"] or config["devices"][0].startswith("cuda")
    assert config["architecture"]["towers"] == 1
    assert load_model(run).net.architecture == one_tower(narrow_demo().architecture)
    assert run_train("--output", str(run), "--resume", "--max-steps", "2").returncode == 0
    one_line(
        run_train("--output", str(run), "--resume", "--ablation", "tanh"),
        "does not have the architecture of --recipe and",
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "config.json: is damaged .*; name a run's config.json; if this is one, restore it"),
        ("[]", "config.json: is damaged"),
        ('{"settings": {"epochs": "many"}}', "config.json: has a setting of another name or type .*; restore the file"),
        ('{"settings": {"recipe": "mine"}}', "--recipe mine: must be one of paper, "),
        ('{"settings": {"rate": 1, "epochs": 1}}', r"config\.json: has a setting of another name .*'rate'"),
        ('{"settings": {"colour": "pink"}}', "--colour pink: must be one of"),
    ],
)
def test_a_damaged_configuration_is_neither_resumed_nor_repeated(content: str, message: str, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(content)
    one_line(run_train("--output", str(tmp_path), "--resume"), message)
    repeated = run_train("--output", str(tmp_path / "new"), "--config", str(config))
    one_line(repeated, message)
    assert "--resume" not in repeated.stderr


def test_a_run_is_repeated_from_its_configuration(finished: Path, tmp_path: Path) -> None:
    config = finished / "config.json"
    again = run_train("--config", str(config), "--output", str(tmp_path / "again"))
    assert again.returncode == 0, again.stderr
    assert read_metrics(tmp_path / "again") == read_metrics(finished)
    assert (tmp_path / "again/model.pt").read_bytes() == (finished / "model.pt").read_bytes()
    changed = run_train("--config", str(config), "--output", str(tmp_path / "other"), "--seed", "1", "--max-steps", "2")
    assert changed.returncode == 0, changed.stderr
    settings, before = (json.loads((r / "config.json").read_text())["settings"] for r in (tmp_path / "other", finished))
    differ = {name for name in before if settings[name] != before[name]}
    assert differ - {"resume"} == {"output", "seed", "max_steps"}


def test_config_and_resume_exclude_each_other(tmp_path: Path) -> None:
    both = ["--resume", "--output", str(tmp_path), "--config", "x.json"]
    one_line(run_train(*both), "--config: repeats a run in a new folder, --resume continues one; give one of the two")
    one_line(
        run_train("--config", str(tmp_path / "x.json")),
        f"--config {tmp_path}/x.json: No such file or directory; name a run's config.json",
    )


def test_resume_refuses_another_data_set(finished: Path, tmp_path: Path) -> None:
    other = make_images(tmp_path / "other", train=9)
    before = (finished / "config.json").read_bytes()
    one_line(train(other, finished, "--resume"), "--resume: the run does not have the data set of --data")
    assert (finished / "config.json").read_bytes() == before


def test_a_run_without_an_intact_checkpoint_is_not_restarted(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    for path in list_checkpoints(run / "checkpoints"):
        path.write_bytes(b"")
    done = train(finished.parent / "images", run, "--resume")
    assert done.returncode == 2
    assert "no checkpoint in" in done.stderr


def test_a_loss_that_is_not_finite_stops_the_run_and_the_last_checkpoint_stays(root: Path, tmp_path: Path) -> None:
    assert train(root, tmp_path / "run", "--max-steps", "3").returncode == 0
    before = list_checkpoints(tmp_path / "run/checkpoints")
    for often, what in (("1", r"loss of the 1 step\(s\) up to step 5 is (nan|inf)"), ("50", "weights are not finite")):
        done = train(root, tmp_path / "run", "--resume", "--max-steps", "60", "--lr", "1e30", "--log-every", often)
        assert done.returncode == 1
        assert re.search(what + r".*: training diverged; the last good checkpoint is .*step-00000003", done.stderr)
    assert "lower --lr" in done.stderr
    assert list_checkpoints(tmp_path / "run/checkpoints") == before


def test_a_loss_at_chance_is_reported_with_cause_and_fix(root: Path, tmp_path: Path) -> None:
    guessing = torch.tensor(1.008 * math.log(3)), torch.tensor(5)
    long = ("--epochs", "99", "--max-steps", "110", "--val-every", "99", "--log-every", "5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "train_step", lambda *_: guessing)
        done = train(root, tmp_path / "run", *long)
        assert done.returncode == 1
        assert done.stdout.count("within 1% of ln(classes), that of guessing, for 100 steps") == 1
        assert "for 110 steps: the initial weights are too small" in done.stderr
        assert "try --recipe paper" in done.stderr
        patch.setattr(trainer, "train_step", lambda *_: (guessing[0] * 1.01, guessing[1]))
        assert train(root, tmp_path / "other", *long).returncode == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_finish_the_step_save_and_exit(number: signal.Signals, status: int, root: Path, tmp_path: Path) -> None:
    # Ctrl-C in a terminal also reaches the decoding workers
    streamed = ("--cache", "none") if number == signal.SIGINT else ()
    script = PROJECT / "train.py" if streamed else NARROW_TRAIN  # workers import the script: train.py is quicker
    given = ("--epochs", "1000", "--val-every", "1000", "--log-every", "1", *streamed)
    process = subprocess.Popen(
        [sys.executable, str(script), *options(root, tmp_path / "run", *given)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert any("step 4:" in line for line in process.stdout)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert "continue with --resume" in errors
    (saved,) = list_checkpoints(tmp_path / "run/checkpoints")
    assert torch.load(saved, weights_only=True)["state"]["step"] == int(saved.name[5:13]) >= 4


def test_help_answers_in_seconds_with_exactly_the_documented_options() -> None:
    """The command line is a contract: adding or removing an option must change this list."""
    started = time.monotonic()
    line = [sys.executable, str(PROJECT / "train.py"), "--help"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 4
    for group in ("data", "training", "start", "placement", "run"):
        assert f"{group} options" in done.stdout
    promised = (
        "--data --cache --skip-bad --image-size --no-mirror --colour --recipe --ablation --epochs --max-steps "
        "--batch-size --lr --seed --init --init-stages --freeze --devices --split --timeout --output --resume --config "
        "--precision --amp --compile --log-every --val-every --save-every --track --val-split --quiet --verbose --help "
        "--momentum --weight-decay --schedule --warmup-epochs --label-smoothing --grad-accumulation --workers "
        "--val-batch-size"
    )
    assert set(re.findall(r"(?<![\w-])--[a-z-]+", done.stdout)) == set(promised.split())


def test_digits_are_the_default_data_and_are_learnt(tmp_path: Path) -> None:
    given = ["--recipe", "demo", "--no-mirror", "--epochs", "2", "--val-every", "2", "--output", str(tmp_path / "run")]
    line = [sys.executable, str(PROJECT / "train.py"), *given]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    centre, five = (r for r in read_metrics(tmp_path / "run") if r["split"] == "val")
    assert (centre["crops"], five["crops"]) == (1, 5)  # mirrored digits are not digits
    assert centre["top1_error"] < 0.5
    assert five["top1_error"] < 0.7  # corner crops are difficult for a network after two epochs


def test_predict_prints_classes_with_probabilities(finished: Path) -> None:
    images = sorted(str(p) for p in (finished.parent / "images/val").rglob("*.png"))
    done = run_cli("predict", str(finished), *images, "--json")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["file"] for r in records] == images
    for r in records:
        probabilities = [c["probability"] for c in r["classes"]]
        assert sum(probabilities) == pytest.approx(1)
        assert probabilities == sorted(probabilities, reverse=True)
    wrong = sum(r["classes"][0]["label"] != Path(r["file"]).parent.name for r in records) / len(records)
    assert wrong == min(r["top1_error"] for r in read_metrics(finished) if r["split"] == "val" and r["crops"] == 1)
    shown = run_cli("predict", str(finished), images[0]).stdout.splitlines()
    assert shown[0] == images[0]
    assert re.fullmatch(r" +\d+\.\d\d%  class\d", shown[1])


def test_evaluate_prints_the_errors_of_training_and_of_the_average(finished: Path, tmp_path: Path) -> None:
    data = ["--data", str(finished.parent / "images")]
    recorded = [r for r in read_metrics(finished) if r["split"] == "val"]
    centre = next(r for r in recorded if r["step"] == recorded[-1]["step"])
    shown = [
        f"{r['top1_error']:.2%}" for r in (centre, recorded[-1])
    ]  # of three classes, five always hold the right one
    single = run_cli("evaluate", str(finished), *data)
    assert single.returncode == 0, single.stderr
    heading, row = single.stdout.splitlines()
    assert re.split("  +", heading) == ["error", "centre crop, top-1", "10 crops, top-1"]
    assert row.split() == [str(finished), *shown]
    other = shutil.copytree(finished, tmp_path / "copy")
    two = run_cli("evaluate", str(finished), str(other), *data, "--crops", "10").stdout.splitlines()
    assert [re.split("  +", line) for line in two[1:]] == [
        [name, shown[1]] for name in (str(finished), str(other), "average of 2")
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "the following arguments are required: RUN"),
        (["class0", "class1", "dog"], r"other: its classes differ from those of .*run: only one of them has 'class2'"),
        (["class1", "class0", "class2"], r"other: its classes differ from those .*run: they are in a different order"),
        ("--data", r"--data .*: 1 of its 4 classes is none of the classes of .*run: class3; name a set of the model's"),
    ],
)
def test_evaluate_refuses_other_classes_in_one_line(
    change: list[str] | str | None, message: str, finished: Path, tmp_path: Path
) -> None:
    images, runs = finished.parent / "images", [str(finished)]
    if isinstance(change, list):
        other = shutil.copytree(finished, tmp_path / "other")
        description = json.loads((other / "model.json").read_text())
        del description["sha256"]  # as one does who edits the file
        (other / "model.json").write_text(json.dumps({**description, "classes": change}))
        runs.append(str(other))
    elif change is None:
        runs = []
    else:
        images = make_images(tmp_path / "images", classes=4, train=1, val=1)
    one_line(run_cli("evaluate", *runs, "--data", str(images)), message)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["RUN", "nothing.png"], r"nothing\.png: .*No such file.*name image files"),
        (["RUN"], "the following arguments are required: FILE"),
        (["nowhere", "x.png"], r"nowhere: no model here \(model.json is missing\); name a run's folder"),
        (["RUN", "x.png", "--what"], "unrecognized arguments: --what"),
        (["RUN", "x.png", "--devices", "cuda:99"], "--devices cuda:99: this machine shows"),
    ],
)
def test_predict_refuses_in_one_line(given: list[str], message: str, finished: Path) -> None:
    one_line(run_cli("predict", *(str(finished) if word == "RUN" else word for word in given)), message)


def test_predict_refuses_a_model_and_description_that_do_not_match(finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / "model.pt", tmp_path)
    description = json.loads((finished / "model.json").read_text())
    del description["sha256"]  # as one does who edits the file
    (tmp_path / "model.json").write_text(json.dumps({**description, "classes": ["a", "b"]}))
    one_line(run_cli("predict", str(tmp_path), "x.png"), "do not fit each other")
    (tmp_path / "model.pt").write_bytes(b"junk")
    one_line(
        run_cli("predict", str(tmp_path), "x.png"),
        r"model\.pt: is damaged \(.*\); restore it from a backup",
    )


def test_a_full_disk_gives_one_line_and_the_last_checkpoint_stays(root: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a disk needs root")
    measured = train(root, tmp_path / "measured", "--max-steps", "3")
    assert measured.returncode == 0
    sizes = {p: p.stat().st_size for p in (tmp_path / "measured").rglob("*") if p.is_file()}
    room = sum(sizes.values()) + max(sizes.values()) // 2  # for one and a half checkpoints
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("cannot mount a small disk here")
    try:
        done = train(root, disk / "run", "--epochs", "9", "--cache", str(tmp_path / "cache"))
        assert done.returncode == 1, done.stderr
        assert re.search(r"train.py: training stops: .*make room on its disk, then continue with --resume", done.stderr)
        assert "Traceback" not in done.stderr
        newest = load_newest_intact(disk / "run/checkpoints")
        assert newest is not None
        assert newest[0] == list_checkpoints(disk / "run/checkpoints")[0]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
