"""A stage's output for a folder of images, streamed into one file."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from alexnet_torch.data.augment import centre_crops, subtract_mean
from alexnet_torch.data.decode_stream import decode_centre_crops
from alexnet_torch.data.folder import find_images
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.feature_file import KINDS, Listing, data_bytes, folder_classes, write_features
from alexnet_torch.weights.model_file import TrainedModel


def network_input(model: TrainedModel, crops: np.ndarray) -> Tensor:
    """What the network reads of centre crops: the mean image subtracted, on its first device.

    Args:
        model: of a run.
        crops: (N, H, W, 3) uint8, H and W the network's image size.

    Returns:
        (N, 3, H, W) float32.
    """
    device, size, side = model.net.exchange.devices[0], model.net.image_size, model.mean.shape[0]
    mean = torch.from_numpy(model.mean).to(device)
    return subtract_mean(torch.from_numpy(crops).to(device), centre_crops(len(crops), side, size), mean)


@torch.no_grad()
def stage_output(model: TrainedModel, stage: str, crops: np.ndarray) -> np.ndarray:
    """A stage's output for centre crops, on the CPU: (N, ...) float32, channels of tower 0 first.

    Args:
        model: of a run.
        stage: by name, such as "fc7".
        crops: (N, H, W, 3) uint8.
    """
    output: np.ndarray = model.net.features(network_input(model, crops), stage).float().cpu().contiguous().numpy()
    return output


def save_features(
    model: TrainedModel,
    root: Path,
    stage: str,
    output: Path,
    skip_bad: bool = False,
    batch_size: int = 64,
    workers: int | None = None,
) -> tuple[Listing, tuple[int, ...]]:
    """Writes a stage's output for all images of a folder into one file, as `write_features` lays it out.

    Memory holds some batches and the files' names, however many images there are.

    Args:
        model: of a run.
        root: a folder with images, nested in any way; the folder that an image lies in is its class.
        stage: by name, such as "fc7".
        output: a .npy or .safetensors file, made or replaced.
        skip_bad: leave unreadable files out, saying so, instead of refusing them.
        batch_size: images in a batch.
        workers: processes that decode; all cores by default.

    Returns:
        what was written: its listing, and the shape of one image's features.

    Raises:
        UserError: an argument is wrong, a file cannot be read, or the disk is too small.
    """
    if output.suffix not in KINDS:
        raise UserError(f"--output {output}: must end in {' or '.join(KINDS)}")
    stages = model.net.architecture.stage_names
    if stage not in stages:
        raise UserError(f"--stage {stage}: there is no such stage; there are {', '.join(stages)}")
    size = model.net.image_size
    names = find_images(root)
    row = stage_output(model, stage, np.zeros((1, size, size, 3), np.uint8)).shape[1:]
    classes, labels = folder_classes(names)
    listing = Listing(_facts(model, root, stage), names, classes, labels)
    blocks = _blocks(model, [root / name for name in names], stage, skip_bad, batch_size, workers)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        need, free = data_bytes(len(names), row), shutil.disk_usage(output.parent).free
        if need > free:
            raise UserError(
                f"--output {output}: {stage} of {len(names)} images takes {need / 1e9:.1f} GB and "
                f"{free / 1e9:.1f} GB are free; make room, or name another disk"
            )
        return write_features(output, listing, row, blocks), row
    except OSError as error:
        raise UserError(
            f"--output {output}: cannot be written ({error.strerror or error}); make room, or name another file"
        ) from error


def _facts(model: TrainedModel, root: Path, stage: str) -> dict[str, object]:
    architecture = model.net.architecture
    facts: dict[str, object] = {
        "stage": stage,
        "folder": str(root),
        "architecture": architecture.name,
        "towers": architecture.towers,
        "image_size": model.net.image_size,
    }
    if stage == architecture.stage_names[-1]:
        facts["logits"] = model.classes  # what each column stands for
    return facts


def _blocks(
    model: TrainedModel, files: Sequence[Path], stage: str, skip_bad: bool, batch_size: int, workers: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and features of the files that can be read, a batch at a time."""
    bad: list[tuple[int, str]] = []
    size, side = model.net.image_size, model.mean.shape[0]
    with tqdm(total=len(files), unit="image", desc=stage, disable=None, dynamic_ncols=True) as bar:
        for batch in decode_centre_crops(files, side, size, batch_size, workers):
            bad += batch.bad
            # once the file is not going to be, the rest is only decoded, to name all bad files at once
            if len(batch.indices) and (skip_bad or not bad):
                yield batch.indices, stage_output(model, stage, batch.images)
            bar.update(len(batch.indices) + len(batch.bad))
    listed = "\n".join(f"  {files[index]}: {reason}" for index, reason in bad)
    if bad and (not skip_bad or len(bad) == len(files)):
        mend = "mend or remove them" + ("" if skip_bad else ", or leave them out with --skip-bad")
        raise UserError(f"{len(bad)} file(s) cannot be read; {mend}:\n{listed}")
    if bad:
        print(f"{len(bad)} file(s) cannot be read and are left out:\n{listed}", file=sys.stderr)
