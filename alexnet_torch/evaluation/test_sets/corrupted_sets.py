"""ImageNet-C on disk: <corruption>/<severity>/<wnid>/*.JPEG, also in the folders noise/, blur/, ... of its archives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_torch.data.sources.class_folders import read_class_folders
from alexnet_torch.data.sources.class_names import class_order
from alexnet_torch.data.sources.image_files import FileReader
from alexnet_torch.data.sources.image_tree import ImageTree
from alexnet_torch.data.sources.imagenet_classes import class_of
from alexnet_torch.data.sources.junk import PassedOver
from alexnet_torch.data.sources.names import Names
from alexnet_torch.data.sources.source import SourceSplit
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.test_sets.decoded_batches import image_size
from alexnet_torch.evaluation.test_sets.imagenet_c import ALEXNET_ERRORS, EXTRA_CORRUPTIONS, SEVERITIES
from alexnet_torch.evaluation.test_sets.test_set import TestSet

CROPPED_SIDE = 224
"""ImageNet-C's images are the central 224x224 pixels of images whose shorter side was scaled to 256."""

ARCHIVES = ("noise", "blur", "weather", "digital", "extra")
"""The folders in which its archives hold the corruptions."""

_KNOWN = (*ALEXNET_ERRORS, *EXTRA_CORRUPTIONS)


@dataclass(frozen=True)
class Corruption:
    """A folder of images with one corruption of one severity."""

    name: str  # such as "snow/3"
    folder: str  # relative to the root, ending in "/"; empty for the root


def find_corruptions(root: Path) -> list[Corruption]:
    """Returns the corruptions of a folder, in the order of the paper; [] if it is not in ImageNet-C's layout.

    The folder may also be that of one corruption, or of one severity.
    """
    real = root.resolve()
    if real.parent.name in _KNOWN and real.name in map(str, SEVERITIES):
        return [Corruption(f"{real.parent.name}/{real.name}", "")]
    if real.name in _KNOWN:
        return _severities(root, real.name, "")
    found = []
    for parent in ("", *(f"{archive}/" for archive in ARCHIVES)):
        for name in _KNOWN:
            found += _severities(root, name, f"{parent}{name}/")
    return sorted(found, key=lambda each: _KNOWN.index(each.name.split("/")[0]))


def _severities(root: Path, name: str, folder: str) -> list[Corruption]:
    return [
        Corruption(f"{name}/{severity}", f"{folder}{severity}/")
        for severity in SEVERITIES
        if (root / folder / str(severity)).is_dir()
    ]


def open_corruptions(root: Path, corruptions: Sequence[Corruption]) -> TestSet:
    """Lists the images of all corruptions.

    Raises:
        UserError: two of them have different classes, or one is there twice.
    """
    names = [each.name for each in corruptions]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--data {root}: has {twice[0]} twice; move one of the folders elsewhere")
    tree = ImageTree(root, PassedOver())
    classes: list[str] = []
    paths, labels, groups = [], [], []
    for group, corruption in enumerate(corruptions):
        listed = read_class_folders(tree, corruption.folder)
        own = class_order(list(listed))
        if group and own != classes:
            differing = min(set(own) ^ set(classes))
            raise UserError(
                f"--data {root}: {corruption.name} and {corruptions[0].name} have different classes, such as "
                f"{differing}; unpack the archives again"
            )
        classes = own
        for label, identity in enumerate(own):
            files = listed[identity].files
            paths.append(files.paths)
            labels.append(np.full(len(files), label, np.int64))
            groups.append(np.full(len(files), group, np.int64))
    all_paths = Names.joined(paths)
    if not len(all_paths):
        raise UserError(f"--data {root}: {corruptions[0].name} has no images in class folders; unpack it again")
    split = SourceSplit("val", all_paths, np.concatenate(labels), FileReader(root, all_paths))
    cropped = CROPPED_SIDE if image_size(split.read(0)) == (CROPPED_SIDE, CROPPED_SIDE) else None
    form = f"ImageNet-C, {len(corruptions)} of corruption and severity"
    if cropped:
        form += f", images of {CROPPED_SIDE}x{CROPPED_SIDE} pixels taken as centre crops"
    return TestSet(
        form,
        root,
        tuple(map(class_of, classes)),
        split,
        tree.passed_over,
        tuple(names),
        np.concatenate(groups),
        cropped,
    )
