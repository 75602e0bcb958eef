"""Features: a stage's output for all images of a folder, written batch by batch into one file."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from alexnet_torch.data.decode_stream import decode_centre_crops
from alexnet_torch.data.folder import find_images
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.feature_file import SUFFIXES, FeatureMetadata, data_bytes, folder_classes, write_features
from alexnet_torch.evaluation.predict import network_input
from alexnet_torch.weights.model_file import TrainedModel


@torch.no_grad()
def stage_output(model: TrainedModel, stage: str, crops: np.ndarray) -> np.ndarray:
    """Returns a stage's output for centre crops, (N, ...) float32 on the CPU; tower 0's channels come first.

    Args:
        model: of a run.
        stage: name of the stage, such as "fc7".
        crops: (N, H, W, 3) uint8; H and W are the network's image size.
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
) -> tuple[FeatureMetadata, tuple[int, ...]]:
    """Writes a stage's output for all images of a folder into one file; `write_features` has its format.

    Memory holds a few batches and the names of the files, for any number of images.

    Args:
        model: of a run.
        root: a folder of images, with subfolders at any depth; an image's class is the folder that contains it.
        stage: name of the stage, such as "fc7".
        output: a .npy or .safetensors file, which is created or replaced.
        skip_bad: leave out unreadable files and print them, instead of an error.
        batch_size: images in a batch.
        workers: processes that decode; one for each core by default.

    Returns:
        the metadata of the file, and the shape of one image's features.

    Raises:
        UserError: an argument is wrong, a file cannot be read, or the disk is too small.
    """
    if output.suffix not in SUFFIXES:
        raise UserError(f"--output {output}: must end in {' or '.join(SUFFIXES)}")
    stages = model.net.architecture.stage_names
    if stage not in stages:
        raise UserError(f"--stage {stage}: unknown stage; choose one of {', '.join(stages)}")
    size = model.net.image_size
    names = find_images(root)
    shape = stage_output(model, stage, np.zeros((1, size, size, 3), np.uint8)).shape[1:]
    classes, labels = folder_classes(names)
    metadata = FeatureMetadata(_source(model, root, stage), names, classes, labels)
    blocks = _feature_blocks(model, [root / name for name in names], stage, skip_bad, batch_size, workers)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        need, free = data_bytes(len(names), shape), shutil.disk_usage(output.parent).free
        if need > free:
            raise UserError(
                f"--output {output}: {stage} of {len(names)} images needs {need / 1e9:.1f} GB but only "
                f"{free / 1e9:.1f} GB are free; free space or name a file on another disk"
            )
        return write_features(output, metadata, shape, blocks), shape
    except OSError as error:
        raise UserError(
            f"--output {output}: cannot be written ({error.strerror or error}); free space or name another file"
        ) from error


def _source(model: TrainedModel, root: Path, stage: str) -> dict[str, object]:
    architecture = model.net.architecture
    metadata: dict[str, object] = {
        "stage": stage,
        "folder": str(root),
        "architecture": architecture.name,
        "towers": architecture.towers,
        "image_size": model.net.image_size,
    }
    if stage == architecture.stage_names[-1]:
        metadata["logits"] = model.classes  # the class of each column
    return metadata


def _feature_blocks(
    model: TrainedModel, files: Sequence[Path], stage: str, skip_bad: bool, batch_size: int, workers: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the row numbers and features of the readable files, batch by batch."""
    bad: list[tuple[int, str]] = []  # (row, reason)
    size, side = model.net.image_size, model.mean.shape[0]
    with tqdm(total=len(files), unit="image", desc=stage, disable=None, dynamic_ncols=True) as bar:
        for batch in decode_centre_crops(files, side, size, batch_size, workers):
            bad += batch.bad
            # after the first bad file there will be no output: the other files are only decoded, to list all bad ones
            if len(batch.indices) and (skip_bad or not bad):
                yield batch.indices, stage_output(model, stage, batch.images)
            bar.update(len(batch.indices) + len(batch.bad))
    listed = "\n".join(f"  {files[index]}: {reason}" for index, reason in bad)
    if bad and (not skip_bad or len(bad) == len(files)):
        fix = "fix or remove them" + ("" if skip_bad else ", or leave them out with --skip-bad")
        raise UserError(f"{len(bad)} file(s) cannot be read; {fix}:\n{listed}")
    if bad:
        print(f"{len(bad)} file(s) cannot be read and are left out:\n{listed}", file=sys.stderr)
