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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

import alexnet_torch
from alexnet_torch import AlexNet, load_model
from alexnet_torch.console import SIGNALS, StopSignal
from alexnet_torch.errors import Stopped, UserError
from alexnet_torch.recipes.catalogue import RECIPES, demo
from alexnet_torch.recipes.recipe import one_tower
from alexnet_torch.training import trainer
from alexnet_torch.training.checkpoints import list_checkpoints, load_newest_intact
from tests.support.commands import demo_options, one_line, read_metrics, resume, run_cli, run_train, train_demo
from tests.support.folders import make_images
from tests.support.nets import narrow, narrow_demo
from tests.support.paths import NARROW_TRAIN, PROJECT
from tests.support.permissions import mounted_disk
from tests.support.placement_runs import require_same_run
from tests.support.steps import before_step, send_sigterm

pytestmark = pytest.mark.usefixtures("narrow_demo_recipe")


def train(folder: Path, *more: str, run: str = "run") -> CompletedProcess[str]:
    return train_demo(folder, "--colour", "source", *more, run=run)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 epochs of 3 steps; its images are beside it."""
    folder = tmp_path_factory.mktemp("finished")
    done = train(folder, "--epochs", "4", "--log-every", "2", "--cache", str(folder / "cache"))
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_train_is_a_function_too(images: Path, tmp_path: Path) -> None:
    """In a thread, as of a notebook; twice in one process; with the words of the command line."""
    given = {"data": images, "recipe": "demo", "batch_size": 8, "max_steps": 3, "no_mirror": True, "quiet": True}
    with ThreadPoolExecutor() as pool:
        run = pool.submit(alexnet_torch.train, **given, output=tmp_path / "a").result()
    assert alexnet_torch.train(**given, output=tmp_path / "b", freeze=None) == tmp_path / "b"
    assert (run / "model.pt").read_bytes() == (tmp_path / "b/model.pt").read_bytes()
    assert load_model(run).mirror is False
    for wrong, message in (({"epoch": 3}, "--epoch=3 .perhaps --epochs; see train"), ({"lr": -1.0}, "--lr -1.0: must")):
        with pytest.raises(UserError, match=message):
            alexnet_torch.train(data=images, output=tmp_path / "c", **wrong)


def test_a_run_folder_has_all_files_and_fields(finished: Path) -> None:
    config = json.loads((finished / "config.json").read_text())
    assert (config["settings"]["batch_size"], config["settings"]["recipe"]) == (8, "demo")
    assert config["versions"]["torch"] == torch.__version__
    assert config["devices"] == ["cpu", "cpu"] or config["devices"][0].startswith("cuda")
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    trained, validated = ([r for r in records if r["split"] == split] for split in ("train", "val"))
    assert [r["step"] for r in trained] == [2, 4, 6, 8, 10, 12]
    fields = {"split", "step", "epoch", "loss", "top1_error", "lr", "images_per_second", "data_wait"}
    assert all(set(r) == fields for r in trained)
    *centre, ten = validated
    assert [(r["step"], r["epoch"], r["crops"]) for r in centre] == [(3, 1, 1), (6, 2, 1), (9, 3, 1), (12, 4, 1)]
    best = min(centre, key=lambda r: float(r["top1_error"]))  # the first if several are equal
    assert (ten["step"], ten["epoch"], ten["crops"]) == (best["step"], best["epoch"], 10)
    assert all(0 <= r["top5_error"] <= r["top1_error"] <= 1 for r in validated)
    assert len(list_checkpoints(finished / "checkpoints")) in (2, 3)
    net = AlexNet(narrow_demo().architecture, num_classes=3, image_size=64)
    net.load_state_dict(torch.load(finished / "model.pt", weights_only=True))
    (file,) = (p for p in list_checkpoints(finished / "checkpoints") if f"step-{best['step']:08d}" in p.name)
    weights = torch.load(file, weights_only=True)["weights"]
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("steps", [2, 3, 7])
def test_a_resumed_run_is_bitwise_equal_to_an_uninterrupted_one(steps: int, finished: Path, tmp_path: Path) -> None:
    """Interrupted within an epoch, at a validation, and between reports."""
    (tmp_path / "images").symlink_to(finished.parent / "images")
    with before_step(steps, send_sigterm):
        stopped = train(tmp_path, "--epochs", "4", "--log-every", "2")
    assert stopped.returncode == 143, stopped.stderr
    assert f"stopped after step {steps}; continue with --resume" in stopped.stderr
    resumed = resume(tmp_path / "run")
    assert resumed.returncode == 0, resumed.stderr
    assert f"step-{steps:08d}" in resumed.stdout
    require_same_run(tmp_path / "run", finished)


@pytest.mark.parametrize(("precision", "another"), [("bf16", "fp16"), ("fp16", "bf16")])
def test_mixed_precision_trains_and_resumes_bitwise(precision: str, another: str, tmp_path: Path) -> None:
    full, interrupted = tmp_path / "full", tmp_path / "interrupted"
    assert train(tmp_path, "--precision", precision, "--max-steps", "6", run="full").returncode == 0
    assert train(tmp_path, "--precision", precision, "--max-steps", "3", run="interrupted").returncode == 0
    resumed = resume(interrupted, "--max-steps", "6")
    assert resumed.returncode == 0, resumed.stderr
    states = [load_newest_intact(run / "checkpoints") for run in (full, interrupted)]
    scalers, weights = ([state[1][part] for state in states if state] for part in ("scaler", "weights"))
    assert scalers[0] == scalers[1]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert all(value.dtype == torch.float32 for value in weights[0].values())
    other = resume(interrupted, "--max-steps", "8", "--precision", another)
    one_line(other, f"--resume: the run has --precision {precision}, not")


def test_resuming_a_finished_run_changes_nothing(finished: Path) -> None:
    before = {p: p.read_bytes() for p in finished.glob("*.*") if p.name != "config.json"}
    assert resume(finished).returncode == 0
    assert {p: p.read_bytes() for p in before} == before


def test_a_checkpoint_is_refused_as_a_weight_file(finished: Path, tmp_path: Path) -> None:
    """It has no mean image: another one would be guessed."""
    done = run_cli("import", list_checkpoints(finished / "checkpoints")[0], "--output", tmp_path / "imported")
    one_line(done, r"is a run's checkpoint, which has no mean image or class names; name the run's folder")
    assert not (tmp_path / "imported").exists()


def test_a_damaged_checkpoint_is_skipped_and_without_an_intact_one_the_run_is_not_restarted(
    copied: Path, finished: Path
) -> None:
    newest, before = list_checkpoints(copied / "checkpoints")[:2]
    newest.write_bytes(newest.read_bytes()[:-100])
    resumed = resume(copied)
    assert resumed.returncode == 0, resumed.stderr
    assert f"{newest} is damaged" in resumed.stderr
    assert f"starting from {before}" in resumed.stdout
    assert read_metrics(copied) == read_metrics(finished)
    for path in list_checkpoints(copied / "checkpoints"):
        path.write_bytes(b"")
    done = resume(copied)
    assert done.returncode == 2
    assert "no checkpoint in" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--epochs three", r"--epochs: invalid int value: 'three' \(see train.py --help\)"),
        ("--lr 1,5", r"--lr: invalid float value: '1,5' \(see"),
        ("--amp fp8", r"--precision/--amp: invalid choice: 'fp8' \(choose from .*'?bf16'?, '?fp16'?\) \(see"),
        ("--epoch 3", r"unrecognized arguments: --epoch 3 \(perhaps --epochs; see train.py --help\)"),
        ("--epochs 0", "--epochs 0: must be 1 or more"),
        ("--batch-size 0", "--batch-size 0: must be 1 or more"),
        ("--max-steps 0", "--max-steps 0: must be 1 or more"),
        ("--log-every 0", "--log-every 0: must be 1 or more"),
        ("--val-every 0", "--val-every 0: must be 1 or more"),
        ("--lr -1", "--lr -1.0: must be positive"),
        ("--lr nan", "--lr nan: must be positive"),
        ("--seed -1", "--seed -1: must be 0 or more"),
        ("--ablation no-colour", "--ablation no-colour: changes nothing in this recipe; choose another"),
        ("--ablation no-colour --recipe paper --colour paper", "--colour paper: must be none for --ablation no-colour"),
        ("--recipe papr", r"--recipe: invalid choice: 'papr' \(choose from .*demo.*\) \(perhaps paper; see"),
        ("photos/", r"unrecognized arguments: photos/ \(perhaps --data photos/; see"),
        ("--image-size 63", "--image-size: image_size 63 is too small for .* smallest that works is 64"),
        ("--devices gpu", "--devices: 'gpu' is not a device"),
        ("--devices cuda:99", r"--devices cuda:99: this machine shows \d+ GPU"),
        ("--devices cpu,cpu,cpu", r"--devices: 3 devices for 2 tower\(s\); name one device, or one for each"),
        ("--split devices --devices cpu", "--split devices: needs 2 devices"),
        ("--data nowhere", "--data nowhere: there is no such file or folder"),
        ("--resume", r"--resume: .* holds no run \(no config.json\); start one without --resume"),
        ("--output /dev/null/run", "--output /dev/null/run: /dev/null/run: Not a directory; name another path"),
        ("--resume --config x.json", "--config: repeats a run in a new folder, --resume continues one; give one of"),
        ("--config x.json", "--config .*x.json: No such file or directory; name a run's config.json"),
    ],
)
def test_wrong_options_get_one_line_and_status_2(options: str, message: str, tmp_path: Path) -> None:
    one_line(train(tmp_path, *options.split()), message)
    assert not (tmp_path / "run").exists()


def test_unreadable_files_are_listed_with_status_2(tmp_path: Path) -> None:
    bad = make_images(tmp_path / "images") / "train/class0/000.png"
    bad.write_bytes(b"")
    done = train(tmp_path)
    assert done.returncode == 2
    assert f"  {bad}: empty file" in done.stderr
    assert "Traceback" not in done.stderr
    skipped = train(tmp_path, "--skip-bad", "--max-steps", "1")
    assert skipped.returncode == 0
    assert "1 unreadable file(s) left out" in skipped.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--batch-size 9", "the run has --batch-size 8, not 9"),
        ("--seed 5", "the run has --seed 0, not 5"),
        ("--image-size 67", "the run has --image-size 64, not 67"),
        ("--no-mirror", "the run has --no-mirror False, not True"),
        ("--colour paper", "the run has --colour source, not paper"),
        ("--recipe source-2012 --image-size 64", "the run does not have the architecture of --recipe"),
        ("--ablation no-norm", "the run does not have the architecture of --recipe and --ablation"),
        ("--data OTHER", "the run does not have the data set of --data"),
        ("", "holds a run already; continue it with --resume, or name another"),
    ],
)
def test_a_run_is_not_overwritten_or_resumed_as_another(
    options: str, message: str, finished: Path, tmp_path: Path
) -> None:
    before = (finished / "config.json").read_bytes()
    if "OTHER" in options:
        options = options.replace("OTHER", str(make_images(tmp_path / "other", train=9)))
    done = resume(finished, *options.split()) if options else train(finished.parent)
    one_line(done, f"--resume: {message}" if options else message)
    assert (finished / "config.json").read_bytes() == before


def test_an_ablation_is_saved_with_the_run_and_its_model(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = train(tmp_path, "--ablation", "one-tower", "--max-steps", "1")
    assert done.returncode == 0, done.stderr
    config = json.loads((run / "config.json").read_text())
    assert (config["settings"]["ablation"], config["architecture"]["towers"]) == ("one-tower", 1)
    assert config["devices"] == ["cpu"] or config["devices"][0].startswith("cuda")
    assert load_model(run).net.architecture == one_tower(narrow_demo().architecture)
    assert resume(run, "--max-steps", "2").returncode == 0
    one_line(resume(run, "--ablation", "tanh"), "does not have the architecture of --recipe and")


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
    (tmp_path / "config.json").write_text(content)
    one_line(resume(tmp_path), message)
    repeated = run_train("--output", tmp_path / "new", "--config", tmp_path / "config.json")
    assert "--resume" not in one_line(repeated, message)


def test_a_run_is_repeated_from_its_configuration(finished: Path, tmp_path: Path) -> None:
    config = finished / "config.json"
    again = run_train("--config", config, "--output", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    require_same_run(tmp_path / "again", finished)
    changed = run_train("--config", config, "--output", tmp_path / "other", "--seed", "1", "--max-steps", "2")
    assert changed.returncode == 0, changed.stderr
    settings, before = (json.loads((r / "config.json").read_text())["settings"] for r in (tmp_path / "other", finished))
    differ = {name for name in before if settings[name] != before[name]}
    assert differ - {"resume"} == {"output", "seed", "max_steps"}


def test_a_loss_that_is_not_finite_stops_the_run_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    assert train(tmp_path, "--max-steps", "3").returncode == 0
    before = list_checkpoints(tmp_path / "run/checkpoints")
    for often, what in (("1", r"loss of the 1 step\(s\) up to step 5 is (nan|inf)"), ("50", "weights are not finite")):
        done = resume(tmp_path / "run", "--max-steps", "60", "--lr", "1e30", "--log-every", often)
        assert done.returncode == 1
        assert re.search(what + r".*: training diverged; the last good checkpoint is .*step-00000003", done.stderr)
    assert "lower --lr" in done.stderr
    assert list_checkpoints(tmp_path / "run/checkpoints") == before


def test_a_loss_at_chance_is_reported_with_cause_and_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guessing = torch.tensor(1.008 * math.log(3)), torch.tensor(5)
    long = ("--epochs", "99", "--max-steps", "110", "--val-every", "99", "--log-every", "5")
    monkeypatch.setattr(trainer, "train_step", lambda *_: guessing)
    done = train(tmp_path, *long)
    assert done.returncode == 1
    assert done.stdout.count("within 1% of ln(classes), that of guessing, for 100 steps") == 1
    assert "for 110 steps: the initial weights are too small" in done.stderr
    assert "try --recipe paper" in done.stderr
    monkeypatch.setattr(trainer, "train_step", lambda *_: (guessing[0] * 1.01, guessing[1]))
    assert train(tmp_path, *long, run="other").returncode == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_finish_the_step_save_and_exit(number: signal.Signals, status: int, tmp_path: Path) -> None:
    # Ctrl-C in a terminal also reaches the decoding workers
    streamed = ("--cache", "none") if number == signal.SIGINT else ()
    script = PROJECT / "train.py" if streamed else NARROW_TRAIN  # workers import the script: train.py is quicker
    given = demo_options(tmp_path, "--epochs", "1000", "--val-every", "1000", "--log-every", "1", *streamed)
    line = [sys.executable, str(script), *given]
    pipe = subprocess.PIPE
    process = subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    assert process.stdout is not None
    assert any("step 4:" in line for line in process.stdout)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert "continue with --resume" in errors
    (saved,) = list_checkpoints(tmp_path / "run/checkpoints")
    assert torch.load(saved, weights_only=True)["state"]["step"] == int(saved.name[5:13]) >= 4


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_an_exception_before_training_then_stored_and_a_second_one_acts_as_usual(
    number: signal.Signals,
) -> None:
    before = handlers()
    with StopSignal(), pytest.raises(Stopped) as raised:
        signal.raise_signal(number)
    assert raised.value.exit_status == 128 + number
    assert handlers() == before
    with StopSignal() as stop:
        stop.install()
        expected = [signal.SIG_DFL if n == number else signal.getsignal(n) for n in SIGNALS]
        signal.raise_signal(number)
        assert handlers() == expected
    assert stop.signal == number
    assert handlers() == before


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
        "--schedule --warmup-epochs --momentum --weight-decay --label-smoothing --grad-accumulation --val-batch-size "
        "--workers"
    )
    assert set(re.findall(r"(?<![\w-])--[a-z-]+", done.stdout)) == set(promised.split())


def test_options_that_do_not_do_what_one_may_expect_are_told(images: Path, tmp_path: Path) -> None:
    given = ["--data", str(images), "--recipe", "demo", "--output", str(tmp_path / "run"), "--epochs", "1"]
    done = run_train(*given, "--batch-size", "100", "--max-steps", "7", "--timeout", "5")
    assert done.returncode == 0
    for line in (
        "--timeout: without effect in one process",
        "--batch-size 100: a batch has all 35 training images",
        "--max-steps 7: without effect, as --epochs 1 ends before",
        "--epochs 1: the recipe's learning rates change after epochs 10, 14, 17, 20, as for its own 24; --schedule",
    ):
        assert line in done.stdout
    assert "--epochs" not in run_train(*given[:-4], "--output", tmp_path / "other", "--max-steps", "1").stdout


def test_digits_are_the_default_data_and_are_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a narrower network, which takes a fifth of the time."""
    quarter = replace(demo(), architecture=narrow(demo().architecture, 64, 512))
    monkeypatch.setitem(RECIPES, "demo", lambda: quarter)
    given = ("--recipe", "demo", "--no-mirror", "--epochs", "3", "--val-every", "3")
    done = run_train(*given, "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    centre, five = (r for r in read_metrics(tmp_path / "run") if r["split"] == "val")
    assert (centre["crops"], five["crops"]) == (1, 5)  # mirrored digits are not digits
    assert centre["top1_error"] < 0.5
    assert five["top1_error"] < 0.7  # corner crops are difficult for a network after three epochs


def test_predict_and_evaluate_print_the_errors_of_training(copied: Path, finished: Path) -> None:
    images = sorted(str(p) for p in (finished.parent / "images/val").rglob("*.png"))
    done = run_cli("predict", finished, *images, "--json")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["file"] for r in records] == images
    for r in records:
        probabilities = [c["probability"] for c in r["classes"]]
        assert sum(probabilities) == pytest.approx(1)
        assert probabilities == sorted(probabilities, reverse=True)
    wrong = sum(r["classes"][0]["label"] != Path(r["file"]).parent.name for r in records) / len(records)
    *centre, ten = (r for r in read_metrics(finished) if r["split"] == "val")
    assert wrong == min(r["top1_error"] for r in centre)
    first, second, *_ = run_cli("predict", finished, images[0]).stdout.splitlines()
    assert first == images[0]
    assert re.fullmatch(r" +\d+\.\d\d%  class\d", second)
    data = ("--data", finished.parent / "images")
    heading, row = run_cli("evaluate", finished, *data).stdout.splitlines()
    assert re.split("  +", heading) == ["error", "centre crop, top-1", "10 crops, top-1"]  # of three, five hold all
    shown = f"{ten['top1_error']:.2%}"
    assert row.split() == [str(finished), f"{wrong:.2%}", shown]
    two = run_cli("evaluate", finished, copied, *data, "--crops", "10").stdout.splitlines()
    names = (str(finished), str(copied), "average of 2")
    assert [re.split("  +", line) for line in two[1:]] == [[name, shown] for name in names]


@pytest.mark.parametrize(
    ("command", "classes", "message"),
    [
        ("evaluate --data IMAGES", "", "the following arguments are required: RUN"),
        ("evaluate RUN COPY --data IMAGES", "class0 class1 dog", "only one of them has 'class2'"),
        ("evaluate RUN COPY --data IMAGES", "class1 class0 class2", "they are in a different order"),
        ("evaluate RUN --data FOUR", "", "1 of its 4 classes is none of .*run: class3; name a set of the model's"),
        ("predict RUN nothing.png", "", r"nothing\.png: .*No such file.*name image files"),
        ("predict RUN", "", "the following arguments are required: FILE"),
        ("predict nowhere x.png", "", r"nowhere: no model here \(model.json is missing\); name a run's folder"),
        ("predict RUN x.png --what", "", "unrecognized arguments: --what"),
        ("predict RUN x.png --devices cuda:99", "", "--devices cuda:99: this machine shows"),
        ("predict COPY x.png", "a b", "do not fit each other"),
    ],
)
def test_commands_refuse_in_one_line(command: str, classes: str, message: str, finished: Path, copied: Path) -> None:
    if classes:
        description = json.loads((copied / "model.json").read_text())
        del description["sha256"]  # as one does who edits the file
        (copied / "model.json").write_text(json.dumps({**description, "classes": classes.split()}))
    four = make_images(copied / "images", classes=4, train=1, val=1)
    words = {"RUN": finished, "COPY": copied, "IMAGES": finished.parent / "images", "FOUR": four}
    one_line(run_cli(*(words.get(word, word) for word in command.split())), message)


def test_a_full_disk_gives_one_line_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    assert train(tmp_path, "--max-steps", "3", run="measured").returncode == 0
    sizes = {p: p.stat().st_size for p in (tmp_path / "measured").rglob("*") if p.is_file()}
    room = sum(sizes.values()) + max(sizes.values()) // 2  # for one and a half checkpoints
    with mounted_disk(tmp_path / "disk", room) as disk:
        done = train(tmp_path, "--epochs", "9", "--cache", str(tmp_path / "cache"), run="disk/run")
        assert done.returncode == 1, done.stderr
        assert re.search(r"train.py: training stops: .*make room on its disk, then continue with --resume", done.stderr)
        assert "Traceback" not in done.stderr
        newest = load_newest_intact(disk / "run/checkpoints")
        assert newest is not None
        assert newest[0] == list_checkpoints(disk / "run/checkpoints")[0]
