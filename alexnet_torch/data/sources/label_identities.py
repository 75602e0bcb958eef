"""Finds the WordNet IDs of numbered labels in the names of the images that have them."""

import re
from collections import Counter
from collections.abc import Sequence

from alexnet_torch.data.sources.imagenet_classes import imagenet_classes, imagenet_indices, validation_labels
from alexnet_torch.data.sources.imagenet_tars import VALIDATION_NAME
from alexnet_torch.data.sources.sample_table import SampleTable
from alexnet_torch.errors import UserError

TRAINING_NAME = re.compile(r"(n\d{8})_.*")


def name_classes(tables: Sequence[SampleTable]) -> bool:
    """Gives classes with numbers for identities their WordNet IDs, if the images' names tell them; returns whether.

    The names n01440764_10026.JPEG and ILSVRC2012_val_00000001.JPEG do. They tell nothing if fewer than half of the
    images have such names, or if for most of them labels and WordNet IDs differ, as with groups of classes.

    Raises:
        UserError: most names and labels agree, but not all, for example since some labels are the development kit's.
    """
    counts: Counter[tuple[str, str | None]] = Counter()
    for table in tables:
        counts.update((label, told_wnid(name)) for label, name in table.named_classes())
    told = {(label, wnid): count for (label, wnid), count in counts.items() if wnid is not None}
    wnid_of: dict[str, str] = {}
    label_of: dict[str, str] = {}
    for label, wnid in sorted(told, key=told.__getitem__, reverse=True):  # the most frequent pairs first
        wnid_of.setdefault(label, wnid)
        label_of.setdefault(wnid, label)
    agreeing = {(label, wnid) for label, wnid in told if wnid_of[label] == wnid and label_of[wnid] == label}
    if 2 * sum(told[pair] for pair in agreeing) <= counts.total():
        return False
    for table in tables:
        for index, (label, name) in enumerate(table.named_classes()):
            found = told_wnid(name)
            if label not in wnid_of:
                problem = "none of its images has a name that tells its class, as those of other classes do"
            elif found is None or (label, found) in agreeing:
                continue
            elif wnid_of[label] != found:
                problem = f"other images with that label are of {wnid_of[label]}"
            else:
                problem = f"other images of {found} have the label {label_of[found]}"
            raise UserError(
                f"{table.location(index)}: has the label {label}, but {problem}; make the files again with one label "
                "for each class"
            )
    for table in tables:
        table.rename({label: wnid_of[label] for label in table.identities})
    return True


def told_wnid(name: str) -> str | None:
    """Returns the WordNet ID that an image's file name, as ILSVRC-2012 has it, tells; None if it tells none."""
    if match := TRAINING_NAME.fullmatch(name):
        return match[1] if match[1] in imagenet_indices() else None
    if (match := VALIDATION_NAME.fullmatch(name)) and 1 <= int(match[2]) <= len(validation_labels()):
        index: int = validation_labels()[int(match[2]) - 1]
        return imagenet_classes()[index].identity
    return None
