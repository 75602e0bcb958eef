"""Classes: how they are ordered, compared and told; ImageNet's 1,000, and the file names that tell them.

ImageNet's are from the development kit ILSVRC2012_devkit_t12.tar.gz (meta.mat and
ILSVRC2012_validation_ground_truth.txt), with its IDs converted to the standard index: a network that is scored by the
wrong one has 0.1% accuracy.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from alexnet_torch.errors import UserError

FOLDER = Path(__file__).parent
WNID = re.compile(r"n\d{8}")
TRAINING_NAME = re.compile(r"(n\d{8})_.*")
VALIDATION_NAME = re.compile(r"(ILSVRC2012_val_(\d{8}))(?:_(n\d{8}))?(\.\w+)")
NAME_WITH_WNID = re.compile(r"(.+)_(n\d{8})(\.\w+)")
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class SourceClass:
    """A class: what it is recognised by, and what people call it."""

    identity: str  # the WordNet ID, as "n01440764"; else the folder's or the data set's name
    name: str  # "tench, Tinca tinca"


def in_one_line(text: str) -> str:
    return CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


def normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def same_names(first: Sequence[str], second: Sequence[str]) -> bool:
    return list(map(normal, first)) == list(map(normal, second))


def require_same_classes(name: str, classes: Sequence[str], of: str, expected: Sequence[str], fix: str) -> None:
    if not same_names(classes, expected):
        differing = sorted(set(classes) ^ set(expected))
        how = f"only one of them has {differing[0]!r}" if differing else "they are in a different order"
        raise UserError(f"{name}: its classes differ from those of {of}: {how}; {fix}")


def class_order(identities: Iterable[str]) -> list[str]:
    """Returns identities in the order of their indices: sorted, as numbers if all are."""
    identities = list(identities)
    if all(re.fullmatch(r"0|[1-9]\d{0,17}", name) for name in identities):
        return sorted(identities, key=int)
    return sorted(identities)


def some(names: Sequence[str]) -> str:
    """Returns up to five names, for a message."""
    return (", ".join(names[:5]) or "none") + (f" and {len(names) - 5} more" if len(names) > 5 else "")


@cache
def imagenet_classes() -> tuple[SourceClass, ...]:
    rows = (line.split("\t") for line in (FOLDER / "imagenet_classes.tsv").read_text("utf-8").splitlines())
    return tuple(SourceClass(wnid, name) for wnid, _, name in rows)


@cache
def imagenet_indices() -> dict[str, int]:
    return {each.identity: index for index, each in enumerate(imagenet_classes())}


@cache
def validation_labels() -> np.ndarray:
    """Returns the standard index of validation images 1 to 50,000, (50000,) int64."""
    labels: np.ndarray = np.load(FOLDER / "imagenet_val_labels.npy").astype(np.int64)
    return labels


def class_of(identity: str, names: Mapping[str, str] | None = None) -> SourceClass:
    """The name is that in `names`, else ImageNet's, else the identity."""
    index = imagenet_indices().get(identity)
    known = identity if index is None else imagenet_classes()[index].name
    return SourceClass(identity, (names or {}).get(identity, known))


def tells_class(name: str) -> bool:
    return bool(VALIDATION_NAME.fullmatch(name) or NAME_WITH_WNID.fullmatch(name))


def class_of_name(name: str, place: str) -> tuple[str, str]:
    """Returns the WordNet ID that an image's file name tells, and the name without it."""
    if match := VALIDATION_NAME.fullmatch(name):
        wnid = told_wnid(name)
        if wnid and match[3] in (None, wnid):
            return wnid, match[1] + match[4]
    elif match := NAME_WITH_WNID.fullmatch(name):
        return match[2], match[1] + match[3]
    raise UserError(f"{place}: its name tells no class of ILSVRC-2012, or a wrong one; restore it, or leave it out")


def told_wnid(name: str) -> str | None:
    if match := TRAINING_NAME.fullmatch(name):
        return match[1] if match[1] in imagenet_indices() else None
    if (match := VALIDATION_NAME.fullmatch(name)) and 1 <= int(match[2]) <= len(validation_labels()):
        index: int = validation_labels()[int(match[2]) - 1]
        return imagenet_classes()[index].identity
    return None
