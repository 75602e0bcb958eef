"""`predict` beside decoding only, on the same photographs and all cores: how much the network adds.

    python -m benchmarks.speed.predict --data hymenoptera

The networks have the paper's shape and random weights: predicting takes them as long as trained ones.
"""

import tempfile
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
import tyro

from alexnet_torch.data.decode import decoded_side
from alexnet_torch.data.loader import decode_ahead
from alexnet_torch.evaluation.predict import predict
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.architecture import PAPER
from alexnet_torch.native import reuse_freed_memory
from alexnet_torch.weights.model_file import TrainedModel
from benchmarks.harness.measure import median_times, time_call
from benchmarks.harness.photographs import photographs
from benchmarks.harness.report import markdown_table, save_result

SIZES = (64, 224)  # pixels


def contenders(files: list[Path], size: int) -> dict[str, Callable[[], float]]:
    """Returns functions that measure decoding only, the network only and `predict`, each on all cores."""
    side, net = decoded_side(size), AlexNet(PAPER, 1000, size).eval()
    model = TrainedModel(net, tuple(map(str, range(1000))), np.full((side, side, 3), 120, np.float32))
    images = torch.zeros(64, 3, size, size).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def network() -> float:
        return time_call(lambda: [net(images) for _ in range(2)]) * len(files) / 128

    return {
        f"{size} px: decoding only": lambda: time_call(lambda: [None for _ in decode_ahead(files, [(side, size)])]),
        f"{size} px: the network only": network,
        f"{size} px: predict": lambda: time_call(lambda: list(predict(model, files))),
    }


def main(data: str | None = None, files: int = 1000, rounds: int = 5) -> None:
    """Predicts a number of files, a folder's photographs (made by default) repeated; writes the result page."""
    reuse_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        found = sorted(photographs(data, Path(folder)).rglob("*.jpg"))
        paths = list(islice(cycle(found), files))
        times = median_times(contenders(paths, SIZES[0]) | contenders(paths, SIZES[1]), rounds)
    for size in SIZES:
        parts = times[f"{size} px: decoding only"], times[f"{size} px: the network only"]
        times[f"{size} px: one after the other, in theory"] = sum(parts)
    table = markdown_table(("work", "images/s"), [(name, f"{files / time:,.0f}") for name, time in times.items()])
    save_result(torch.get_num_threads(), f"{files} photographs, on all cores:\n\n{table}")


if __name__ == "__main__":
    tyro.cli(main)
