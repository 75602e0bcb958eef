"""Test sets: how --data names them, their classes among a model's, and their batches, decoded once for all networks."""

import glob
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from alexnet_torch.data.cache import MANIFEST, CacheFolder, PreparedImages, Stale, cache_prefix
from alexnet_torch.data.cache_build import open_map
from alexnet_torch.data.loader import Loader, decode_ahead
from alexnet_torch.data.sources.classes import WNID, SourceClass, imagenet_classes, normal, some
from alexnet_torch.data.sources.recognise import open_source
from alexnet_torch.data.sources.source import Source, SourceSplit
from alexnet_torch.data.sources.val_split import ValSplit, with_validation
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.robustness import find_corruptions, list_corruptions
from alexnet_torch.evaluation.runs import recorded_split
from alexnet_torch.evaluation.scoring import ImageBatch
from alexnet_torch.weights.model_file import TrainedModel


@dataclass(frozen=True)
class TestSet:
    """The validation images of a source, perhaps in groups that are scored separately, as "snow/3"."""

    __test__ = False  # no class of tests, for pytest

    source: Source
    groups: tuple[str, ...] = ()
    group_of: np.ndarray | None = None  # (n,) int64, each image's group
    cropped_side: int | None = None  # side of the images in pixels, if they are centre crops already

    @property
    def split(self) -> SourceSplit:
        return self.source.split("val")

    def describe(self) -> str:
        source, counts = self.source, f"{len(self.source.classes):,} classes, {len(self.split):,} images"
        return f"--data {source.root}: {source.form}, {counts}{source.skipped}"


def held_out_part(runs: Sequence[Path], root: Path) -> ValSplit | None:
    part = recorded_split(runs[0], root)
    for other in runs[1:]:
        if recorded_split(other, root) != part:
            why = "were trained on different parts of it (--val-split, --seed): one has learnt the other's tests"
            raise UserError(f"--data {root}: {runs[0]} and {other} {why}; evaluate each alone")
    return part


def find_test_set(root: Path, val_split: ValSplit | None = None) -> TestSet:
    """Lists the validation images of any source, those that `val_split` held out, or ImageNet-C."""
    if val_split:
        return TestSet(with_validation(open_source(root), val_split))
    if root.is_dir() and (corruptions := find_corruptions(root)):
        return TestSet(*list_corruptions(root, corruptions))
    return TestSet(open_source(root, test=True))


def image_batches(
    test_set: TestSet, models: Sequence[TrainedModel], cache: str, skip_bad: bool, skipped: list[str]
) -> Iterator[ImageBatch]:
    """Yields a set's images in every size that the models read; adds messages to `skipped`."""
    cropped, labels = test_set.cropped_side, test_set.split.labels
    sides = sorted({model.net.image_size if cropped else len(model.mean) for model in models})
    stored = None if cropped else stored_images(test_set, sides, cache)
    with closing(tqdm(total=len(labels), unit="image", disable=None, leave=False)) as bar:
        if stored is not None:
            for batches in zip(*(Loader(each, "val", each.side, 64).epoch(0) for each in stored), strict=True):
                images = {side: batch.images for side, batch in zip(sides, batches, strict=True)}
                yield ImageBatch(images, torch.from_numpy(labels[batches[0].indices]), batches[0].indices)
                bar.update(len(batches[0].indices))
            return
        for decoded in decode_ahead(test_set.split, [(side, side) for side in sides], required_side=cropped):
            skipped += [str(error) for _, error in decoded.bad]
            if skipped and not skip_bad:
                raise UserError(f"{skipped[0]}; mend it or move it elsewhere, or leave out such files with --skip-bad")
            if len(decoded.indices):
                images = {side: torch.from_numpy(crops) for side, crops in zip(sides, decoded.crops, strict=True)}
                yield ImageBatch(images, torch.from_numpy(labels[decoded.indices]), decoded.indices)
            bar.update(len(decoded.indices) + len(decoded.bad))
    if len(skipped) == len(labels):
        raise UserError(f"--skip-bad: no image of {test_set.source.root} can be read; the first: {skipped[0]}")


def stored_images(test_set: TestSet, sides: Sequence[int], cache: str) -> list[PreparedImages] | None:
    """Returns a set's decoded images of each side, if --cache has all of the files of today."""
    if test_set.source.map_side is not None:
        return [open_map(test_set.source, side) for side in sides]
    prefix, stored = cache_prefix(test_set.source.root, cache), []
    source = test_set.source if len(test_set.source.splits) > 1 else None
    for side in sides:
        # looked for without listing train/, which takes seconds for a million images
        if cache == "none" or not any(prefix.parent.glob(f"{glob.escape(prefix.name)}*-{side}/{MANIFEST}")):
            return None
        try:
            source = source or open_source(test_set.source.root)
            stored.append(CacheFolder(Path(f"{prefix}{source.variant}-{side}"), source, side).load(skip_bad=True))
        except (Stale, UserError):  # files have changed since; perhaps it is no data set for training any more
            return None
    return stored if all(each.val.keys == test_set.split.keys for each in stored) else None


class ClassMatch(NamedTuple):
    """The classes of a test set among those of a model."""

    indices: np.ndarray  # (set classes,) int64, the model's class of each class of the set
    how: str  # what they were matched by, for people


def model_identities(classes: Sequence[str]) -> tuple[str, ...]:
    """Returns the WordNet ID that each class begins with, or that ImageNet's 1,000 names stand for; else the name."""
    standard = imagenet_classes()

    def is_name_of(name: str, each: SourceClass) -> bool:  # as torchvision, Keras or Caffe spell it
        # torchvision has "crane bird" for one "crane", and "maillot tank suit" for "maillot, tank suit"
        first = _normalised(each.name.split(",")[0])
        return name.startswith(each.identity) or f"{_normalised(name)} ".startswith(f"{first} ")

    if len(classes) == len(standard) and all(map(is_name_of, classes, standard)):
        return tuple(each.identity for each in standard)
    found = [re.match(rf"{WNID.pattern}(?=$|[\s,:_])", name) for name in classes]  # "n01440764 tench", as Caffe's
    return tuple(match[0] if match else name for match, name in zip(found, classes, strict=True))


def match_classes(
    model: Sequence[str], model_name: str, test: Sequence[SourceClass], test_name: str, names: Sequence[str] = ()
) -> ClassMatch:
    """Finds the model's class for each class of a test set; `names` are what people call the model's classes.

    WordNet IDs decide where both have them: "crane" and "maillot" occur twice in ImageNet. Numbers, as ImageNet-V2's
    folders, are ImageNet's indices if the model has WordNet IDs and the set no other names. Otherwise names decide.
    """
    identities, own, how = model_identities(model), [each.identity for each in test], "WordNet ID"
    names, index_of = names or model, {identity: index for index, identity in enumerate(identities)}
    has_wnids = all(map(WNID.fullmatch, identities))
    if has_wnids and all(re.fullmatch("0*[0-9]{1,3}", each.identity) and each.name == each.identity for each in test):
        how, standard = "ImageNet's index (its folders are numbers)", imagenet_classes()
        found = [{index_of[i]} if (i := standard[int(number)].identity) in index_of else set() for number in own]
    elif all(identity in index_of for identity in own) or (has_wnids and all(map(WNID.fullmatch, own))):
        how = how if has_wnids else "name"
        indices = [index_of.get(identity) for identity in own]
        found = [set() if i is None or _differ(names[i], each) else {i} for i, each in zip(indices, test, strict=True)]
    else:
        how, found = "name", _match_names(names, identities, test)
    counts = Counter(index for each in found for index in each)
    wrong = [name for name, each in zip(own, found, strict=True) if not each]
    what = f"none of the classes of {model_name}"
    fix = "name a set of the model's classes, with the same WordNet IDs or names"
    if not wrong:
        wrong = [name for name, each in zip(own, found, strict=True) if len(each) > 1 or counts[min(each)] > 1]
        what, fix = f"not clearly one class of {model_name}, by name", "name the set's folders by WordNet ID"
    if wrong:
        are = "is" if len(wrong) == 1 else "are"
        raise UserError(f"{test_name}: {len(wrong)} of its {len(own)} classes {are} {what}: {some(wrong)}; {fix}")
    return ClassMatch(np.array([min(indices) for indices in found], np.int64), how)


def _differ(name: str, each: SourceClass) -> bool:
    """Returns whether classes of one number have other names, as of MNIST and Fashion-MNIST."""
    both_named = each.identity.isdigit() and each.identity not in (name, each.name)
    return both_named and not set(_spellings(name)) & set(_spellings(each.name))


def _match_names(model: Sequence[str], identities: Sequence[str], test: Sequence[SourceClass]) -> list[set[int]]:
    """Returns the classes of the model that have one of the names of each class of the set."""
    by_name: dict[str, set[int]] = {}
    readable = {each.identity: each.name for each in imagenet_classes()}
    for index, (name, identity) in enumerate(zip(model, identities, strict=True)):
        for spelling in _spellings(name, identity, readable.get(identity, name)):
            by_name.setdefault(spelling, set()).add(index)
    found = []
    for each in test:
        same = by_name.get(_normalised(each.identity), set())
        # a name of one class may be a synonym of another: its own full name decides first
        candidates = [by_name.get(spelling, set()) for spelling in _spellings(each.name)]
        found.append(same or next((indices for indices in candidates if len(indices) == 1), set().union(*candidates)))
    return found


def _spellings(*names: str) -> list[str]:
    """Returns the names, and the first synonym of each, "tench" of "tench, Tinca tinca"."""
    return list(dict.fromkeys(_normalised(part) for name in names for part in (name, name.split(",")[0])))


def _normalised(name: str) -> str:
    """Returns a name as it is compared: without case and punctuation."""
    return " ".join(re.split(r"[\W_]+", normal(name).casefold())).strip()
