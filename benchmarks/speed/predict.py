"""`predict` beside decoding alone, on the same photographs and all cores: how much the network adds.

    python -m benchmarks.speed.predict --data ../shared/data/hymenoptera
    python -m benchmarks.speed.predict

The networks have the paper's shape and random weights: what they answer takes as long as what trained ones do.
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
from alexnet_torch.data.worker_processes import available_cores
from alexnet_torch.evaluation.predict import predict
from alexnet_torch.malloc import keep_freed
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.architecture import PAPER
from alexnet_torch.weights.model_file import TrainedModel
from benchmarks.harness.measure import alternate, keep, seconds, table
from benchmarks.speed.input import photographs


@dataclass(frozen=True)
class Options:
    """What to measure on."""

    data: str | None = None
    """A folder of photographs; made by default."""
    files: int = 1000
    """How many to predict; photographs are repeated."""
    rounds: int = 5
    """Of which the medians are given."""


def untrained(image_size: int) -> TrainedModel:
    """The paper's network for images of a size, with random weights."""
    side = decoded_side(image_size)
    net = AlexNet(PAPER, 1000, image_size).eval()
    return TrainedModel(net, tuple(map(str, range(1000))), np.full((side, side, 3), 120, np.float32))


def contenders(files: list[Path]) -> dict[str, Callable[[], float]]:
    """Decoding alone, the network alone and `predict`, each on all cores, at two sizes of image."""
    found: dict[str, Callable[[], float]] = {}

    def add(image_size: int) -> None:
        model, side = untrained(image_size), decoded_side(image_size)

        def decoding() -> float:
            with ThreadPoolExecutor(available_cores()) as pool:
                return seconds(lambda: [None for _ in pool.map(lambda file: decode_file(file, side).shape, files)])

        images = torch.zeros(64, 3, image_size, image_size).to(memory_format=torch.channels_last)

        @torch.no_grad()
        def network() -> float:
            return seconds(lambda: [model.net(images) for _ in range(2)]) * len(files) / 128

        found[f"{image_size} px: decoding alone"] = decoding
        found[f"{image_size} px: the network alone"] = network
        found[f"{image_size} px: predict"] = lambda: seconds(lambda: list(predict(model, files)))

    for image_size in (64, 224):
        add(image_size)
    return found


def main(options: Options) -> None:
    """Prints the table and keeps it."""
    keep_freed()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(options.data) if options.data else photographs(Path(folder) / "photographs")
        files = list(islice(cycle(sorted(data.rglob("*.jpg"))), options.files))
        times = alternate(contenders(files), options.rounds)
    for size in (64, 224):
        parts = times[f"{size} px: decoding alone"], times[f"{size} px: the network alone"]
        times[f"{size} px: one after the other, in theory"] = sum(parts)
    rows: list[tuple[object, ...]] = [(name, f"{len(files) / taken:,.0f}") for name, taken in times.items()]
    given = f" --data {options.data}" if options.data else ""
    text = f"{len(files)} photographs, on all cores:\n\n" + table(("work", "images/s"), rows)
    keep("predict", f"python -m benchmarks.speed.predict{given}", torch.get_num_threads(), text)


if __name__ == "__main__":
    main(tyro.cli(Options))
