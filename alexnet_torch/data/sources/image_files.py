"""Makes a source of image files on disk, listed class by class."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from alexnet_torch.data.decode_limits import read_bounded
from alexnet_torch.data.sources.imagenet_classes import class_of
from alexnet_torch.data.sources.junk import PassedOver
from alexnet_torch.data.sources.names import Names
from alexnet_torch.data.sources.source import Reader, Source, SourceFiles, SourceSplit, SplitName
from alexnet_torch.data.sources.tree import ImageFiles


@dataclass(frozen=True)
class FileReader(Reader):
    """Reads samples that are files of their own."""

    root: Path
    paths: Names  # relative to the root

    def read(self, index: int) -> bytes:
        """Returns a file's content."""
        return read_bounded(self.root / self.paths[index])

    def take(self, indices: np.ndarray) -> Self:
        """Returns a reader of some of the files."""
        return replace(self, paths=self.paths.take(indices))

    def location(self, index: int) -> str:
        """Returns the file's path."""
        return str(self.root / self.paths[index])


@dataclass(frozen=True)
class ClassFiles:
    """The files of one class in one split, in order."""

    files: ImageFiles
    keys: Names | None = None  # (n) names in the samples' keys; None: those of the files


def source_of_files(
    form: str,
    root: Path,
    classes: Sequence[str],
    splits: Mapping[SplitName, Mapping[str, ClassFiles]],
    passed_over: PassedOver,
    names: Mapping[str, str] | None = None,
) -> Source:
    """Returns a source of image files.

    Args:
        form: as people call it.
        root: the folder that the files' paths are relative to.
        classes: the identities of all classes, in order.
        splits: for each split, training first, the files of each class, in their order.
        passed_over: what is no sample.
        names: the readable names of classes, where the data set has them.
    """
    listed = [_split(name, root, classes, by_class) for name, by_class in splits.items()]
    files = [by_class[identity].files for by_class in splits.values() for identity in classes if identity in by_class]
    return Source(
        form,
        root,
        tuple(class_of(identity, names) for identity in classes),
        tuple(split for split, _ in listed),
        SourceFiles(
            Names.joined([paths for _, paths in listed]),
            np.concatenate([part.sizes for part in files]),
            np.concatenate([part.times for part in files]),
        ),
        passed_over,
    )


def _split(
    name: SplitName, root: Path, classes: Sequence[str], by_class: Mapping[str, ClassFiles]
) -> tuple[SourceSplit, Names]:
    """Returns a split, and the paths of its files."""
    paths, keys, counts = [], [], []
    for identity in classes:
        part = by_class.get(identity)
        counts.append(len(part.files) if part else 0)
        if part is None:
            continue
        files, folder = part.files, f"{name}/{identity}/"
        paths.append(files.paths)
        if part.keys is None and files.folder == folder:  # as in ImageFolder's layout
            keys.append(files.paths)
        else:
            keys.append(Names.of(folder + key for key in part.keys or files.names))
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), counts)
    all_paths = Names.joined(paths)
    same = all(key is path for key, path in zip(keys, paths, strict=True))
    split = SourceSplit(name, all_paths if same else Names.joined(keys), labels, FileReader(root, all_paths))
    return split, all_paths


def group_by_class(files: ImageFiles, labelled: Iterable[tuple[str, str]]) -> dict[str, ClassFiles]:
    """Returns the files of each class of a folder that has those of all classes.

    Args:
        files: of the folder.
        labelled: for each file, in order, the identity of its class and the file name in its key.
    """
    rows: dict[str, list[tuple[str, int]]] = {}
    for row, (identity, key) in enumerate(labelled):
        rows.setdefault(identity, []).append((key, row))
    grouped = {}
    for identity, of_class in rows.items():
        of_class.sort()
        taken = files.take(np.array([row for _, row in of_class], np.int64))
        grouped[identity] = ClassFiles(taken, Names.of(key for key, _ in of_class))
    return grouped
