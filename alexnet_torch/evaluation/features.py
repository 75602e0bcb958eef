"""Features: stages' outputs for many images, written batch by batch into one file."""

import hashlib
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from alexnet_torch.data.decode import VERSION
from alexnet_torch.data.decode_stream import decode_centre_crops
from alexnet_torch.data.image_lists import find_images, read_file_list
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.feature_file import (
    HDF5_REQUIREMENTS,
    SUFFIXES,
    FeatureArray,
    FeatureMetadata,
    bytes_on_disk,
    folder_classes,
    header_lengths,
    write_feature_file,
)
from alexnet_torch.evaluation.partial_features import PartialFeatures
from alexnet_torch.evaluation.predict import network_input, require_finite_outputs
from alexnet_torch.files import explain_missing_package, explain_os_error
from alexnet_torch.model.exchange import shard_sizes
from alexnet_torch.run_folder import library_versions
from alexnet_torch.weights.model_file import TrainedModel, model_sha256


@dataclass(frozen=True)
class FeatureRequest:
    """Which features to compute, and where to write them.

    Attributes:
        folder: a folder of images, with subfolders at any depth; an image's class is the folder that contains it.
        output: a .npy, .safetensors or .h5 file, which is created or replaced.
        stages: names of stages, such as "conv5" and "fc7"; one pass computes all of them.
        files: a text file with an image's path in `folder` on each line, in the order of the rows; None for all images
            of the folder, sorted.
        per_tower: write an array for each tower, instead of one with tower 0's channels first.
        skip_bad: leave out unreadable files and print them, instead of an error.
        batch_size: images in a batch.
        workers: processes that decode; None for one for each core.
    """

    folder: Path
    output: Path
    stages: tuple[str, ...] = ("fc7",)
    files: Path | None = None
    per_tower: bool = False
    skip_bad: bool = False
    batch_size: int = 64
    workers: int | None = None


@torch.no_grad()
def stage_outputs(model: TrainedModel, stages: Sequence[str], crops: np.ndarray) -> dict[str, np.ndarray]:
    """Returns stages' outputs for centre crops, by name, each (N, ...) float32; tower 0's channels come first.

    Args:
        model: of a run.
        stages: names of stages, such as "fc7".
        crops: (N, H, W, 3) uint8; H and W are the network's image size.
    """
    outputs = model.net.stage_outputs(network_input(model, crops), stages)
    return {stage: output.float().cpu().contiguous().numpy() for stage, output in outputs.items()}


def stage_output(model: TrainedModel, stage: str, crops: np.ndarray) -> np.ndarray:
    """Returns one stage's output; arguments as for `stage_outputs`."""
    return stage_outputs(model, [stage], crops)[stage]


def save_features(
    model: TrainedModel, request: FeatureRequest, model_files: Sequence[Path] = ()
) -> tuple[FeatureMetadata, list[FeatureArray]]:
    """Writes stages' outputs for many images into one file; `write_feature_file` has its format.

    Memory holds a few batches and the names of the files, for any number of images. If it is interrupted, the rows so
    far stay in a folder beside the output, and the same call continues from them.

    Args:
        model: of a run.
        request: what to compute.
        model_files: the model's files, whose SHA-256 are recorded too.

    Returns:
        the metadata of the file, and its arrays.

    Raises:
        UserError: the request is wrong, a file cannot be read, an output is not finite, or the disk is too small.
    """
    output = request.output
    _check(model, request)
    names = _names(request)
    if request.files is not None and not request.skip_bad:
        _check_existing(request.files, request.folder, names)
    arrays = _arrays(model, request)
    metadata = FeatureMetadata(_source(model, request, model_files), names, *folder_classes(names))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _check_space(request, arrays, len(names))
        lengths = header_lengths(output, metadata, arrays)
        with PartialFeatures(output, arrays, lengths, _command(metadata, request)) as partial:
            _compute(model, request, names, partial)
            metadata = metadata.without(index for index, _ in partial.bad)
            partial.save()
            write_feature_file(output, metadata, arrays, partial.parts)
        partial.remove()
        return metadata, arrays
    except OSError as error:
        raise UserError(f"--output {output}: {explain_os_error(error)}") from error


def _names(request: FeatureRequest) -> tuple[str, ...]:
    return find_images(request.folder) if request.files is None else read_file_list(request.files)


def _check(model: TrainedModel, request: FeatureRequest) -> None:
    if request.output.suffix not in SUFFIXES:
        raise UserError(f"--output {request.output}: must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if request.output.suffix == ".h5":
        with explain_missing_package(request.output, HDF5_REQUIREMENTS):
            import h5py  # noqa: F401 - found missing now, not after hours
    if request.batch_size < 1:
        raise UserError(f"--batch-size {request.batch_size}: must be 1 or more")
    stages = model.net.architecture.stage_names
    for stage in request.stages:
        if stage not in stages:
            raise UserError(f"--stage {stage}: unknown stage; choose from {', '.join(stages)}")
    if not request.stages or len(set(request.stages)) < len(request.stages):
        raise UserError(f"--stage {','.join(request.stages)}: name each stage once, and at least one")


def _check_existing(file: Path, folder: Path, names: Sequence[str]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        listed = "\n".join(f"  {folder / name}" for name in missing)
        raise UserError(
            f"--files {file}: {len(missing)} file(s) do not exist; remove the lines, or leave them out "
            f"with --skip-bad:\n{listed}"
        )


def _check_space(request: FeatureRequest, arrays: Sequence[FeatureArray], rows: int) -> None:
    need, free = bytes_on_disk(request.output, rows, arrays), shutil.disk_usage(request.output.parent).free
    if need > free:
        raise UserError(
            f"--output {request.output}: {', '.join(request.stages)} of {rows} images needs {need / 1e9:.1f} GB but "
            f"only {free / 1e9:.1f} GB are free; free space or name a file on another disk"
        )


def _arrays(model: TrainedModel, request: FeatureRequest) -> list[FeatureArray]:
    """Returns the arrays of the output, in the order of the stages: computes them for one black image."""
    size = model.net.image_size
    by_name = _by_array(model, request, stage_outputs(model, request.stages, np.zeros((1, size, size, 3), np.uint8)))
    if len(by_name) == 1:
        return [FeatureArray("features", next(iter(by_name.values())).shape[1:])]
    return [FeatureArray(name, rows.shape[1:]) for name, rows in by_name.items()]


def _by_array(model: TrainedModel, request: FeatureRequest, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the rows (N, ...) of each array by name, such as "conv5", or "conv5.tower0" with `per_tower`."""
    if not request.per_tower:
        return {stage: outputs[stage] for stage in request.stages}
    towers, arrays = model.net.architecture.towers, {}
    for stage in request.stages:
        ends = np.cumsum(shard_sizes(outputs[stage].shape[1], towers))
        for tower, rows in enumerate(np.split(outputs[stage], ends[:-1], axis=1)):
            arrays[f"{stage}.tower{tower}"] = rows
    return arrays


def _source(model: TrainedModel, request: FeatureRequest, model_files: Sequence[Path]) -> dict[str, object]:
    net, side = model.net, model.mean.shape[0]
    metadata: dict[str, object] = {
        "stages": list(request.stages),
        "per_tower": request.per_tower,
        "folder": str(request.folder),
        "architecture": net.architecture.name,
        "towers": net.architecture.towers,
        "image_size": net.image_size,
        "model_sha256": model_sha256(model),
        "model_files": {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in model_files},
        "preprocessing": {
            "orientation": "as EXIF says",
            "square": f"central, scaled to {side} pixels, bicubic with antialiasing",
            "crop": f"central {net.image_size} pixels",
            "values": "RGB, 0..255, minus the mean image",
            "mean_rgb": model.mean.mean((0, 1), dtype=np.float64).tolist(),
            "input_scale": net.architecture.input_scale,
            "decoder_version": VERSION,
        },
        "batch_size": request.batch_size,
        "devices": [str(device) for device in net.devices],
        "versions": {**library_versions(), "python": platform.python_version()},
    }
    if net.architecture.stage_names[-1] in request.stages:
        metadata["logits"] = model.classes  # the class of each column of the last stage
    return metadata


def _command(metadata: FeatureMetadata, request: FeatureRequest) -> dict[str, Any]:
    """Returns what must be the same for an interrupted computation to continue."""
    names = hashlib.sha256("\0".join(metadata.files).encode("utf-8", "surrogateescape")).hexdigest()
    return {**metadata.source, "files": names, "format": request.output.suffix}


def _compute(model: TrainedModel, request: FeatureRequest, names: Sequence[str], partial: PartialFeatures) -> None:
    """Computes the missing rows, batch by batch."""
    if partial.bad and not request.skip_bad:  # since then, the user may have repaired them
        first = partial.bad[0][0]
        partial.restart_at(first - first % request.batch_size)
    if partial.done:
        print(f"{partial.folder}: continues after {partial.done} of {len(names)} files", file=sys.stderr)
    files, start = [request.folder / name for name in names], partial.done
    size, side = model.net.image_size, model.mean.shape[0]
    unreadable: list[tuple[int, str]] = []
    with tqdm(total=len(files), initial=start, unit="image", disable=None, dynamic_ncols=True) as bar:
        for batch in decode_centre_crops(files[start:], side, size, request.batch_size, request.workers):
            count = len(batch.indices) + len(batch.bad)
            unreadable += [(start + index, reason) for index, reason in batch.bad]
            # after the first bad file there will be no output: the other files are only decoded, to list all bad ones
            if request.skip_bad or not unreadable:
                outputs = stage_outputs(model, request.stages, batch.images) if len(batch.indices) else None
                for output in (outputs or {}).values():
                    require_finite_outputs(torch.from_numpy(output), [files[start + i] for i in batch.indices])
                rows = list(_by_array(model, request, outputs).values()) if outputs else _no_rows(partial.arrays)
                partial.append(partial.done + count, rows, [(start + i, reason) for i, reason in batch.bad])
            bar.update(count)
    _report_unreadable(request, files, partial.bad or unreadable)


def _no_rows(arrays: Sequence[FeatureArray]) -> list[np.ndarray]:
    return [np.empty((0, *array.shape), np.float32) for array in arrays]


def _report_unreadable(request: FeatureRequest, files: Sequence[Path], bad: Sequence[tuple[int, str]]) -> None:
    listed = "\n".join(f"  {files[index]}: {reason}" for index, reason in bad)
    if bad and (not request.skip_bad or len(bad) == len(files)):
        fix = "mend them or move them elsewhere" + ("" if request.skip_bad else ", or leave them out with --skip-bad")
        raise UserError(f"{len(bad)} file(s) cannot be read; {fix}:\n{listed}")
    if bad:
        print(f"{len(bad)} file(s) cannot be read and are left out:\n{listed}", file=sys.stderr)
