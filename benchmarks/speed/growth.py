"""How cost grows: images/s and memory of the training step against batch size, image size and threads.

    python -m benchmarks.speed.growth

Each setting is measured in a process of its own.
"""

import os
from functools import partial
from statistics import median

import torch
import tyro
from matplotlib.figure import Figure

from alexnet_torch.native import reuse_freed_memory
from benchmarks.harness.measure import in_own_process, peak_memory, time_call
from benchmarks.harness.our_step import our_step
from benchmarks.harness.report import RESULTS, markdown_table, save_result

BATCHES, SIZES = (1, 4, 16, 64, 128, 256), (64, 96, 128, 160, 192, 224, 256)


def measure_setting(batch_size: int, image_size: int, threads: int, rounds: int) -> tuple[float, float]:
    """Returns images/s and peak memory in GiB of one setting."""
    reuse_freed_memory()
    torch.set_num_threads(threads)
    images = torch.randn(batch_size, 3, image_size, image_size).to(memory_format=torch.channels_last)
    run = partial(our_step(image_size), images, torch.arange(batch_size))
    run()  # the first step allocates
    rate, peak = batch_size / median(time_call(run) for _ in range(rounds)), peak_memory()
    print(f"batch {batch_size}, {image_size} px, {threads} thread(s): {rate:.1f} images/s, {peak:.2f} GiB", flush=True)
    return rate, peak


def main(rounds: int = 5) -> None:
    """Measures; writes the result page, and growth.png and .svg: images/s solid, memory dashed."""
    cores = os.cpu_count() or 1
    series = [
        ("224 pixels, all threads", "batch size", {n: (n, 224, cores) for n in BATCHES}),
        ("batches of 64, all threads", "image size", {n: (64, n, cores) for n in SIZES}),
        ("batches of 64 at 224 pixels", "threads", {n: (64, 224, n) for n in range(1, cores + 1)}),
    ]
    parts, figure = [], Figure(figsize=(10, 3.8), layout="constrained")
    for axes, (title, label, settings) in zip(figure.subplots(1, len(series)), series, strict=True):
        points = {str(n): in_own_process(measure_setting, *setting, rounds) for n, setting in settings.items()}
        rates, peaks = zip(*points.values(), strict=True)
        axes.plot(list(points), rates, "o-", color="#0072B2", label="images/s (left)")
        axes.set(title=title, xlabel=label, ylabel="images/s", ylim=(0, None))
        memory = axes.twinx()
        memory.plot(list(points), peaks, "s--", color="#D55E00", label="peak memory (right)")
        memory.set(ylabel="GiB", ylim=(0, None))
        rows = [(n, f"{rate:.1f}", f"{peak:.2f} GiB") for n, (rate, peak) in points.items()]
        parts.append(f"{title}:\n\n{markdown_table((label, 'images/s', 'peak memory'), rows)}")
        handles = [*axes.get_lines(), *memory.get_lines()]
    figure.legend(handles, [str(handle.get_label()) for handle in handles], loc="outside lower center", ncols=2)
    for suffix in ("png", "svg"):
        figure.savefig(RESULTS / f"growth.{suffix}", dpi=150)
    save_result(cores, "\n\n".join([*parts, "![growth](growth.png)"]))


if __name__ == "__main__":
    tyro.cli(main)
