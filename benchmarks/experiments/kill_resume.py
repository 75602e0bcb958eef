"""Kills a run with SIGKILL at random moments, resumes it each time, and compares it with an uninterrupted run.

    python -m benchmarks.experiments.kill_resume --data ../shared/data/tiny-imagenet-10 --epochs 2

The moments are anywhere: starting, building the cache, training, validating, saving. The exit status is 1 if the
final model.pt differs by a bit from the uninterrupted run's, or the metrics (except times) differ.
"""

import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro

from alexnet_torch.run_folder import CHECKPOINTS, CONFIG, METRICS
from benchmarks.harness.paths import TRAIN_SCRIPT
from benchmarks.harness.records import read_records


@dataclass(frozen=True)
class Options:
    """What to kill, and how often."""

    data: str = "digits"
    """A folder of images, or "digits"."""
    epochs: int = 2
    """Epochs of the demo recipe."""
    kills: int = 20
    """Number of kills, at random moments."""
    seed: int = 0
    """Decides the moments."""


def command(options: Options, folder: Path) -> list[str]:
    """Returns the command that starts the run, or resumes it if it already has a config.json."""
    output = folder / "run"
    if (output / CONFIG).exists():
        return [sys.executable, str(TRAIN_SCRIPT), "--output", str(output), "--resume"]
    given = ["--data", options.data, "--recipe", "demo", "--epochs", str(options.epochs), "--log-every", "10"]
    return [
        sys.executable,
        str(TRAIN_SCRIPT),
        *given,
        "--save-every",
        "0.05",
        "--cache",
        str(folder),
        "--output",
        str(output),
    ]


def phase(folder: Path) -> str:
    """Returns what a killed run was doing, judged by the files that it left."""
    if any(folder.glob("*.partial")):
        return "building the cache"
    run = folder / "run"
    if any((run / CHECKPOINTS).glob(".*.tmp")) or any((run / CHECKPOINTS).glob("*.unchecked")):
        return "saving a checkpoint"
    if any(run.glob(".model*.tmp")):
        return "saving the model"
    return "training" if (run / METRICS).exists() else "starting"


def metrics(folder: Path) -> list[dict[str, object]]:
    """Reads a run's reports, without the values that depend on the machine's speed."""
    records = read_records(folder / "run" / METRICS)
    return [{k: v for k, v in record.items() if k not in ("images_per_second", "data_wait")} for record in records]


def main(options: Options) -> int:
    """Runs both; returns 1 if they differ, otherwise 0."""
    with tempfile.TemporaryDirectory() as temporary:
        uninterrupted = Path(temporary) / "uninterrupted"
        start = time.monotonic()
        subprocess.run(command(options, uninterrupted), check=True, capture_output=True)
        length = time.monotonic() - start
        print(f"uninterrupted: {length:.0f} s")
        return kill_and_compare(options, uninterrupted, Path(temporary) / "killed", length)


def kill_and_compare(options: Options, uninterrupted: Path, killed: Path, length: float) -> int:
    """Kills and resumes a run as often as asked; returns 1 if it failed or differs from the uninterrupted one.

    Args:
        options: the number of kills, and the seed of their moments.
        uninterrupted: folder of the run to compare with.
        killed: folder of the run that is killed.
        length: seconds that the uninterrupted run took.
    """
    moments = random.Random(options.seed)
    phases: Counter[str] = Counter()
    while phases.total() < options.kills:
        process = subprocess.Popen(command(options, killed), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        # before training starts, kills come early enough to fall while the cache is built
        training = (killed / "run/config.json").exists()
        wait = moments.uniform(0, max(20.0, length / 3) if training else 8)
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            phases[phase(killed)] += 1
            continue
        if process.returncode:
            assert process.stderr is not None
            print(process.stderr.read().decode())
            return 1
        # the run finished before its kill: compare it, too, and start another
        if different := compare(uninterrupted, killed):
            return different
        shutil.rmtree(killed)
        print(f"after {phases.total()} kills a run ended; starting another")
    subprocess.run(command(options, killed), check=True, capture_output=True)
    print(f"killed {options.kills} times: " + ", ".join(f"{count} {name}" for name, count in phases.items()))
    return compare(uninterrupted, killed)


def compare(uninterrupted: Path, killed: Path) -> int:
    """Prints whether the two runs are equal; returns 1 if not, otherwise 0."""
    models = [(folder / "run/model.pt").read_bytes() for folder in (uninterrupted, killed)]
    same_model, same_metrics = models[0] == models[1], metrics(uninterrupted) == metrics(killed)
    print(f"model.pt bitwise equal: {same_model}; metrics equal: {same_metrics}")
    return 0 if same_model and same_metrics else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
