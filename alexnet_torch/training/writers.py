"""The outputs of a run while it trains: metrics.jsonl, TensorBoard, the progress bar."""

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


class MetricsFile:
    """metrics.jsonl: one line of JSON for each report, append-only.

    Args:
        size: bytes to preserve when a run resumes; later lines were written after the checkpoint, and the
            resumed run writes them again.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self._path, self._file = path, path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(size)
        self._file.seek(size)

    def write(self, record: dict[str, Any]) -> None:
        """Appends one record."""
        self._require_path()
        self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def sync(self) -> int:
        """Puts the file on the disk; returns its size in bytes."""
        self._require_path()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def _require_path(self) -> None:
        self._path.stat()  # writing to an open file succeeds even after its folder was removed

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoardWriter:
    """TensorBoard: scalars, the graph, conv1's filters by tower, sample images.

    Args:
        step: the step from which the run continues; TensorBoard hides events of later steps, which an
            interrupted run wrote.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def write_scalars(self, record: dict[str, Any]) -> None:
        """Writes all floats of a metrics record, as <split>/<name>; as <split>-10-crops/<name> for 10 crops.

        Training's loss and accuracy also get the names of the TensorFlow post.
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

    def write_graph(self, net: AlexNet) -> None:
        """Writes the network's graph, traced on one image."""
        net.eval()
        image = torch.zeros(1, 3, net.image_size, net.image_size, device=net.devices[0])
        with warnings.catch_warnings(), torch.no_grad():  # add_graph checks the trace without gradients, too
            # TensorBoard reads only graphs of torch.jit.trace, which is deprecated; here the trace is only drawn
            warnings.simplefilter("ignore")
            self._writer.add_graph(net, image, use_strict_trace=False)
        net.train()

    def write_filters(self, filters: Mapping[str, Tensor], step: int) -> None:
        """Writes the first stage's filters (filters, 3, height, width) of each tower, by their picture's name."""
        for name, weights in filters.items():
            self._writer.add_image(name, filter_grid(weights), step)

    def write_samples(self, images: Tensor, step: int) -> None:
        """Writes the first images of a batch (N, H, W, 3) uint8, cropped and mirrored."""
        self._writer.add_images("samples", images[:16], step, dataformats="NHWC")

    def close(self) -> None:
        """Writes pending events."""
        self._writer.close()


class ProgressBar:
    """A bar on a terminal; elsewhere one line for each report, since a log file cannot show a bar."""

    def __init__(self, last_step: int, step: int) -> None:
        self._bar = tqdm(total=last_step, initial=step, unit="step", disable=None, dynamic_ncols=True)

    def advance(self) -> None:
        """Moves the bar by one step."""
        self._bar.update()

    def show_train(self, record: dict[str, Any]) -> None:
        """Shows a training record."""
        text = (
            f"loss {record['loss']:.4f}, error {record['top1_error']:.1%}, lr {record['lr']:.2g}, "
            f"{record['images_per_second']:.0f} images/s, waiting {record['data_wait']:.0%}"
        )
        if self._bar.disable:
            self.print(f"epoch {record['epoch']:.2f}, step {record['step']}: {text}")
        else:
            self._bar.set_postfix_str(text)

    def show_validation(self, record: dict[str, Any], is_best: bool) -> None:
        """Shows a validation record."""
        self.print(
            f"epoch {record['epoch']:g}, step {record['step']}: validation loss {record['loss']:.4f}, "
            f"top-1 error {record['top1_error']:.2%}, top-5 error {record['top5_error']:.2%}"
            + (" (the best so far)" if is_best else "")
        )

    def print(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._bar.disable:
            print(text, flush=True)
        else:
            tqdm.write(text, file=sys.stdout)

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()
