"""How cost grows: images/s and memory of the training step against batch size, image size and threads.

    python -m benchmarks.speed.growth
    python -m benchmarks.speed.growth --startup

Each setting is measured in a process of its own. --startup measures seconds from `python train.py` to the first
step's report instead, at 224 pixels on the digits: with nothing compiled, and again, with and without --compile.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
import tyro
from matplotlib.figure import Figure

from alexnet_torch.malloc import keep_freed
from benchmarks.harness.measure import RESULTS, Apart, keep, peak_memory, seconds, table

BATCHES, SIZES = (1, 4, 16, 64, 128, 256), (64, 96, 128, 160, 192, 224, 256)
TRAIN = Path(__file__).parents[2] / "train.py"


@dataclass(frozen=True)
class Options:
    """What to measure."""

    rounds: int = 5
    """Steps that count, of each setting."""
    startup: bool = False
    """Seconds to the first step instead."""


def one(batch_size: int, image_size: int, threads: int, rounds: int) -> tuple[float, float]:
    """Images/s and peak memory in GiB of one setting, by itself."""
    process = Apart(partial(_stepping, batch_size, image_size, threads, rounds))
    rate, peak = process.ask("rate"), process.ask("peak")
    process.end()
    print(f"batch {batch_size}, {image_size} px, {threads} thread(s): {rate:.1f} images/s, {peak:.2f} GiB", flush=True)
    return rate, peak


def _stepping(batch_size: int, image_size: int, threads: int, rounds: int) -> dict[str, partial[float]]:
    from benchmarks.speed.step import our_step

    keep_freed()
    torch.set_num_threads(threads)
    step = our_step(image_size)
    images = torch.randn(batch_size, 3, image_size, image_size).to(memory_format=torch.channels_last)
    run = partial(step, images, torch.arange(batch_size))

    def rate() -> float:
        run()  # the first allocates
        return batch_size / median(seconds(run) for _ in range(rounds))

    return {"rate": partial(rate), "peak": partial(peak_memory)}


def plot(series: list[tuple[str, list[tuple[int, float, float]], str]]) -> None:
    """Draws images/s (solid) and memory (dashed) of each series into results/growth.png and .svg."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for axes, (title, points, label) in zip(figure.subplots(1, len(series)), series, strict=True):
        places = [str(x) for x, _, _ in points]
        axes.plot(places, [rate for _, rate, _ in points], "o-", color="#0072B2", label="images/s (left)")
        axes.set(title=title, xlabel=label, ylabel="images/s", ylim=(0, None))
        memory = axes.twinx()
        memory.plot(places, [peak for _, _, peak in points], "s--", color="#D55E00", label="peak memory (right)")
        memory.set(ylabel="GiB", ylim=(0, None))
        handles = [*axes.get_lines(), *memory.get_lines()]
    figure.legend(handles, [str(handle.get_label()) for handle in handles], loc="outside lower center", ncols=2)
    for ending in ("png", "svg"):
        figure.savefig(RESULTS / f"growth.{ending}", dpi=150)


def first_step(cache: Path, *options: str) -> float:
    """Seconds from the command to its first report, a step having been done."""
    with tempfile.TemporaryDirectory() as output:
        given = ["--recipe", "paper", "--batch-size", "16", "--max-steps", "2", "--log-every", "1", *options]
        line = [sys.executable, str(TRAIN), *given, "--output", str(Path(output) / "run")]
        environment = os.environ | {"XDG_CACHE_HOME": str(cache), "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor")}
        start = time.monotonic()
        process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        metrics = Path(output) / "run/metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            if process.poll() is not None:
                assert process.stderr is not None
                raise SystemExit(process.stderr.read().decode())
            time.sleep(0.02)
        taken = time.monotonic() - start
        process.kill()
        process.wait()
    return taken


def startup() -> None:
    """Measures and prints seconds to the first step."""
    rows: list[tuple[object, ...]] = []
    for options in ((), ("--compile",)):
        with tempfile.TemporaryDirectory() as cache:
            first = first_step(Path(cache), *options)
            later = [first_step(Path(cache), *options) for _ in range(3)]
        rows.append((" ".join(("train.py", *options)), f"{first:.1f} s", f"{median(later):.1f} s"))
    keep(
        "startup",
        "python -m benchmarks.speed.growth --startup",
        os.cpu_count() or 1,
        table(("", "first time", "later"), rows),
    )


def main(options: Options) -> None:
    """Measures and prints."""
    if options.startup:
        startup()
        return
    cores = os.cpu_count() or 1
    batches = [(n, *one(n, 224, cores, options.rounds)) for n in BATCHES]
    sizes = [(n, *one(64, n, cores, options.rounds)) for n in SIZES]
    threads = [(n, *one(64, 224, n, options.rounds)) for n in range(1, cores + 1)]
    series = [
        ("224 pixels, all threads", batches, "batch size"),
        ("batches of 64, all threads", sizes, "image size"),
        ("batches of 64 at 224 pixels", threads, "threads"),
    ]
    plot(series)
    parts = [
        f"{title}:\n\n"
        + table((label, "images/s", "peak memory"), [(n, f"{r:.1f}", f"{p:.2f} GiB") for n, r, p in points])
        for title, points, label in series
    ]
    keep(
        "growth",
        f"python -m benchmarks.speed.growth --rounds {options.rounds}",
        cores,
        "\n\n".join([*parts, "![growth](growth.png)"]),
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
