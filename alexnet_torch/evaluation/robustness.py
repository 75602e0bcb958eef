"""Benchmarks of robustness on ImageNet's classes: ImageNet-C with its mean corruption error, and ReaL labels."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_torch.data.decode import image_size
from alexnet_torch.data.sources.classes import class_of, class_order, imagenet_indices
from alexnet_torch.data.sources.layouts import read_class_folders
from alexnet_torch.data.sources.listing import Listing, file_reader
from alexnet_torch.data.sources.source import Source, SourceFiles, SourceSplit
from alexnet_torch.errors import UserError
from alexnet_torch.files import reading

SEVERITIES = (1, 2, 3, 4, 5)

ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's top-1 error on each of mCE's corruptions, the mean over severities: from hendrycks/robustness, by Hendrycks
and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019."""

EXTRA_CORRUPTIONS = ("gaussian_blur", "saturate", "spatter", "speckle_noise")  # for the choice of settings, not mCE
CROPPED_SIDE = 224  # ImageNet-C has the central pixels of images whose shorter side was scaled to 256
ARCHIVES = ("", "noise/", "blur/", "weather/", "digital/", "extra/")  # folders of the authors' archives


def find_corruptions(root: Path) -> list[tuple[str, str]]:
    """Returns (name, folder) as ("snow/3", "weather/snow/3/") of each corruption and severity."""
    # the root may also be the folder of one corruption or severity
    real, known = root.resolve(), (*ALEXNET_ERRORS, *EXTRA_CORRUPTIONS)
    if real.parent.name in known and real.name in map(str, SEVERITIES):
        return [(f"{real.parent.name}/{real.name}", "")]
    folders = [(name, f"{archive}{name}/") for name in known for archive in ARCHIVES]
    return [
        (f"{name}/{severity}", f"{folder}{severity}/")
        for name, folder in ([(real.name, "")] if real.name in known else folders)
        for severity in SEVERITIES
        if (root / folder / str(severity)).is_dir()
    ]


def list_corruptions(
    root: Path, corruptions: Sequence[tuple[str, str]]
) -> tuple[Source, tuple[str, ...], np.ndarray, int | None]:
    """Returns the fields of a TestSet with a group for each corruption and severity."""
    names = [name for name, _ in corruptions]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--data {root}: has {twice[0]} twice; move one of the folders elsewhere")
    listing, classes, paths, labels, groups = Listing(root), list[str](), list[str](), list[int](), list[int]()
    for group, (name, folder) in enumerate(corruptions):
        listed = read_class_folders(listing, folder, may_be_empty=True)
        own = class_order(list(listed))
        if group and own != classes:
            how = f"have different classes, such as {min(set(own) ^ set(classes))}"
            raise UserError(f"--data {root}: {name} and {names[0]} {how}; unpack the archives again")
        classes = own
        for label, identity in enumerate(own):
            members = sorted(listed[identity].members)
            paths += members
            labels += [label] * len(members)
            groups += [group] * len(members)
    if not paths:
        raise UserError(f"--data {root}: {names[0]} has no images in class folders; unpack it again")
    split = SourceSplit("val", paths, np.array(labels), file_reader(root, paths))
    cropped = CROPPED_SIDE if image_size(split.read(0)) == (CROPPED_SIDE, CROPPED_SIDE) else None
    crops = f", images of {cropped}x{cropped} pixels taken as centre crops" if cropped else ""
    form = f"ImageNet-C, {len(corruptions)} of corruption and severity{crops}"
    no_files = SourceFiles([], np.empty((0, 2), np.int64))
    source = Source(form, root, tuple(map(class_of, classes)), (split,), no_files, listing.skipped)
    return source, tuple(names), np.array(groups), cropped


def corruption_errors(errors: Mapping[str, float]) -> dict[str, Any]:
    """Returns as JSON values top-1 errors by group ("snow/3"), means over severities, and mCE, 1 for AlexNet."""
    corruptions: dict[str, dict[str, float | None]] = {}
    for group, error in errors.items():
        name, severity = group.split("/")
        corruptions.setdefault(name, {"mean": None})[severity] = error
    missing, relative = list[str](), list[float]()
    for name in {**ALEXNET_ERRORS, **corruptions}:
        absent = [group for severity in SEVERITIES if (group := f"{name}/{severity}") not in errors]
        if not absent:
            corruptions[name]["mean"] = mean = float(np.mean([errors[f"{name}/{s}"] for s in SEVERITIES]))
            relative += [mean / ALEXNET_ERRORS[name]] if name in ALEXNET_ERRORS else []
        elif name in ALEXNET_ERRORS:
            missing += [name] if len(absent) == len(SEVERITIES) else absent
    return {"corruptions": corruptions, "mce": None if missing else float(np.mean(relative)), "mce_lacks": missing}


def read_real_labels(file: Path, identities: Sequence[str], names: Sequence[str]) -> list[set[int]]:
    """Returns for each validation image the classes, positions in `identities`, that are right; for some, none.

    Beyer et al., "Are we done with ImageNet?", 2020: real.json of google-research/reassessed-imagenet.
    """
    with reading(f"--real {file}", "name ReaL's real.json"):
        labels = json.loads(file.read_bytes())
        if len(labels) != 50_000 or not set().union(*labels) <= set(range(1000)):
            raise ValueError("it does not have lists of classes 0..999 for 50,000 images")
    position = {identity: index for index, identity in enumerate(identities)}
    if set(position) != set(imagenet_indices()):
        raise UserError(f"--real {file}: has ImageNet's 1,000 classes, but the model has others; leave out --real")
    order, found = [position[identity] for identity in imagenet_indices()], []
    for name in names:
        match = re.search(r"ILSVRC2012_val_(\d{8})(?!\d)", name.rpartition("/")[2])
        if match is None or not 1 <= int(match[1]) <= len(labels):
            must = "is not named as ILSVRC2012_val_00000001.JPEG to _00050000"
            raise UserError(f"--real {file}: {name} {must}; name ImageNet's validation set with --data")
        found.append({order[label] for label in labels[int(match[1]) - 1]})
    return found
