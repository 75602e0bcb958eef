"""Kills a run with SIGKILL at random moments, resumes it each time, and compares it with an uninterrupted run.

    python -m benchmarks.experiments.kill_resume --data tiny-imagenet-10 --epochs 2

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
from pathlib import Path

import tyro

from alexnet_torch.run_folder import CHECKPOINTS, CONFIG, METRICS
from benchmarks.harness.report import TRAIN_SCRIPT, read_records


def command(data: str, epochs: int, folder: Path) -> list[str]:
    """Returns the command that starts the run, or resumes it if it already has a config.json."""
    start = ["--data", data, "--recipe", "demo", "--epochs", str(epochs), "--log-every", "10", "--save-every", "0.05"]
    given = ["--resume"] if (folder / "run" / CONFIG).exists() else [*start, "--cache", str(folder)]
    return [sys.executable, str(TRAIN_SCRIPT), "--output", f"{folder}/run", *given]


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


def is_same(uninterrupted: Path, killed: Path) -> bool:
    """Compares two runs and prints the result."""
    models = [(folder / "run/model.pt").read_bytes() for folder in (uninterrupted, killed)]
    same_model, same_metrics = models[0] == models[1], metrics(uninterrupted) == metrics(killed)
    print(f"model.pt bitwise equal: {same_model}; metrics equal: {same_metrics}")
    return same_model and same_metrics


def main(data: str = "digits", epochs: int = 2, kills: int = 20, seed: int = 0) -> int:
    """Kills and resumes a run of recipe demo, at moments that the seed decides; returns 1 if it failed or differs."""
    moments, phases = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as temporary:
        uninterrupted, killed, start = Path(temporary) / "uninterrupted", Path(temporary) / "killed", time.monotonic()
        subprocess.run(command(data, epochs, uninterrupted), check=True, capture_output=True)
        length = time.monotonic() - start
        print(f"uninterrupted: {length:.0f} s")
        while True:
            # before training starts, kills come early enough to fall while the cache is built
            wait = moments.uniform(0, max(20.0, length / 3) if (killed / "run" / CONFIG).exists() else 8)
            last = phases.total() >= kills
            try:
                line = command(data, epochs, killed)
                done = subprocess.run(line, timeout=None if last else wait, capture_output=True, text=True)
            except subprocess.TimeoutExpired:  # it was killed
                phases[phase(killed)] += 1
                continue
            if done.returncode:
                print(done.stderr)
                return 1
            if last:
                print(f"killed {kills} times: " + ", ".join(f"{count} {name}" for name, count in phases.items()))
            if not (same := is_same(uninterrupted, killed)) or last:
                return int(not same)
            shutil.rmtree(killed)  # the run finished before its kill
            print(f"after {phases.total()} kills a run ended; starting another")


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
