"""Predictions for image files, from a run's folder and nothing else."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from alexnet_torch.data.augment import centre_crops, centre_slice, subtract_mean
from alexnet_torch.data.decode import UnreadableImage, decode_file
from alexnet_torch.data.worker_processes import available_cores
from alexnet_torch.errors import UserError
from alexnet_torch.weights.model_file import TrainedModel


class Prediction(TypedDict):
    """One class and its probability, in [0, 1]."""

    label: str  # what people call it
    identity: str  # its WordNet ID; else its name
    probability: float


@torch.no_grad()
def predict(
    model: TrainedModel, files: Sequence[Path], batch_size: int = 64
) -> Iterator[tuple[Path, list[Prediction]]]:
    """Yields each file with its five most probable classes, best first, computed from the centre crop.

    Threads on all cores decode a batch: the next one while a GPU computes; on a CPU between the network's batches,
    since decoding and the network would compete for the cores. Results have the order of the files.

    Args:
        model: of a run.
        files: images in any format that training reads.
        batch_size: images that the network reads together.

    Raises:
        UserError: a file is not an image, or the network's outputs for it are not finite; the message names it.
            Earlier batches have been yielded by then.
    """
    size, side, labels = model.net.image_size, model.mean.shape[0], model.labels
    prefetch = int(model.net.devices[0].type != "cpu")
    batches = [files[i : i + batch_size] for i in range(0, len(files), batch_size)]
    with ThreadPoolExecutor(available_cores(), "decoding") as pool:
        decoded = _decode_batches(pool, lambda file: decode_centre_crop(file, side, size), batches, prefetch)
        try:
            for batch, crops in decoded:
                logits = model.net(network_input(model, np.stack(crops)))  # (N, classes)
                require_finite_outputs(logits, batch)
                top = logits.softmax(dim=1).topk(min(5, len(labels)), dim=1)
                for file, values, indices in zip(batch, top.values.tolist(), top.indices.tolist(), strict=True):
                    pairs = zip(indices, values, strict=True)
                    yield (
                        file,
                        [Prediction(label=labels[i], identity=model.classes[i], probability=p) for i, p in pairs],
                    )
        finally:  # the caller may stop early
            pool.shutdown(cancel_futures=True)


def require_finite_outputs(outputs: Tensor, files: Sequence[Path]) -> None:
    """Raises a UserError if a network's outputs (N, ...) for N files are not finite; it names the first such file."""
    if not bool(outputs.sum().isfinite()):
        bad = next((i for i, output in enumerate(outputs) if not bool(output.sum().isfinite())), 0)
        raise UserError(
            f"{files[bad]}: the network's outputs for it are infinite or not numbers: its training has diverged; "
            "use another run's model"
        )


def network_input(model: TrainedModel, crops: np.ndarray) -> Tensor:
    """Returns what the network reads, (N, 3, H, W) float32 on its first device: crops minus the mean image.

    The centre crops are (N, H, W, 3) uint8; H and W are the network's image size.
    """
    device, size, side = model.net.devices[0], model.net.image_size, model.mean.shape[0]
    mean = torch.from_numpy(model.mean).to(device)
    return subtract_mean(torch.from_numpy(crops).to(device), centre_crops(len(crops), side, size), mean)


def decode_centre_crop(file: Path, side: int, size: int) -> np.ndarray:
    """Decodes a file to a square of side `side` and returns its centre crop, (size, size, 3) uint8.

    Raises:
        UserError: the file is not an image.
    """
    centre = centre_slice(side, size)
    try:
        return decode_file(file, side)[centre, centre]
    except UnreadableImage as error:
        raise UserError(f"{error}; name image files") from error


def _decode_batches(
    pool: ThreadPoolExecutor, decode: Callable[[Path], np.ndarray], batches: Sequence[Sequence[Path]], prefetch: int
) -> Iterator[tuple[Sequence[Path], list[np.ndarray]]]:
    """Yields each batch of files with its images, while the pool decodes the next `prefetch` batches."""
    running: deque[tuple[Sequence[Path], list[Future[np.ndarray]]]] = deque()
    for batch in [*batches, *([()] * prefetch)]:
        running.append((batch, [pool.submit(decode, file) for file in batch]))
        if len(running) > prefetch:
            files, images = running.popleft()
            yield files, [image.result() for image in images]
