"""What a run writes into its folder and prints, on the main rank."""

import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from alexnet_torch.data.cache import PreparedImages
from alexnet_torch.data.workers import available_cores
from alexnet_torch.distributed.placement import Placement
from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.errors import Diverged, Interrupted, RunError, describe_memory_error
from alexnet_torch.evaluation.metrics import errors_in_words
from alexnet_torch.evaluation.published import is_imagenet, standing
from alexnet_torch.files import write_json
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.recipes.recipe import Recipe
from alexnet_torch.recipes.settings import Settings
from alexnet_torch.run_folder import CONFIG, END, METRICS, TENSORBOARD, library_versions
from alexnet_torch.training.checkpoints import RunState
from alexnet_torch.training.tracking import TensorBoardWriter, Tracker

logger = logging.getLogger(__name__)


def _on_main(method: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a method, which all ranks call together, work on the main rank only."""

    def call(self: "RunLog", *given: Any) -> Any:
        with self.ranks.control.main_only() as is_main:
            return method(self, *given) if is_main else None

    return call


class RunLog:
    """Writes a run's metrics and pictures, prints its progress."""

    def __init__(
        self, ranks: Ranks, state: RunState, last_step: int, settings: Settings, net: AlexNet, config: dict[str, Any]
    ) -> None:
        self.output, self.ranks, self._net, self._is_open = Path(settings.output), ranks, net, False
        self._open(state, last_step, settings, config)

    @_on_main
    def _open(self, state: RunState, last_step: int, settings: Settings, config: dict[str, Any]) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        write_json(self.output / CONFIG, config, indent=1)
        for name in ("hardware", "python", "versions", "commit"):
            logger.debug("%s: %s", name, config[name])
        self._path, given = self.output / METRICS, asdict(settings)
        self._metrics = self._path.open("r+b" if self._path.exists() else "w+b")
        self._metrics.truncate(state.metrics_size)  # the resumed run writes the later lines again
        self._metrics.seek(state.metrics_size)
        self._board = TensorBoardWriter(self.output / TENSORBOARD, state.step, given, self._net.architecture)
        self._batch_size, self._is_imagenet = settings.batch_size, is_imagenet(config["classes"])
        if self._is_imagenet and state.step == 0:
            self._board.write_published(settings.batch_size)
        # a bar on a terminal; elsewhere one line for each report, since a log file cannot show a bar
        shown = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{remaining} left{postfix}]"  # in 80 columns
        self._bar = tqdm(total=last_step, initial=state.step, bar_format=shown, disable=None, dynamic_ncols=True)
        self._tracker = Tracker(settings.track, self.output, given) if settings.track else None
        self._is_open = True

    def advance(self) -> None:
        if self._is_open:
            self._bar.update()

    def print(self, text: str) -> None:
        if self._is_open and self._bar.disable:
            print(text, flush=True)
        elif self._is_open:
            tqdm.write(text, file=sys.stdout)

    @_on_main
    def log_start(self, weights: dict[str, Tensor]) -> None:
        self._board.write_graph(self._net.architecture, self._net.num_classes, self._net.image_size)
        self._board.write_weights(weights, 0)

    @_on_main
    def log_samples(self, images: Tensor) -> None:
        self._board.add_images("train/samples", images[:16], 1, dataformats="NHWC")

    @_on_main
    def log_train(self, record: dict[str, Any]) -> None:
        self._write("train", record)
        learnt = f"loss {record['loss']:.4f}, error {record['top1_error']:.1%}"
        speed = f"{record['images_per_second']:.0f} images/s"
        self._bar.set_postfix_str(f"{learnt}, {speed}")
        if self._is_imagenet and (line := standing(record["step"], self._batch_size, record["loss"])):
            self.print(line)
        if self._bar.disable:
            text = f"{learnt}, lr {record['lr']:.2g}, {speed}, waiting {record['data_wait']:.0%}"
            self.print(f"epoch {record['epoch']:.2f}, step {record['step']}: {text}")

    @_on_main
    def log_validation(
        self, record: dict[str, Any], errors: list[float], weights: dict[str, Tensor], ratios: dict[str, float]
    ) -> None:
        self._write("val", record)
        self._board.write_weights(weights, record["step"])
        self._board.write_ratios(ratios, min(errors), record["step"])
        best = " (the best so far)" if errors[-1] < min(errors[:-1], default=2) else ""
        errors_now = errors_in_words(record, self._net.num_classes)
        when = f"epoch {record['epoch']:g}, step {record['step']}"
        self.print(f"{when}: validation loss {record['loss']:.4f}, {errors_now}{best}")

    @_on_main
    def log_test(self, record: dict[str, Any]) -> None:
        self._write("test", record)

    def _write(self, split: str, record: dict[str, Any]) -> None:
        self._path.stat()  # writing to an open file succeeds even after its folder was removed
        self._metrics.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        self._metrics.flush()
        self._board.write_record(split, record)
        if self._tracker:
            self._tracker.log(split, record)

    @_on_main
    def sync(self) -> int:
        """Puts metrics.jsonl on the disk; returns its bytes."""
        self._path.stat()
        os.fsync(self._metrics.fileno())
        return self._metrics.tell()

    def close(self) -> None:
        for part in (self._metrics, self._board, self._bar, self._tracker) if self._is_open else ():
            if part is not None:
                part.close()


@contextmanager
def record_end(folder: Path, is_main: bool) -> Iterator[None]:
    """Writes how the block ended into end.json, for the list of runs."""
    end = None
    if is_main:
        (folder / END).unlink(missing_ok=True)
    try:
        yield
        end = {"state": "done", "message": None}
    except (RunError, MemoryError, RuntimeError) as error:
        state = "stopped" if isinstance(error, Interrupted) else "diverged" if isinstance(error, Diverged) else "failed"
        message = str(error) if isinstance(error, RunError) else describe_memory_error(error)
        end = {"state": state, "message": message} if message else None  # None: a fault of the program
        raise
    finally:
        if is_main and end:
            with suppress(OSError):
                write_json(folder / END, end)


def describe_run(settings: Settings, recipe: Recipe, prepared: PreparedImages, placement: Placement) -> dict[str, Any]:
    return {
        "settings": settings.recorded(),
        "architecture": asdict(recipe.architecture),
        "classes": list(prepared.classes),
        "images": {"train": len(prepared.train.labels), "val": len(prepared.val.labels)},
        "devices": [str(device) for device in placement.devices],
        "placement": placement.describe(),
        "processes": placement.world.size,
        "versions": library_versions(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "hardware": {
            "processor": _processor(),
            "cores": available_cores(),
            "threads": torch.get_num_threads(),
            "GPUs": [torch.cuda.get_device_name(device) for device in placement.devices if device.type == "cuda"],
        },
        "commit": _commit(),
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _commit() -> str | None:
    checkout = Path(__file__).parents[2]
    with suppress(OSError, subprocess.CalledProcessError):
        if (checkout / ".git").exists():
            line = ["git", "-C", str(checkout), "rev-parse", "HEAD"]  # fails with four lines in another user's checkout
            return subprocess.check_output(line, text=True, stderr=subprocess.DEVNULL).strip()
    return None
