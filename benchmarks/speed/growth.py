"""How cost grows: images/s and memory of the training step against batch size, image size and threads.

    python -m benchmarks.speed.growth

Each setting is measured in a process of its own.
"""

import os
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
import tyro
from matplotlib.figure import Figure

from alexnet_torch.native import reuse_freed_memory
from benchmarks.harness.measure import peak_memory, time_call
from benchmarks.harness.our_step import our_step
from benchmarks.harness.paths import RESULTS
from benchmarks.harness.processes import Worker
from benchmarks.harness.report import markdown_table, save_result

BATCHES, SIZES = (1, 4, 16, 64, 128, 256), (64, 96, 128, 160, 192, 224, 256)
Point = tuple[int, float, float]  # the setting, images/s, peak memory in GiB


@dataclass(frozen=True)
class Options:
    """What to measure."""

    rounds: int = 5
    """Measured steps of each setting."""


def measure_setting(batch_size: int, image_size: int, threads: int, rounds: int) -> tuple[float, float]:
    """Returns images/s and peak memory in GiB of one setting, in a process of its own."""
    worker = Worker(partial(_step_functions, batch_size, image_size, threads, rounds))
    rate, peak = worker.call("rate"), worker.call("peak")
    worker.close()
    print(f"batch {batch_size}, {image_size} px, {threads} thread(s): {rate:.1f} images/s, {peak:.2f} GiB", flush=True)
    return rate, peak


def _step_functions(batch_size: int, image_size: int, threads: int, rounds: int) -> dict[str, partial[float]]:
    reuse_freed_memory()
    torch.set_num_threads(threads)
    step = our_step(image_size)
    images = torch.randn(batch_size, 3, image_size, image_size).to(memory_format=torch.channels_last)
    run = partial(step, images, torch.arange(batch_size))

    def rate() -> float:
        run()  # the first step allocates
        return batch_size / median(time_call(run) for _ in range(rounds))

    return {"rate": partial(rate), "peak": partial(peak_memory)}


def plot(series: list[tuple[str, list[Point], str]]) -> None:
    """Draws images/s (solid) and memory (dashed) of each series into results/growth.png and .svg.

    Args:
        series: title, points and x label of each.
    """
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for axes, (title, points, label) in zip(figure.subplots(1, len(series)), series, strict=True):
        settings = [str(setting) for setting, _, _ in points]
        axes.plot(settings, [rate for _, rate, _ in points], "o-", color="#0072B2", label="images/s (left)")
        axes.set(title=title, xlabel=label, ylabel="images/s", ylim=(0, None))
        memory = axes.twinx()
        memory.plot(settings, [peak for _, _, peak in points], "s--", color="#D55E00", label="peak memory (right)")
        memory.set(ylabel="GiB", ylim=(0, None))
        handles = [*axes.get_lines(), *memory.get_lines()]
    figure.legend(handles, [str(handle.get_label()) for handle in handles], loc="outside lower center", ncols=2)
    for suffix in ("png", "svg"):
        figure.savefig(RESULTS / f"growth.{suffix}", dpi=150)


def main(options: Options) -> None:
    """Measures and writes the result page."""
    cores, rounds = os.cpu_count() or 1, options.rounds
    batches = [(n, *measure_setting(n, 224, cores, rounds)) for n in BATCHES]
    sizes = [(n, *measure_setting(64, n, cores, rounds)) for n in SIZES]
    threads = [(n, *measure_setting(64, 224, n, rounds)) for n in range(1, cores + 1)]
    series = [
        ("224 pixels, all threads", batches, "batch size"),
        ("batches of 64, all threads", sizes, "image size"),
        ("batches of 64 at 224 pixels", threads, "threads"),
    ]
    plot(series)
    parts = []
    for title, points, label in series:
        rows = [(setting, f"{rate:.1f}", f"{peak:.2f} GiB") for setting, rate, peak in points]
        parts.append(f"{title}:\n\n{markdown_table((label, 'images/s', 'peak memory'), rows)}")
    command = f"python -m benchmarks.speed.growth --rounds {rounds}"
    save_result("growth", command, cores, "\n\n".join([*parts, "![growth](growth.png)"]))


if __name__ == "__main__":
    main(tyro.cli(Options))
