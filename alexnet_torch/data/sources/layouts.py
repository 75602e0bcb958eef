"""Data sets that are laid out in folders, on disk or in a zip file."""

import csv
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from alexnet_torch.data.sources.archives import Samples, list_files
from alexnet_torch.data.sources.classes import VALIDATION_NAME, class_of_name, normal, some, tells_class
from alexnet_torch.data.sources.listing import Listing, has_image_suffix
from alexnet_torch.data.sources.source import ClassSamples, Source, SplitName, make_source
from alexnet_torch.errors import UserError

SPLIT_WORDS = {
    "train": {"train", "training", "trainset"},
    "val": {"val", "valid", "validation", "dev", "eval"},
    "test": {"test", "testing", "testset"},
}
"""Words with which the names of a split's folder begin or end, as train2017, seg_test, Validation."""
NO_CLASSES = {"images", "masks", "labels", "annotations"}
KAGGLE = "ILSVRC/Data/CLS-LOC/"
KAGGLE_LABELS, KAGGLE_NAMES = "LOC_val_solution.csv", "LOC_synset_mapping.txt"
TINY_CLASSES, TINY_NAMES, TINY_LABELS = "wnids.txt", "words.txt", "val/val_annotations.txt"


def find_layout(listing: Listing, test: bool) -> Callable[[Listing, bool], Source] | None:
    """Returns how to open a listing, if it has a layout. `test`: only the images to score a network on."""
    names, files, _ = listing.folder("")
    if listing.is_folder(KAGGLE[:-1]):
        return open_kaggle
    if _has_images(listing, "val/images") and not listing.is_folder("train/images"):  # else a class of that name
        return open_tiny
    if split_folders(listing):
        return open_image_folder
    if not names and any(VALIDATION_NAME.fullmatch(name) for name, *_ in files):
        return lambda listing, _: _source(listing, "ILSVRC-2012's validation images", {"val": _by_name(listing, "")})
    others = [name for name in names if not split_word(name) and name.lower() not in NO_CLASSES]
    if len(others) > (0 if test else 1) and any(_has_images(listing, name) for name in others):
        return open_class_folders
    return None


def open_folder_set(root: Path, test: bool) -> Source:
    """Lists a folder, or a zip file whose folders have a layout, within one folder or not."""
    listing = Listing(root)
    while (layout := find_layout(listing, test)) is None:
        folders = listing.folder("").folders
        if len(folders) != 1:
            raise UserError(f"--data {root}: contains neither train/ and val/ nor class folders; unpack it and look")
        listing = Listing(root, top=f"{listing.top}{folders[0]}/", zipped=listing.zipped)
    return layout(listing, test)


def split_word(name: str) -> str | None:
    words = re.findall("[a-z]+", name.lower())
    return next((split for split, known in SPLIT_WORDS.items() if known & {*words[:1], *words[-1:]}), None)


def split_folders(listing: Listing) -> dict[SplitName, str]:
    """Returns the folders of training and of validation images, each ending in "/".

    Other names are taken if both are there, have class folders, and nothing competes.
    """
    names = listing.folder("").folders
    exact: dict[SplitName, str] = {split: split for split in ("train", "val") if split in names}
    near: dict[str, list[str]] = {split: [] for split in SPLIT_WORDS}
    for name in names:
        if (split := split_word(name)) and listing.folder(f"{name}/").folders and not _has_images(listing, name):
            near[split].append(name)
    taken: dict[SplitName, list[str]] = {"train": near["train"], "val": near["val"] or near["test"]}
    both = {split: found[0] for split, found in taken.items() if len(found) == 1} | exact
    folders = {split: f"{name}/" for split, name in (both if len(both) == 2 else exact).items()}
    for split, folder in folders.items():
        name = folder
        while listing.folder(folder).folders == [name[:-1]]:  # training_set/training_set/
            folder += name
        folders[split] = folder
    return folders


def _has_images(listing: Listing, folder: str) -> bool:
    names = [name for name, *_ in listing.folder(f"{folder}/").files]
    without_suffix = any("." not in name for name in names)
    return any(map(has_image_suffix, names)) or (without_suffix and bool(listing.images(f"{folder}/", deep=False)))


def open_image_folder(listing: Listing, test: bool) -> Source:
    """Lists train/<class>/* and val/<class>/*, or a flat val/ whose images' names tell their classes."""
    folders = split_folders(listing)
    if test and "val" in folders:
        return _source(listing, "images of val/", {"val": read_split(listing, folders["val"])})
    if "train" not in folders:
        raise UserError(f"{listing.what}: {missing_split(listing, 'train')}")
    train = read_class_folders(listing, folders["train"])
    if "val" not in folders:
        return _source(listing, "ImageFolder without val/", {"train": train}, without_val=missing_split(listing, "val"))
    val, written = read_split(listing, folders["val"], train), {normal(name): name for name in train}
    form = "ImageFolder"
    if not listing.folder(folders["val"]).folders:
        form = "ImageFolder with ILSVRC-2012's flat val/"
    elif folders != {"train": "train/", "val": "val/"}:
        form = f"ImageFolder of {folders['train']} and, to validate, {folders['val']}"
    return _source(listing, form, {"train": train, "val": {written.get(normal(n), n): each for n, each in val.items()}})


def open_class_folders(listing: Listing, test: bool) -> Source:
    fix = "let --val-split 0.1 choose validation images, or move class folders into train/ and some images into val/"
    splits: dict[SplitName, Samples] = {"val" if test else "train": read_class_folders(listing, "")}
    without_val = f"has class folders, but no train/ and val/; {fix}"
    return _source(listing, "class folders", splits, without_val=without_val)


def open_kaggle(listing: Listing, _: bool) -> Source:
    labels, names = (_table(listing, name) for name in (KAGGLE_LABELS, KAGGLE_NAMES))
    train = read_class_folders(listing, f"{KAGGLE}train/")
    # the first word of a prediction string is the class; boxes follow
    rows = csv.DictReader(labels.splitlines())
    pairs = ((row.get("ImageId") or "", (row.get("PredictionString") or "").partition(" ")[0]) for row in rows)
    val = _by_table(listing, f"{KAGGLE}val/", pairs, KAGGLE_LABELS, train)
    return _source(listing, "ILSVRC-2012 from Kaggle", {"train": train, "val": val}, names=_readable(names, " ", train))


def open_tiny(listing: Listing, _: bool) -> Source:
    classes, labels = (_table(listing, name) for name in (TINY_CLASSES, TINY_LABELS))
    train = {identity: _samples(listing, f"train/{identity}/images/") for identity in classes.split()}
    empty = [identity for identity in train if not train[identity].members]
    if wrong := empty + sorted(set(listing.subfolders("train/")) - set(train)):
        raise UserError(f"{listing.what}: train/ and {TINY_CLASSES} differ: {some(wrong)}; unpack Tiny ImageNet again")
    rows = (line.split("\t") for line in labels.splitlines())
    val = _by_table(listing, "val/images/", ((row[0], "".join(row[1:2]).strip()) for row in rows), TINY_LABELS, train)
    names = _readable(listing.text(TINY_NAMES) or "", "\t", train)
    return _source(listing, "Tiny ImageNet", {"train": train, "val": val}, names=names)


def _table(listing: Listing, name: str) -> str:
    text = listing.text(name)
    if text is None:
        raise UserError(f"{listing.what}: has no {name}; unpack the archive again, or download the file")
    return text


def _readable(text: str, separator: str, classes: Mapping[str, object]) -> dict[str, str]:
    lines = (line.partition(separator) for line in text.splitlines())
    return {identity: name.strip() for identity, _, name in lines if identity in classes and name.strip()}


def _by_table(
    listing: Listing, folder: str, rows: Iterable[tuple[str, str]], table: str, classes: Mapping[str, object]
) -> Samples:
    """Returns a flat folder's images by the classes of a table, which has file names with suffix or without."""
    class_of: dict[str, str] = {}
    for number, (name, identity) in enumerate(rows, 1):
        if identity not in classes or class_of.setdefault(name, identity) != identity:
            what = f"has the class {identity!r}, "
            what += f"and {class_of[name]!r} before" if name in class_of else "of which train/ has no images"
            raise UserError(f"{listing.what}: row {number} of {table}: {name!r} {what}; restore it")
    with_suffix, samples, used = any("." in name for name in class_of), dict[str, ClassSamples](), set()
    for path, *place in listing.images(folder, deep=False):
        name = path[len(folder) :]
        used.add(listed := name if with_suffix else name.rpartition(".")[0])
        if listed in class_of:
            samples.setdefault(class_of[listed], ClassSamples()).add(name, path, *place)
    if wrong := sorted(class_of.keys() ^ used):
        raise UserError(f"{listing.what}: {folder} and {table} have different images: {some(wrong)}; unpack it again")
    return samples


def read_split(listing: Listing, folder: str, classes: Mapping[str, object] | None = None) -> Samples:
    """Returns the images of val/ by class; of a flat one without those of other classes."""
    files = [entry[0] for entry in listing.folder(folder).files if has_image_suffix(entry[0])]
    if listing.folder(folder).folders or not files or not all(map(tells_class, files)):
        return read_class_folders(listing, folder)
    samples = _by_name(listing, folder)
    for identity in samples.keys() - classes.keys() if classes else ():
        for path in samples.pop(identity).members:
            listing.skipped.add("of other classes", path)
    return samples


def read_class_folders(listing: Listing, folder: str, may_be_empty: bool = False) -> Samples:
    written: dict[str, str] = {}
    samples: Samples = {}
    for name in listing.subfolders(folder):
        if written.setdefault(normal(name), name) != name:
            what = f"has two folders named {name}, in two ways that Unicode writes it"
            raise UserError(f"{listing.what}: {folder} {what}; move their images into one")
        runs = listing.skipped.counts["of a run"]
        images = _samples(listing, f"{folder}{name}/")
        if images.members or listing.skipped.counts["of a run"] == runs:  # else it is runs/, for example
            samples[name] = images
    empty = [name for name, images in samples.items() if not images.members]
    if (empty or not samples) and not may_be_empty:
        what = "any class" if len(empty) == len(samples) else f"class {some(empty)}"
        where = f"{listing.what}: {folder or 'the folder'}"
        raise UserError(f"{where} has no images of {what}; put some into {folder}<class>/")
    return samples


def missing_split(listing: Listing, split: SplitName) -> str:
    fix = {
        "train": "put the training images into train/<class>/",
        "val": "move some images of each class into val/<class>/, or let --val-split 0.1 choose them",
    }[split]
    kinds = (split,) if split == "train" else (split, "test")
    if near := [name for kind in kinds for name in listing.folder("").folders if split_word(name) == kind]:
        fix = f"if {near[0]}/ is that, rename it to {split}/"
    return f"has no folder {split}/; {fix}"


def _samples(listing: Listing, folder: str) -> ClassSamples:
    images, samples = listing.images(folder), ClassSamples(folder=folder)
    samples.members = [entry[0] for entry in images]
    samples.places.extend(chain.from_iterable(entry[1:] for entry in images))
    return samples


def _by_name(listing: Listing, folder: str) -> Samples:
    samples: Samples = {}
    for path, *place in listing.images(folder, deep=False):
        identity, name = class_of_name(path[len(folder) :], f"{listing.what}: {path}")
        samples.setdefault(identity, ClassSamples()).add(name, path, *place)
    return samples


def _source(listing: Listing, form: str, splits: Mapping[SplitName, Samples], **facts: Any) -> Source:
    if listing.zipped is not None:
        form, facts["files"] = f"{form} in a zip file", list_files(listing.root, [listing.root])
    return make_source(form, listing.root, splits, listing.reader, listing.skipped, **facts)
