"""Kills a run with SIGKILL at random moments, resumes it each time, and compares with one left alone.

    python -m benchmarks.experiments.kill_resume --data ../shared/data/tiny-imagenet-10 --epochs 2

Moments fall anywhere: starting, building the cache, training, validating, saving. Status 1 if the
final model.pt is not the uninterrupted run's bit for bit, or the metrics (but for times) differ.
"""

import json
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

TRAIN = Path(__file__).parents[2] / "train.py"


@dataclass(frozen=True)
class Options:
    """What to kill, and how often."""

    data: str = "digits"
    """A folder of images, or "digits"."""
    epochs: int = 2
    """Of the demo recipe."""
    kills: int = 20
    """At random moments."""
    seed: int = 0
    """Of the moments."""


def command(options: Options, folder: Path) -> list[str]:
    """The run, or its continuation if it has come so far as to have a config.json."""
    output = folder / "run"
    if (output / "config.json").exists():
        return [sys.executable, str(TRAIN), "--output", str(output), "--resume"]
    given = ["--data", options.data, "--recipe", "demo", "--epochs", str(options.epochs), "--log-every", "10"]
    return [sys.executable, str(TRAIN), *given, "--save-every", "0.05", "--cache", str(folder), "--output", str(output)]


def phase(folder: Path) -> str:
    """What a killed run was at, by what it left behind."""
    if any(folder.glob("*.partial")):
        return "building the cache"
    run = folder / "run"
    if any((run / "checkpoints").glob(".*.tmp")) or any((run / "checkpoints").glob("*.unchecked")):
        return "saving a checkpoint"
    if any(run.glob(".model*.tmp")):
        return "saving the model"
    return "training" if (run / "metrics.jsonl").exists() else "starting"


def metrics(folder: Path) -> list[dict[str, object]]:
    """What was reported, but for what depends on the machine's speed."""
    records = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in ("images_per_second", "data_wait")} for r in records]


def main(options: Options) -> int:
    """Runs both; returns 1 if they differ."""
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        alone, killed = Path(temporary) / "alone", Path(temporary) / "killed"
        started = time.monotonic()
        subprocess.run(command(options, alone), check=True, capture_output=True)
        length = time.monotonic() - started
        print(f"uninterrupted: {length:.0f} s")
        phases: Counter[str] = Counter()
        kills = 0
        while kills < options.kills:
            process = subprocess.Popen(command(options, killed), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            # a run that has not begun to train is killed early, where the cache is built
            begun = (killed / "run/config.json").exists()
            wait = moments.uniform(0, max(20.0, length / 3) if begun else 8)
            try:
                process.wait(wait)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                phases[phase(killed)] += 1
                continue
            if process.returncode:
                assert process.stderr is not None
                print(process.stderr.read().decode())
                return 1
            # done before its time came: what was compared below is compared, and it starts over
            if different := compare(alone, killed):
                return different
            shutil.rmtree(killed)
            print(f"after {kills} kills a run ended; starting another")
        subprocess.run(command(options, killed), check=True, capture_output=True)
        print(f"killed {kills} times: " + ", ".join(f"{count} {name}" for name, count in phases.items()))
        return compare(alone, killed)


def compare(alone: Path, killed: Path) -> int:
    """Prints whether the two runs are the same; returns 1 if not."""
    models = [(folder / "run/model.pt").read_bytes() for folder in (alone, killed)]
    model, reports = models[0] == models[1], metrics(alone) == metrics(killed)
    print(f"model.pt bitwise equal: {model}; metrics equal: {reports}")
    return 0 if model and reports else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
