"""ILSVRC-2012 as Kaggle distributes it: ILSVRC/Data/CLS-LOC/{train,val}, with the validation labels in a CSV file."""

import csv
from collections.abc import Mapping

from alexnet_torch.data.sources.class_folders import check_classes, check_not_empty, read_class_folders
from alexnet_torch.data.sources.class_names import class_order
from alexnet_torch.data.sources.flat_images import add_label, known_class, listed_images
from alexnet_torch.data.sources.image_files import ClassFiles, source_of_files
from alexnet_torch.data.sources.source import Source, SplitName
from alexnet_torch.data.sources.tree import Tree
from alexnet_torch.errors import UserError

IMAGES = "ILSVRC/Data/CLS-LOC/"
LABELS, NAMES = "LOC_val_solution.csv", "LOC_synset_mapping.txt"


def is_kaggle(tree: Tree) -> bool:
    """Returns whether there is Kaggle's folder of images."""
    return tree.is_folder(IMAGES.rstrip("/"))


def open_kaggle(tree: Tree) -> Source:
    """Lists the images of Kaggle's layout.

    Raises:
        UserError: a part of it is missing or wrong.
    """
    for path in (LABELS, NAMES):
        if not tree.is_file(path):
            raise UserError(f"{tree.what}: has ILSVRC/ but no {path}; put Kaggle's file beside ILSVRC/")
    for folder in (f"{IMAGES}train", f"{IMAGES}val"):
        if not tree.is_folder(folder):
            raise UserError(f"{tree.what}: has no folder {folder}/; unpack it from Kaggle's archive")
    train = read_class_folders(tree, f"{IMAGES}train/")
    check_not_empty(tree.what, f"{IMAGES}train/", train)
    files = tree.again().images(f"{IMAGES}val/", deep=False)
    val = listed_images(tree, files, _labels(tree, train), LABELS)
    check_classes(tree.what, list(train), list(val))
    splits: dict[SplitName, dict[str, ClassFiles]] = {"train": train, "val": val}
    return source_of_files(
        "ILSVRC-2012 from Kaggle", tree.root, class_order(train), splits, tree.passed_over, _names(tree)
    )


def _labels(tree: Tree, classes: Mapping[str, object]) -> dict[str, str]:
    """Returns the class of each validation image: the first word of its prediction string; boxes follow.

    Raises:
        UserError: the table's columns are others, or a class is unknown.
    """
    rows = csv.DictReader(tree.text(LABELS).splitlines())
    if not {"ImageId", "PredictionString"} <= set(rows.fieldnames or ()):
        raise UserError(f"{tree.what}: {LABELS} has no columns ImageId,PredictionString; restore Kaggle's file")
    labels: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        words = (row["PredictionString"] or "").split()
        if not words or not row["ImageId"]:
            raise UserError(f"{tree.what}: line {number} of {LABELS} names no image and class; restore Kaggle's file")
        add_label(
            tree, labels, row["ImageId"], known_class(tree, words[0], classes, f"line {number} of {LABELS}"), LABELS
        )
    return labels


def _names(tree: Tree) -> dict[str, str]:
    """Returns the readable name of each class, of lines such as "n01440764 tench, Tinca tinca"."""
    lines = (line.partition(" ") for line in tree.text(NAMES).splitlines())
    return {identity: name.strip() for identity, _, name in lines if name.strip()}
