"""Which initial weights learn: the paper's, the 2012 source's, Caffe's and ours, at the paper's learning rate.

    python -m benchmarks.experiments.initialisation digits 4
    python -m benchmarks.experiments.initialisation tiny-imagenet-10 3
    python -m benchmarks.experiments.initialisation hymenoptera 6 --image-size 224

Prints a row for each batch size and initialisation: validation top-1 error after some epochs at rate 0.01, and the
training loss of the last report.
"""

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro

from alexnet_torch.errors import TrainingError
from alexnet_torch.model.architecture import PAPER, Architecture
from alexnet_torch.model.presets import CAFFE, PAPER_LITERAL, SOURCE_2012
from alexnet_torch.recipes.catalogue import paper
from alexnet_torch.run_folder import METRICS
from benchmarks.harness.our_step import our_trainer
from benchmarks.harness.report import markdown_table, read_records

NETWORKS = {
    "paper's text": PAPER_LITERAL,
    "2012 source": PAPER.with_init(**{stage.name: stage.init for stage in SOURCE_2012.stages}),
    "Caffe": PAPER.with_init(**{stage.name: stage.init for stage in CAFFE.stages}),
    "ours (recipe paper)": paper().architecture,
}
"""The paper's network with the initial weights of each source."""


def train(net: Architecture, given: dict[str, Any]) -> tuple[float, float]:
    """Trains; returns the last validation top-1 error and the last reported training loss."""
    with tempfile.TemporaryDirectory() as output:
        try:
            our_trainer({**given, "output": output}, replace(paper(), architecture=net)).fit()
        except TrainingError as error:
            print(f"    {error}")
            return math.nan, math.nan
        newest_first = read_records(Path(output) / METRICS)[::-1]
    top1_error = next(r["top1_error"] for r in newest_first if r["split"] == "val" and r["crops"] == 1)
    return top1_error, next(r["loss"] for r in newest_first if r["split"] == "train")


def main(
    data: tyro.conf.Positional[str],
    epochs: tyro.conf.Positional[int],
    image_size: int = 64,
    batch_sizes: tuple[int, ...] = (32, 128),
    lr: float = 0.01,
) -> None:
    """Trains each network on a folder or "digits", with each batch size and a rate (the paper's); prints the table."""
    rows = []
    given = {"data": data, "image_size": image_size, "epochs": epochs, "val_every": epochs, "lr": lr}
    given |= {"log_every": 10, "colour": "none", "no_mirror": data == "digits"}
    for batch_size in batch_sizes:
        for name, net in NETWORKS.items():
            top1_error, loss = train(net, {**given, "batch_size": batch_size})
            rows.append((data, batch_size, name, f"{top1_error:.1%}", f"{loss:.3f}"))
    print("\n" + markdown_table(("data", "batch", "initial weights", "top-1 error", "training loss"), rows))


if __name__ == "__main__":
    tyro.cli(main)
