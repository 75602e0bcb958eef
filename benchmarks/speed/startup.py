"""From the shell to a result: the phases of `predict` on one image, of `evaluate`, and of train.py to its first step.

    python -m benchmarks.speed.startup
    python -m benchmarks.speed.startup --first

The commands run in turn, several times each, with the paper's network at 224 pixels on the digits, and the table has
the median of each phase. --first measures instead train.py when nothing is compiled and no image decoded, and again,
with and without --compile.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import tyro

from benchmarks.harness.report import PROJECT, TRAIN_SCRIPT, markdown_table, save_result

END, ALL = "end the process", "all"
TRAIN = ("--recipe", "paper", "--batch-size", "16", "--max-steps", "1", "--log-every", "1")


def run_phases(cache: Path, command: str, *options: str | Path) -> dict[str, float]:
    """Runs a command in a process of its own; returns the seconds of its phases, in order, and of the process's end."""
    started = time.time()
    given = {"STARTED": str(started), "XDG_CACHE_HOME": str(cache), "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor"}
    line = [sys.executable, "-m", "benchmarks.harness.startup_child", command, *map(str, options)]
    done = subprocess.run(line, cwd=PROJECT, env=os.environ | given, capture_output=True, text=True)
    total = time.time() - started
    if done.returncode:
        raise SystemExit(done.stderr)
    phases: dict[str, float] = json.loads(done.stdout.splitlines()[-1])["phases"]
    return {**phases, END: total - sum(phases.values()), ALL: total}


def table_of(runs: dict[str, list[dict[str, float]]]) -> str:
    """Returns a table: a row for each phase, a column for each command, medians in seconds."""
    phases = dict.fromkeys(phase for results in runs.values() for result in results for phase in result)
    rows = []
    for phase in sorted(phases, key=lambda phase: (phase in (END, ALL), phase == ALL)):
        cells = [[result[phase] for result in results if phase in result] for results in runs.values()]
        rows.append((phase, *(f"{statistics.median(values):.2f}" if values else "" for values in cells)))
    return markdown_table(("seconds", *runs), rows)


def measure_phases(rounds: int) -> str:
    """Returns the table of the phases of all commands."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, cache = Path(temporary), Path(temporary) / "cache"
        train = [sys.executable, str(TRAIN_SCRIPT), *TRAIN, "--output", f"{folder}/run"]  # decodes and compiles
        subprocess.run(train, env=os.environ | {"XDG_CACHE_HOME": str(cache)}, check=True, capture_output=True)
        image = next((cache / "alexnet_torch/digits").glob("val/*/*.png"))
        commands: dict[str, Sequence[str | Path]] = {
            "predict, 1 image": ("predict", folder / "run", image),
            "evaluate, 355 images": ("evaluate", folder / "run", "--data", "digits", "--crops", "1"),
            "train.py, first step of 16": ("train", *TRAIN, "--output"),
        }
        runs: dict[str, list[dict[str, float]]] = {title: [] for title in commands}
        for index in range(rounds + 1):
            for title, (name, *options) in commands.items():
                output = [folder / f"run-{index}"] if name == "train" else []
                result = run_phases(cache, str(name), *options, *output)
                if index:  # the first reads files that are not in memory yet
                    runs[title].append(result)
    return table_of(runs)


def measure_first(rounds: int) -> str:
    """Returns the table of the first start, and of later ones, with and without --compile."""
    rows: list[tuple[object, ...]] = []
    for options in ((), ("--compile",)):
        with tempfile.TemporaryDirectory() as folder:
            lines = ((*TRAIN, *options, "--output", f"{folder}/run-{index}") for index in range(rounds + 1))
            runs = [run_phases(Path(folder), "train", *line) for line in lines]
        first, *later = (phases[ALL] - phases[END] for phases in runs)
        rows.append((" ".join(("train.py", *options)), f"{first:.1f}", f"{statistics.median(later):.1f}"))
    return markdown_table(("seconds to the end of the first step", "first time", "later"), rows)


def main(rounds: int = 5, first: bool = False) -> None:
    """Measures some runs of each command, or the first start of train.py; writes the result page."""
    table = measure_first(rounds) if first else measure_phases(rounds)
    save_result(os.cpu_count() or 1, table, "-first" if first else "")


if __name__ == "__main__":
    tyro.cli(main)
