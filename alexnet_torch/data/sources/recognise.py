"""Recognises by its content in which form a data set is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from alexnet_torch.data.sources.class_folders import missing_split
from alexnet_torch.data.sources.image_tree import ImageTree
from alexnet_torch.data.sources.layouts import is_folder_set, is_zip, open_folder_set, open_zip
from alexnet_torch.data.sources.names import in_one_line
from alexnet_torch.data.sources.parquet_form import is_parquet_set, open_parquet_set
from alexnet_torch.data.sources.prepared_map import is_prepared_map, open_prepared_map
from alexnet_torch.data.sources.source import Source
from alexnet_torch.data.sources.tar_forms import is_tar_set, open_tar_set
from alexnet_torch.data.sources.torchvision_sets import is_torchvision_set, open_torchvision_set
from alexnet_torch.errors import UserError


@dataclass(frozen=True)
class Form:
    """One way in which people have a data set."""

    name: str
    recognise: Callable[[Path], bool]  # quick: looks at a few names, reads no data
    open: Callable[[Path], Source]  # lists the samples; raises a UserError if something is missing or wrong


FORMS = (
    Form("folders of images", is_folder_set, open_folder_set),
    Form("a zip file", is_zip, open_zip),
    Form("tars", is_tar_set, open_tar_set),
    Form("parquet files", is_parquet_set, open_parquet_set),
    Form("CIFAR's or MNIST's files", is_torchvision_set, open_torchvision_set),
    Form("a prepared map", is_prepared_map, open_prepared_map),
)


def open_source(root: Path) -> Source:
    """Lists the samples of a data set without decoding them.

    Args:
        root: a folder or a file, in one of FORMS.

    Raises:
        UserError: there is nothing, it has none of the forms or two of them, or something is missing or wrong in it.
    """
    try:
        return _open_source(root)
    except PermissionError as error:
        raise UserError(f"--data {root}: no permission to read {error.filename}; change its permissions") from error
    except UserError as error:
        if in_one_line(str(error)) == str(error):
            raise
        raise UserError(in_one_line(str(error))) from error


def _open_source(root: Path) -> Source:
    if not root.exists():
        raise UserError(f"--data {root}: there is no such folder; name a folder that contains train/ and val/")
    found = [form for form in FORMS if form.recognise(root)]
    if len(found) == 1:
        return found[0].open(root)
    if found:
        raise UserError(
            f"--data {root}: holds two data sets, {found[0].name} and {found[1].name}; move one of them elsewhere"
        )
    if root.is_dir():
        folders = ImageTree(root).subfolders()
        if len(folders) == 1 and any(form.recognise(root / folders[0]) for form in FORMS):
            return open_source(root / folders[0])  # as archives are often unpacked: photos/photos/train
        raise UserError(f"--data {root}: has no folder train/; {missing_split(ImageTree(root), 'train')}")
    raise UserError(f"--data {root}: is a file; name the folder that contains train/ and val/")
