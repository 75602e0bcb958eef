"""Tiny ImageNet as its authors distribute it: train/<wnid>/images/, val/images/ and val/val_annotations.txt."""

from collections.abc import Mapping

from alexnet_torch.data.sources.class_folders import check_classes
from alexnet_torch.data.sources.class_names import class_order
from alexnet_torch.data.sources.flat_images import add_label, known_class, listed_images
from alexnet_torch.data.sources.image_files import ClassFiles, source_of_files
from alexnet_torch.data.sources.source import Source, SplitName
from alexnet_torch.data.sources.tree import Tree
from alexnet_torch.errors import UserError

CLASSES, NAMES, LABELS = "wnids.txt", "words.txt", "val/val_annotations.txt"


def is_tiny_imagenet(tree: Tree) -> bool:
    """Returns whether there are Tiny ImageNet's tables, or its images of val/; not val/ sorted into class folders."""
    unsorted = tree.is_folder("val/images") and not tree.is_folder("train/images")  # else a class of that name
    return unsorted or (tree.is_file(CLASSES) and not _sorted_val(tree))


def open_tiny_imagenet(tree: Tree) -> Source:
    """Lists the images of Tiny ImageNet.

    Raises:
        UserError: a part of it is missing or wrong.
    """
    for path in (CLASSES, LABELS):
        if not tree.is_file(path):
            raise UserError(f"{tree.what}: has Tiny ImageNet's folders but no {path}; unpack its archive again")
    identities = tree.text(CLASSES).split()
    train = {}
    for identity in identities:
        files = tree.images(f"train/{identity}/images/") if tree.is_folder(f"train/{identity}/images") else None
        if not files:
            raise UserError(f"{tree.what}: no images in train/{identity}/images/; unpack Tiny ImageNet again")
        train[identity] = ClassFiles(files)
    if extra := sorted(set(tree.subfolders("train/")) - set(identities)):
        raise UserError(f"{tree.what}: train/{extra[0]}/ is not in {CLASSES}; add its name there, or move it elsewhere")
    files = tree.again().images("val/images/", deep=False)
    val = listed_images(tree, files, _labels(tree, train), LABELS)
    check_classes(tree.what, identities, list(val))
    splits: dict[SplitName, dict[str, ClassFiles]] = {"train": train, "val": val}
    return source_of_files(
        "Tiny ImageNet", tree.root, class_order(identities), splits, tree.passed_over, _names(tree, train)
    )


def _sorted_val(tree: Tree) -> bool:
    return not tree.is_file(LABELS) or any(tree.is_folder(f"val/{identity}") for identity in tree.text(CLASSES).split())


def _labels(tree: Tree, classes: Mapping[str, object]) -> dict[str, str]:
    """Returns the class of each validation image; its box follows, after tabs."""
    labels: dict[str, str] = {}
    for number, line in enumerate(tree.text(LABELS).splitlines(), 1):
        file, _, rest = line.partition("\t")
        if not rest:
            raise UserError(f"{tree.what}: line {number} of {LABELS} names no image and class; restore the file")
        identity = known_class(tree, rest.split("\t")[0].strip(), classes, f"line {number} of {LABELS}")
        add_label(tree, labels, file, identity, LABELS)
    return labels


def _names(tree: Tree, classes: Mapping[str, object]) -> dict[str, str]:
    """Returns the readable name of each class, of words.txt, which has all of WordNet's."""
    if not tree.is_file(NAMES):
        return {}
    lines = (line.partition("\t") for line in tree.text(NAMES).splitlines())
    return {identity: name.strip() for identity, _, name in lines if identity in classes}
