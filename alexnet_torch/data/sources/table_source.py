"""Makes a source of the samples that archives have."""

from collections.abc import Sequence
from pathlib import Path

from alexnet_torch.data.sources.archive_reader import ArchiveReader
from alexnet_torch.data.sources.class_names import class_order, some
from alexnet_torch.data.sources.imagenet_classes import class_of, imagenet_indices
from alexnet_torch.data.sources.junk import PassedOver
from alexnet_torch.data.sources.sample_table import SampleTable
from alexnet_torch.data.sources.source import Source, SourceFiles
from alexnet_torch.errors import UserError


def source_of_tables(
    form: str,
    root: Path,
    tables: Sequence[SampleTable],
    reader: type[ArchiveReader],
    files: SourceFiles,
    passed_over: PassedOver,
    names: dict[str, str] | None = None,
    notes: Sequence[str] = (),
    val_files: str = "",
) -> Source:
    """Returns a source of one split or two.

    Args:
        form: as people call it.
        root: what --data names.
        tables: the samples of each split, training first.
        reader: reads them.
        files: the archives.
        passed_over: what is no sample.
        names: the readable names of classes, where the data set has them.
        notes: warnings.
        val_files: what validation images would be in, if there may be none.

    Raises:
        UserError: a split has no samples, the splits have different classes, or a sample is there twice.
    """
    for table in tables:
        if not len(table):
            places = ", ".join(file.name for file in table.files[:5])
            raise UserError(f"--data {root}: no images in {places}; download the files again")
    check_same_classes(root, tables)
    identities = class_order(tables[0].identities)
    known = sum(identity in imagenet_indices() for identity in identities)
    first = tables[0].files[0].name
    fix = f"has {first} but no validation images; put {val_files} beside it, or let --val-split 0.1 choose some"
    return Source(
        f"{form}, {known:,} of ImageNet's 1,000 classes" if 0 < known < 1000 else form,
        root,
        tuple(class_of(identity, names) for identity in identities),
        tuple(table.ordered(identities, reader) for table in tables),
        files,
        passed_over,
        notes=tuple(notes),
        without_val="" if tables[-1].split == "val" else fix,
    )


def check_same_classes(root: Path, tables: Sequence[SampleTable]) -> None:
    """Raises a UserError if two splits have different classes, or a training split has only one."""
    if len(tables) == 2 and tables[0].identities != tables[1].identities:
        train, val = (table.identities for table in tables)
        only_train, only_val = some(class_order(train - val)), some(class_order(val - train))
        raise UserError(
            f"--data {root}: training and validation images have different classes: "
            f"only for training: {only_train}; only for validation: {only_val}; "
            "give both the same classes"
        )
    if tables[0].split == "train" and len(tables[0].identities) < 2:
        only = next(iter(tables[0].identities))
        raise UserError(f"--data {root}: has only one class, {only}; add another: one class needs no classifier")
