"""What a run says while it runs: metrics.jsonl, TensorBoard, the progress bar."""

import json
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from alexnet_torch.evaluation.figures.figure3_filters import filter_grid
from alexnet_torch.model.alexnet import AlexNet


class Metrics:
    """metrics.jsonl: a line of JSON a report, only ever appended to.

    Args:
        path: of the file; made if need be.
        size: in bytes, what to keep of it when a run resumes; what follows was reported after the
            checkpoint and will be again.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self._path, self._file = path, path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(size)
        self._file.seek(size)

    def write(self, record: dict[str, Any]) -> None:
        """Appends one record."""
        self._require_path()
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()

    def sync(self) -> int:
        """Makes sure that what was written is on the disk; returns its size in bytes."""
        self._require_path()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def _require_path(self) -> None:
        self._path.stat()  # an open file takes what is written to it, though its folder has been removed

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class Board:
    """TensorBoard: scalars, the graph, conv1's filters by tower, sample images.

    Args:
        folder: where event files go.
        step: that the run continues from; events of later steps, by a run that was cut off, are
            hidden by TensorBoard.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def scalars(self, record: dict[str, Any]) -> None:
        """Every number of a metrics record, as <split>/<name>; <split>-10-crops/<name> for 10 crops.

        Training's loss and accuracy are there by the TensorFlow post's names, too.
        """
        step, split = record["step"], record["split"]
        if record.get("crops", 1) != 1:
            split = f"{split}-{record['crops']}-crops"
        for name, value in record.items():
            if isinstance(value, float):
                self._writer.add_scalar(f"{split}/{name}", value, step)
        if split == "train":
            self._writer.add_scalar("cross_entropy", record["loss"], step)
            self._writer.add_scalar("accuracy", 1 - record["top1_error"], step)

    def graph(self, net: AlexNet) -> None:
        """The network's graph, as traced on one image."""
        net.eval()
        size = net.image_size
        image = torch.zeros(1, 3, size, size, device=net.exchange.devices[0])
        with warnings.catch_warnings(), torch.no_grad():  # whose check of the trace is without gradients, too
            # TensorBoard knows no graphs but torch.jit.trace's, deprecated though it is; the trace is only drawn
            warnings.simplefilter("ignore")
            self._writer.add_graph(net, image, use_strict_trace=False)
        net.train()

    def filters(self, filters: Mapping[str, Tensor], step: int) -> None:
        """The first stage's filters, one picture a tower.

        Args:
            filters: a tower's (filters, 3, height, width), by a name for its picture, such as "conv1/tower0".
            step: that they are of.
        """
        for name, weights in filters.items():
            self._writer.add_image(name, filter_grid(weights), step)

    def samples(self, images: Tensor, step: int) -> None:
        """The first images of a batch as the network sees them before the mean is subtracted.

        Args:
            images: (N, H, W, 3) uint8.
            step: at which they were trained on.
        """
        self._writer.add_images("samples", images[:16], step, dataformats="NHWC")

    def close(self) -> None:
        """Writes what is pending."""
        self._writer.close()


class Progress:
    """A bar on a terminal; elsewhere a line a report, since nobody watches a log file move.

    Args:
        total: steps of the whole run.
        done: steps already done.
        batches: steps in an epoch.
    """

    def __init__(self, total: int, done: int, batches: int) -> None:
        self._bar = tqdm(total=total, initial=done, unit="step", disable=None, dynamic_ncols=True)
        self._batches = batches

    def advance(self) -> None:
        """One step is done."""
        self._bar.update()

    def train(self, record: dict[str, Any]) -> None:
        """Shows a training record."""
        text = (
            f"loss {record['loss']:.4f}, error {record['top1_error']:.1%}, lr {record['lr']:.2g}, "
            f"{record['images_per_second']:.0f} images/s, waiting {record['data_wait']:.0%}"
        )
        if self._bar.disable:
            self.say(f"epoch {record['epoch']:.2f}, step {record['step']}: {text}")
        else:
            self._bar.set_postfix_str(text)

    def validation(self, record: dict[str, Any], best: bool) -> None:
        """Shows a validation record."""
        self.say(
            f"epoch {record['epoch']:g}, step {record['step']}: validation loss {record['loss']:.4f}, "
            f"top-1 error {record['top1_error']:.2%}, top-5 error {record['top5_error']:.2%}"
            + (" (the best so far)" if best else "")
        )

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._bar.disable:
            print(text, flush=True)
        else:
            tqdm.write(text, file=sys.stdout)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()
