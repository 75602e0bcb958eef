"""Benchmarks of robustness on ImageNet's classes: ImageNet-C with its mean corruption error, and ReaL labels."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_torch.data.decode import image_size
from alexnet_torch.data.sources.classes import class_of, class_order, imagenet_indices
from alexnet_torch.data.sources.layouts import read_class_folders
from alexnet_torch.data.sources.listing import FileReader, Listing
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
"""AlexNet's top-1 error on each corruption, the mean over severities; mCE is over these 15.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019.
Source: the authors' repository, hendrycks/robustness; the paper rounds them to 0.1%."""

EXTRA_CORRUPTIONS = ("gaussian_blur", "saturate", "spatter", "speckle_noise")
"""Corruptions that the paper gives for the choice of settings: they have an error, but are no part of mCE."""

CROPPED_SIDE = 224
"""ImageNet-C's images are the central 224x224 pixels of images whose shorter side was scaled to 256."""

ARCHIVES = ("", "noise/", "blur/", "weather/", "digital/", "extra/")
"""The folders in which the authors' archives hold the corruptions."""

_KNOWN = (*ALEXNET_ERRORS, *EXTRA_CORRUPTIONS)


def find_corruptions(root: Path) -> list[tuple[str, str]]:
    """Returns (name, folder) as ("snow/3", "weather/snow/3/") of each corruption and severity, in the paper's order.

    Folders are relative to the root, which may also be that of one corruption or severity; [] in any other layout.
    """
    real = root.resolve()
    if real.parent.name in _KNOWN and real.name in map(str, SEVERITIES):
        return [(f"{real.parent.name}/{real.name}", "")]
    folders = [(name, f"{archive}{name}/") for name in _KNOWN for archive in ARCHIVES]
    return [
        (f"{name}/{severity}", f"{folder}{severity}/")
        for name, folder in ([(real.name, "")] if real.name in _KNOWN else folders)
        for severity in SEVERITIES
        if (root / folder / str(severity)).is_dir()
    ]


def list_corruptions(
    root: Path, corruptions: Sequence[tuple[str, str]]
) -> tuple[Source, tuple[str, ...], np.ndarray, int | None]:
    """Lists the images of all corruptions; returns the fields of a TestSet, with a group for each."""
    names = [name for name, _ in corruptions]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--data {root}: has {twice[0]} twice; move one of the folders elsewhere")
    listing, classes = Listing(root), list[str]()
    paths, labels, groups = list[str](), [], []
    for group, (name, folder) in enumerate(corruptions):
        listed = read_class_folders(listing, folder, may_be_empty=True)
        own = class_order(list(listed))
        if group and own != classes:
            raise UserError(
                f"--data {root}: {name} and {names[0]} have different classes, such as "
                f"{min(set(own) ^ set(classes))}; unpack the archives again"
            )
        classes = own
        for label, identity in enumerate(own):
            members = sorted(listed[identity].members)
            paths += members
            labels.append(np.full(len(members), label, np.int64))
            groups.append(np.full(len(members), group, np.int64))
    if not paths:
        raise UserError(f"--data {root}: {names[0]} has no images in class folders; unpack it again")
    split = SourceSplit("val", paths, np.concatenate(labels), FileReader(root, paths))
    cropped = CROPPED_SIDE if image_size(split.read(0)) == (CROPPED_SIDE, CROPPED_SIDE) else None
    form = f"ImageNet-C, {len(corruptions)} of corruption and severity"
    form += f", images of {cropped}x{cropped} pixels taken as centre crops" if cropped else ""
    source = Source(
        form,
        root,
        tuple(map(class_of, classes)),
        (split,),
        SourceFiles([], *np.empty((2, 0), np.int64)),
        listing.skipped,
    )
    return source, tuple(names), np.concatenate(groups), cropped


@dataclass(frozen=True)
class CorruptionErrors:
    """Top-1 errors on corrupted images, as fractions, by corruption and severity."""

    by_severity: Mapping[str, Mapping[int, float]]

    @classmethod
    def of_groups(cls, groups: Sequence[str], group_of: np.ndarray, is_wrong: np.ndarray) -> "CorruptionErrors":
        """Returns the errors of groups, which are named as "snow/3", from each image's group and result, both (n,)."""
        images = np.bincount(group_of, minlength=len(groups))
        wrong = np.bincount(group_of[is_wrong], minlength=len(groups))
        errors: dict[str, dict[int, float]] = {}
        for group in np.flatnonzero(images).tolist():
            name, severity = groups[group].split("/")
            errors.setdefault(name, {})[int(severity)] = float(wrong[group] / images[group])
        return cls(errors)

    @property
    def means(self) -> dict[str, float]:
        """The mean over severities of each corruption that has all five."""
        complete = {name: errors for name, errors in self.by_severity.items() if set(errors) == set(SEVERITIES)}
        return {name: float(np.mean(list(errors.values()))) for name, errors in complete.items()}

    @property
    def missing(self) -> list[str]:
        """What mCE lacks: corruptions, or severities of one as "snow/3"."""
        missing = []
        for name in ALEXNET_ERRORS:
            absent = [f"{name}/{s}" for s in SEVERITIES if s not in self.by_severity.get(name, {})]
            missing += [name] if len(absent) == len(SEVERITIES) else absent
        return missing

    @property
    def mce(self) -> float | None:
        """The mean over the 15 corruptions of error / AlexNet's error, 1 for AlexNet; None if one is missing."""
        means = self.means
        return None if self.missing else float(np.mean([means[name] / e for name, e in ALEXNET_ERRORS.items()]))


class RealLabels:
    """ReaL labels: for each ImageNet validation image all classes that are right; for some images, none.

    Beyer et al., "Are we done with ImageNet?", 2020. The file is real.json of the repository
    google-research/reassessed-imagenet; the identities are those of the model's classes, in the order of its logits.
    """

    IMAGES = 50_000
    _NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})(?!\d)")

    def __init__(self, file: Path, identities: Sequence[str]) -> None:
        self.path = file
        with reading(f"--real {file}", "name ReaL's real.json"):
            self._labels = json.loads(file.read_bytes())
            if len(self._labels) != self.IMAGES:
                raise ValueError(f"it does not have the labels of {self.IMAGES:,} images")
            for number, each in enumerate(self._labels, 1):
                if not isinstance(each, list) or not all(type(label) is int and 0 <= label < 1000 for label in each):
                    raise ValueError(f"the labels of image {number} are no list of classes 0..999")
        indices = imagenet_indices()
        if set(identities) != set(indices):
            raise UserError(
                f"--real {file}: has labels of ImageNet's 1,000 classes, but the model has others; leave out --real"
            )
        self._standard = np.array([indices[identity] for identity in identities])  # (classes,), by logit

    def check_names(self, names: Iterable[str]) -> None:
        """Raises a UserError unless each of the files is a validation image by its name, before any is read."""
        for name in names:
            self._number(name)

    def count(self, names: Iterable[str], predicted: np.ndarray) -> tuple[int, int]:
        """Returns how many of n files have labels, and how many of these are predicted (n,) as none of them."""
        images = wrong = 0
        for name, predicted_class in zip(names, self._standard[predicted].tolist(), strict=True):
            if labels := self._labels[self._number(name) - 1]:
                images += 1
                wrong += predicted_class not in labels
        return images, wrong

    def _number(self, name: str) -> int:
        match = self._NUMBER.search(name.rpartition("/")[2])
        if match is None or not 1 <= int(match[1]) <= self.IMAGES:
            raise UserError(
                f"--real {self.path}: {name} is not named as a validation image of ILSVRC-2012, "
                "ILSVRC2012_val_00000001.JPEG to _00050000; name ImageNet's validation set with --data"
            )
        return int(match[1])
