"""Lists of the images of a flat folder, with their classes: Kaggle's and Tiny ImageNet's validation images."""

from collections.abc import Iterator, Mapping

from alexnet_torch.data.sources.class_names import some
from alexnet_torch.data.sources.image_files import ClassFiles, group_by_class
from alexnet_torch.data.sources.tree import ImageFiles, Tree
from alexnet_torch.errors import UserError


def listed_images(tree: Tree, files: ImageFiles, class_of: Mapping[str, str], table: str) -> dict[str, ClassFiles]:
    """Returns a flat folder's images by the class that a table gives them.

    Args:
        tree: has the images.
        files: the images of the folder.
        class_of: the class of each image, by its file name, without the suffix if the table has none.
        table: the table's name, for messages.

    Raises:
        UserError: the table names an image that is not there, or an image is not in it.
    """
    if not len(files):
        raise UserError(f"{tree.what}: {files.folder} contains no images; unpack the validation images there")
    with_suffix = any("." in name for name in class_of)
    used: set[str] = set()

    def labelled() -> Iterator[tuple[str, str]]:
        for name in files.names:
            listed = name if with_suffix else name.rpartition(".")[0]
            if listed not in class_of:
                raise UserError(
                    f"{tree.what}: {files.folder}{name} has no row in {table}; restore the table, or move it elsewhere"
                )
            used.add(listed)
            yield class_of[listed], name

    by_class = group_by_class(files, labelled())
    if missing := sorted(class_of.keys() - used):
        raise UserError(
            f"{tree.what}: {table} names images that are not in {files.folder}: {some(missing)}; unpack it again"
        )
    return by_class


def known_class(tree: Tree, identity: str, classes: Mapping[str, object], place: str) -> str:
    """Returns a class; raises a UserError if there are no training images of it."""
    if identity not in classes:
        raise UserError(
            f"{tree.what}: {place} has the class {identity}, of which train/ has no folder; unpack it again"
        )
    return identity


def add_label(tree: Tree, labels: dict[str, str], image: str, identity: str, table: str) -> None:
    """Keeps the class of an image; raises a UserError if a line before gave it another."""
    if labels.setdefault(image, identity) != identity:
        raise UserError(
            f"{tree.what}: {table} has {image} twice, as {labels[image]} and as {identity}; restore the table"
        )
