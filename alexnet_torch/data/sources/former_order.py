"""The order of classes that an older run has: folders named by numbers were once ordered as text, "10" before "2"."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from alexnet_torch.data.sources.names import Names
from alexnet_torch.data.sources.source import Source, SourceFiles


def in_former_order(source: Source, classes: Sequence[str]) -> Source:
    """Returns a source with its classes in the order of a run, if that has the same classes ordered as text.

    Args:
        source: as it was opened.
        classes: the identities of the run's classes, in its order; any others leave the source as it is.
    """
    if list(classes) == list(source.identities) or list(classes) != sorted(source.identities):
        return source
    label_of = {identity: label for label, identity in enumerate(classes)}
    new_label = np.array([label_of[identity] for identity in source.identities], np.int64)
    splits, rows, first = [], [], 0
    for split in source.splits:
        labels = new_label[split.labels]
        order = np.argsort(labels, kind="stable")
        splits.append(replace(split.take(order), labels=labels[order]))
        rows.append(first + order)
        first += len(split)
    files = source.files
    if files.paths == Names.joined([split.keys for split in source.splits]):  # they are listed in the samples' order
        order = np.concatenate(rows)
        files = SourceFiles(files.paths.take(order), files.sizes[order], files.times[order])
    by_identity = {each.identity: each for each in source.classes}
    ordered = tuple(by_identity[identity] for identity in classes)
    return replace(source, classes=ordered, splits=tuple(splits), files=files)
