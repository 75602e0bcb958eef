"""Writes damaged files of a run anew from its checkpoints, when it is resumed."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_write
from alexnet_torch.run_folder import CHECKPOINTS, METRICS
from alexnet_torch.training.checkpoints import load_intact_step
from alexnet_torch.training.run_state import RunState
from alexnet_torch.weights.model_file import TrainedModel, read_model_files, save_model

Say = Callable[[str], object]


def compressed_metrics(output: Path, size: int) -> Tensor:
    """Returns the first `size` bytes of a run's metrics, compressed, for a checkpoint: (n,) uint8."""
    with (output / METRICS).open("rb") as file:
        return torch.frombuffer(bytearray(zlib.compress(file.read(size), 1)), dtype=torch.uint8)


def restore_run_files(output: Path, state: RunState, metrics: Tensor | None, model: TrainedModel, say: Say) -> None:
    """Writes metrics.jsonl, model.pt and model.json anew if they are missing or damaged. Only the main rank calls it.

    Args:
        output: the run's folder.
        state: of the checkpoint from which the run is resumed; the size of the metrics changes if lines were lost.
        metrics: from `compressed_metrics`, in that checkpoint; None if an earlier version wrote it.
        model: the model with any weights, for model.json.
        say: called with a line about each file.

    Raises:
        OSError: the folder cannot be written.
    """
    _restore_metrics(output / METRICS, state, metrics, say)
    _restore_model(output, state.best_step, model, say)


def _restore_metrics(path: Path, state: RunState, metrics: Tensor | None, say: Say) -> None:
    content = path.read_bytes()[: state.metrics_size] if path.exists() else b""
    if metrics is not None:
        expected = zlib.decompress(metrics.numpy().tobytes())
        if content == expected:
            return
        say(f"{path} was damaged: written anew from the checkpoint")
    else:
        lines = [line for line in content.splitlines(keepends=True) if _is_record(line)]
        expected = b"".join(lines)
        if content == expected and len(content) == state.metrics_size:
            return
        say(f"{path} was damaged, and the checkpoint has no copy: the {len(lines)} intact lines are kept")
        state.metrics_size = len(expected)
    atomic_write(path, lambda file: file.write(expected))


def _is_record(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _restore_model(output: Path, best_step: int | None, model: TrainedModel, say: Say) -> None:
    if best_step is None:
        return
    try:
        read_model_files(output)
    except UserError as error:
        content = load_intact_step(output / CHECKPOINTS, best_step)
        if content is None:
            say(f"{error}; the checkpoint of its step {best_step} is damaged, too: better weights will replace it")
            return
        weights = {name: value.contiguous() for name, value in content["weights"].items()}
        save_model(output, model, weights)
        say(f"model.pt or model.json in {output} was damaged: written anew from the checkpoint of step {best_step}")
