"""Features: stages' outputs for many images, written batch by batch into one file; stopped, it continues."""

import hashlib
import json
import logging
import math
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from alexnet_torch.data.decode import VERSION
from alexnet_torch.data.loader import decode_ahead
from alexnet_torch.data.sources.classes import in_one_line, normal
from alexnet_torch.data.sources.listing import find_images
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.scoring import network_input, require_finite
from alexnet_torch.files import importing, read_lines, reading, sync_folder, utf8_text, write_json, writing
from alexnet_torch.run_folder import claimed, library_versions
from alexnet_torch.weights.model_file import METADATA_SEAL, TrainedModel, sealed_metadata

logger = logging.getLogger(__name__)

SAVE_SECONDS = 30.0  # of work that kill -9 or a power cut may lose

Shapes = Mapping[str, tuple[int, ...]]  # of arrays, by name


@dataclass(frozen=True)
class FeatureRequest:
    """Which features to compute, and where to write them."""

    folder: Path  # of images, in subfolders at any depth
    output: Path  # a .npy or .h5 file
    stages: tuple[str, ...] = ("fc7",)
    files: Path | None = None  # a text file with an image's path in `folder` on each line; None: all images, sorted
    per_tower: bool = False  # an array for each tower, instead of one with tower 0's channels first
    skip_bad: bool = False
    batch_size: int = 64


@torch.no_grad()
def stage_outputs(model: TrainedModel, stages: Sequence[str], crops: np.ndarray) -> dict[str, np.ndarray]:
    """Returns stages' outputs for crops (N, H, W, 3) uint8, each (N, ...) float32, tower 0's channels first."""
    outputs = model.net.stage_outputs(network_input(model, torch.from_numpy(crops)), stages)
    return {stage: output.float().cpu().contiguous().numpy() for stage, output in outputs.items()}


class PartialRows:
    """A .npy file of each array, with the rows of `done` images without the `bad` (index, reason)."""

    def __init__(self, folder: Path, shapes: Shapes, command: Mapping[str, Any], skip_bad: bool) -> None:
        self.folder, self._shapes, self._command = folder, shapes, json.loads(json.dumps(command))
        self.parts = {name: folder / f"{name}.npy" for name in shapes}
        self.done, self.bad, self._saved = 0, list[tuple[int, str]](), time.monotonic()
        if (path := folder / "progress.json").exists():
            progress = json.loads(path.read_text())
            was, self.done, self.bad = progress["command"], progress["done"], list(map(tuple, progress["bad"]))
            if names := [name for name in {**was, **self._command} if was.get(name) != self._command.get(name)]:
                what = f"has the rows of another command, which differs in {', '.join(names)}"
                raise UserError(f"--output: {folder} {what}; finish that command, or move the folder elsewhere")
        # the user may have repaired bad ones; a kill may have come while the parts were moved
        if (self.bad and not skip_bad) or not all(part.exists() for part in self.parts.values()):
            self.done, self.bad = 0, []
        self.files, mode = ExitStack(), "r+b" if self.done else "w+b"
        self._files = {name: self.files.enter_context(part.open(mode)) for name, part in self.parts.items()}
        self._write_headers()
        for name, file in self._files.items():  # without rows that a kill left after the last save
            file.seek(4 * self.rows * math.prod(shapes[name][1:]), os.SEEK_CUR)
            file.truncate()

    def _write_headers(self) -> None:
        for name, file in self._files.items():
            file.seek(0)
            header = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, *self._shapes[name][1:])}
            np.lib.format.write_array_header_1_0(file, header)  # which leaves room for any number of rows

    @property
    def rows(self) -> int:
        return self.done - len(self.bad)

    def append(self, count: int, features: Mapping[str, np.ndarray], bad: Sequence[tuple[int, str]]) -> None:
        for name, rows in features.items():
            self._files[name].write(np.ascontiguousarray(rows, "<f4").data)
        self.done += count
        self.bad += bad
        if time.monotonic() > self._saved + SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Makes all rows so far survive a kill and a power cut."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        write_json(self.folder / "progress.json", {"command": self._command, "done": self.done, "bad": self.bad})
        self._saved = time.monotonic()

    def finish(self) -> None:
        self._write_headers()
        self.save()


@contextmanager
def partial_rows(
    output: Path, shapes: Shapes, command: Mapping[str, Any], skip_bad: bool = False
) -> Iterator[PartialRows]:
    """Yields the rows so far of the same command; saves them if the block fails, else removes them."""
    with claimed(output.with_name(f"{output.name}.partial")) as folder:
        with reading(f"--output: {folder}", "move it elsewhere to start again"):
            partial = PartialRows(folder, shapes, command, skip_bad)
        try:
            yield partial
        except BaseException:
            if partial.rows:
                partial.save()
                logger.info(f"{folder}: has {partial.rows} rows; the same command continues from them")
            else:
                shutil.rmtree(folder)
            raise
        finally:
            partial.files.close()
        shutil.rmtree(folder)


def save_features(model: TrainedModel, request: FeatureRequest) -> Shapes:
    """Writes stages' outputs for many images, complete or not at all; returns the arrays' shapes by name.

    Several arrays have a .npy file each, FILE.conv5.npy; FILE.json describes the rows. A .h5 file has all.
    """
    output, size = request.output, model.net.image_size
    if output.suffix not in (".npy", ".h5"):
        raise UserError(f"--output {output}: must end in .npy or .h5")
    if output.suffix == ".h5":
        with importing(output, "hdf5"):
            import h5py  # noqa: F401 - found missing now, not after hours
    names = read_lines(request.files, "--files", any_bytes=True) if request.files else find_images(request.folder)
    missing = [f"  {path}" for name in names if request.files and not (path := request.folder / name).is_file()]
    if missing and not request.skip_bad:
        nearest = next(filter(None, (_nearest(name, request.folder) for name in names)), "")
        fix = f"{nearest}remove the lines, or leave them out with --skip-bad"
        raise UserError("\n".join([f"--files {request.files}: {len(missing)} file(s) do not exist; {fix}:", *missing]))
    black = _arrays(model, request, np.zeros((1, size, size, 3), np.uint8))
    shapes = {name: (len(names), *rows.shape[1:]) for name, rows in black.items()}
    source = _source(model, request)
    listed = hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    command = {**source, "files": listed, "format": output.suffix}
    with writing(f"--output {output}"), partial_rows(output, shapes, command, request.skip_bad) as partial:
        _compute(model, request, names, partial)
        rows = _described(names, {index for index, _ in partial.bad})
        partial.finish()
        shapes = {name: (partial.rows, *shape[1:]) for name, shape in shapes.items()}
        if output.suffix == ".h5":
            _write_hdf5(output, source, rows, partial)
        else:
            _write_npy(output, shapes, {**source, **rows}, partial)
        sync_folder(output.parent)
    return shapes


def _nearest(line: str, folder: Path) -> str:
    """Returns which image of the folder a line of --files perhaps means, and what it has that a path has not."""
    if (folder / line).is_file():
        return ""
    first = re.split("[\t,;]", line)[0].strip('" ')
    slashes = first.replace("\\", "/").removeprefix("./")
    images = {normal(path).casefold(): path for path in find_images(folder)}
    if (path := images.get(normal(slashes).casefold())) is None:
        return ""
    odd = {"columns": first != line, "backslashes": slashes != first.removeprefix("./")}
    odd |= {"other letter case": normal(slashes) != normal(path), "another form of Unicode": slashes != path}
    return f"{in_one_line(line)} has {next(what for what, is_so in odd.items() if is_so)}: write {path!r}; "


def _arrays(model: TrainedModel, request: FeatureRequest, crops: np.ndarray) -> dict[str, np.ndarray]:
    """Computes the rows (N, ...) of each array: "features" alone, else "conv5" or "conv5.tower0"."""
    arrays = stage_outputs(model, request.stages, crops)
    if request.per_tower:
        arrays = {
            f"{stage}.tower{tower}": part
            for stage, rows in arrays.items()
            for tower, part in enumerate(np.array_split(rows, model.net.architecture.towers, axis=1))
        }
    return {"features": next(iter(arrays.values()))} if len(arrays) == 1 else arrays


def _source(model: TrainedModel, request: FeatureRequest) -> dict[str, Any]:
    net, architecture = model.net, model.net.architecture
    source = {
        "stages": list(request.stages),
        "per_tower": request.per_tower,
        "folder": str(request.folder),
        "architecture": architecture.name,
        "towers": architecture.towers,
        "image_size": net.image_size,
        "model_sha256": sealed_metadata(model)[METADATA_SEAL],
        "preprocessing": {
            "orientation": "as EXIF says",
            "square": f"central, scaled to {len(model.mean)} pixels, bicubic with antialiasing",
            "crop": f"central {net.image_size} pixels",
            "values": "RGB, 0..255, minus the mean image",
            "mean_rgb": model.mean.mean((0, 1), dtype=np.float64).tolist(),
            "input_scale": architecture.input_scale,
            "decoder_version": VERSION,
        },
        "batch_size": request.batch_size,
        "devices": [str(device) for device in net.devices],
        "versions": {**library_versions(), "python": platform.python_version()},
    }
    if architecture.stage_names[-1] in request.stages:
        source["logits"] = list(model.classes)  # the class of each column
    return source


def _described(names: Sequence[str], bad: set[int]) -> dict[str, Any]:
    """Returns the rows' files, their classes, which are their folders, and labels, or -1."""
    files = [name for index, name in enumerate(names) if index not in bad]
    classes = sorted({name.rpartition("/")[0] for name in names} - {""})
    index = {name: i for i, name in enumerate(["", *classes], -1)}
    labels = [index[file.rpartition("/")[0]] for file in files]
    return {"files": files, "classes": classes, "skipped": [names[i] for i in sorted(bad)], "labels": labels}


def _compute(model: TrainedModel, request: FeatureRequest, names: Sequence[str], partial: PartialRows) -> None:
    if partial.done:
        logger.info(f"{partial.folder}: continues after {partial.done} of {len(names)} files")
    start, files = partial.done, [request.folder / name for name in names]
    squares, unreadable = [(len(model.mean), model.net.image_size)], list(partial.bad)
    with tqdm(total=len(files), initial=start, unit="image", disable=None, dynamic_ncols=True) as bar:
        for batch in decode_ahead(files[start:], squares, request.batch_size):
            bad = [(start + index, str(error)) for index, error in batch.bad]
            unreadable += bad
            # after the first bad file there will be no output: the others are only decoded, to list all bad ones
            if request.skip_bad or not unreadable:
                arrays = _arrays(model, request, batch.crops[0]) if len(batch.indices) else {}
                for rows in arrays.values():
                    require_finite(torch.from_numpy(rows), [files[start + i] for i in batch.indices])
                partial.append(len(batch.indices) + len(bad), arrays, bad)
            bar.update(len(batch.indices) + len(bad))
    listed = "\n".join(f"  {reason}" for _, reason in unreadable)
    if unreadable and (not request.skip_bad or len(unreadable) == len(files)):
        fix = "mend them or move them elsewhere" + ("" if request.skip_bad else ", or leave them out with --skip-bad")
        raise UserError(f"{len(unreadable)} file(s) cannot be read; {fix}:\n{listed}")
    if unreadable:
        logger.warning(f"{len(unreadable)} file(s) cannot be read and are left out:\n{listed}")


def _write_npy(path: Path, shapes: Shapes, values: dict[str, Any], partial: PartialRows) -> None:
    paths = {name: path if len(shapes) == 1 else path.with_suffix(f".{name}.npy") for name in shapes}
    arrays = {name: {"file": array.name, "shape": shapes[name]} for name, array in paths.items()}
    described = {"arrays": arrays} if len(paths) > 1 else {"shape": shapes["features"]}
    for array in paths.values():
        array.unlink(missing_ok=True)  # so that an old array is never beside the new names
    write_json(path.with_suffix(".json"), {**described, **values})
    for name, array in paths.items():
        partial.parts[name].replace(array)


def _write_hdf5(path: Path, source: dict[str, Any], rows: dict[str, Any], partial: PartialRows) -> None:
    import h5py  # here: an optional package

    complete = partial.folder / "complete.h5"
    with h5py.File(complete, "w") as file:
        for name, part in partial.parts.items():
            file.create_dataset(name, data=np.load(part, mmap_mode="r"))
        file.create_dataset("labels", data=np.array(rows["labels"], "<i4"))
        for name in ("files", "classes"):  # too long for attributes
            encoded = [value.encode("utf-8", "surrogateescape") for value in rows[name]]  # their own bytes
            file.create_dataset(name, data=np.array(encoded, object), dtype=h5py.string_dtype())
        for name, value in {**source, "skipped": rows["skipped"]}.items():
            file.attrs[name] = utf8_text(value) if isinstance(value, str) else json.dumps(value)
    with complete.open("rb") as written:
        os.fsync(written.fileno())
    complete.replace(path)
