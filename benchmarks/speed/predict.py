"""`predict` beside decoding only, on the same photographs and all cores: how much the network adds.

    python -m benchmarks.speed.predict --data ../shared/data/hymenoptera
    python -m benchmarks.speed.predict

The networks have the paper's shape and random weights: predicting takes them as long as trained ones.
"""

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
import tyro

from alexnet_torch.data.decode import decode_file, decoded_side
from alexnet_torch.data.workers import available_cores
from alexnet_torch.evaluation.predict import predict
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.architecture import PAPER
from alexnet_torch.native import reuse_freed_memory
from alexnet_torch.weights.model_file import TrainedModel
from benchmarks.harness.measure import median_times, time_call
from benchmarks.harness.photographs import photographs
from benchmarks.harness.report import markdown_table, save_result

SIZES = (64, 224)  # pixels


@dataclass(frozen=True)
class Options:
    """What to measure on."""

    data: str | None = None
    """A folder of photographs; made by default."""
    files: int = 1000
    """Number of files to predict; photographs are repeated."""
    rounds: int = 5
    """Measured rounds."""


def untrained_model(image_size: int) -> TrainedModel:
    """Returns the paper's network for images of a size, with random weights."""
    side = decoded_side(image_size)
    net = AlexNet(PAPER, 1000, image_size).eval()
    return TrainedModel(net, tuple(map(str, range(1000))), np.full((side, side, 3), 120, np.float32))


def contenders(files: list[Path], image_size: int) -> dict[str, Callable[[], float]]:
    """Returns functions that measure decoding only, the network only and `predict`, each on all cores."""
    model, side = untrained_model(image_size), decoded_side(image_size)
    images = torch.zeros(64, 3, image_size, image_size).to(memory_format=torch.channels_last)

    def decoding() -> float:
        with ThreadPoolExecutor(available_cores()) as pool:
            return time_call(lambda: [None for _ in pool.map(lambda file: decode_file(file, side).shape, files)])

    @torch.no_grad()
    def network() -> float:
        return time_call(lambda: [model.net(images) for _ in range(2)]) * len(files) / 128

    return {
        f"{image_size} px: decoding only": decoding,
        f"{image_size} px: the network only": network,
        f"{image_size} px: predict": lambda: time_call(lambda: list(predict(model, files))),
    }


def main(options: Options) -> None:
    """Measures and writes the result page."""
    reuse_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        data = photographs(options.data, Path(folder))
        files = list(islice(cycle(sorted(data.rglob("*.jpg"))), options.files))
        by_size = [contenders(files, size) for size in SIZES]
        times = median_times({name: run for functions in by_size for name, run in functions.items()}, options.rounds)
    for size in SIZES:
        parts = times[f"{size} px: decoding only"], times[f"{size} px: the network only"]
        times[f"{size} px: one after the other, in theory"] = sum(parts)
    rows = [(name, f"{len(files) / time:,.0f}") for name, time in times.items()]
    given = f" --data {options.data}" if options.data else ""
    text = f"{len(files)} photographs, on all cores:\n\n" + markdown_table(("work", "images/s"), rows)
    save_result("predict", f"python -m benchmarks.speed.predict{given}", torch.get_num_threads(), text)


if __name__ == "__main__":
    main(tyro.cli(Options))
