"""Predictions for image files, from a run's folder and nothing else."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from alexnet_torch.data.augment import centre_crops, copy_crop, subtract_mean
from alexnet_torch.data.decode import UnreadableImage, decode_file
from alexnet_torch.data.worker_processes import available_cores
from alexnet_torch.errors import UserError
from alexnet_torch.weights.model_file import TrainedModel


class Guess(TypedDict):
    """One class and its probability, in [0, 1]."""

    label: str
    probability: float


@torch.no_grad()
def predict(model: TrainedModel, files: Sequence[Path], batch_size: int = 64) -> Iterator[tuple[Path, list[Guess]]]:
    """Each file's five most probable classes, best first, by the centre crop.

    Threads on all cores decode a batch: the next one while a GPU works; on a CPU between the network's batches,
    since threads of both would get in each other's way. Results come in the files' order.

    Args:
        model: of a run.
        files: images of any kind that training reads.
        batch_size: images classified together.

    Raises:
        UserError: a file is no image; the message names it. Those of earlier batches have been given.
    """
    device, size, side = model.net.exchange.devices[0], model.net.image_size, model.mean.shape[0]
    mean = torch.from_numpy(model.mean).to(device)
    batches = [files[i : i + batch_size] for i in range(0, len(files), batch_size)]
    with ThreadPoolExecutor(available_cores(), "decoding") as pool:
        decoded = _decoded(pool, lambda file: _centre(file, side, size), batches, int(device.type != "cpu"))
        try:
            for batch, crops in decoded:
                images = torch.stack(crops).to(device)  # (N, H, W, 3)
                logits = model.net(subtract_mean(images, centre_crops(len(batch), side, size), mean))  # (N, classes)
                best = logits.softmax(dim=1).topk(min(5, len(model.classes)), dim=1)
                for file, values, indices in zip(batch, best.values.tolist(), best.indices.tolist(), strict=True):
                    pairs = zip(indices, values, strict=True)
                    yield file, [Guess(label=model.classes[i], probability=p) for i, p in pairs]
        finally:  # the caller may leave early
            pool.shutdown(cancel_futures=True)


def _decoded(
    pool: ThreadPoolExecutor, work: Callable[[Path], Tensor], batches: Sequence[Sequence[Path]], ahead: int
) -> Iterator[tuple[Sequence[Path], list[Tensor]]]:
    """Each batch with its images; `ahead` more of them are being decoded meanwhile."""
    running: deque[tuple[Sequence[Path], list[Future[Tensor]]]] = deque()
    for batch in [*batches, *([()] * ahead)]:
        running.append((batch, [pool.submit(work, file) for file in batch]))
        if len(running) > ahead:
            files, images = running.popleft()
            yield files, [image.result() for image in images]


def _centre(file: Path, side: int, size: int) -> Tensor:
    """(size, size, 3) uint8."""
    try:
        image = decode_file(file, side)
    except UnreadableImage as error:
        raise UserError(f"{error}; name image files") from error
    crops = centre_crops(1, side, size)
    out = torch.empty((size, size, 3), dtype=torch.uint8)
    copy_crop(image, int(crops.top[0]), int(crops.left[0]), False, out)
    return out
