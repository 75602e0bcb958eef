"""Finds the model's class for each class of a test set: by WordNet ID, by ImageNet's index, or by name."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alexnet_torch.data.sources.classes import WNID, SourceClass, imagenet_classes, normal, same_names, some
from alexnet_torch.errors import UserError


@dataclass(frozen=True)
class ClassMatch:
    """The classes of a test set among those of a model."""

    indices: np.ndarray  # (set classes,) int64, the model's class of each class of the set
    how: str  # what they were matched by, for people


def check_same_classes(classes_by_run: Mapping[str, Sequence[str]]) -> None:
    (first, first_classes), *others = classes_by_run.items()
    for other, classes in others:
        if not same_names(classes, first_classes):
            differing = sorted(set(classes) ^ set(first_classes))
            how = f"only one of them has {differing[0]!r}" if differing else "they are in a different order"
            raise UserError(f"{other}: its classes differ from those of {first}: {how}; name runs of the same classes")


def model_identities(classes: Sequence[str]) -> tuple[str, ...]:
    """Returns the WordNet ID that each class begins with, or that ImageNet's 1,000 names stand for; else the name."""
    standard = imagenet_classes()
    if len(classes) == len(standard) and all(map(_is_name_of, classes, standard)):
        return tuple(each.identity for each in standard)
    found = [re.match(rf"{WNID.pattern}(?=$|[\s,:_])", name) for name in classes]  # "n01440764 tench", as Caffe's
    return tuple(match[0] if match else name for match, name in zip(found, classes, strict=True))


def match_classes(
    model: Sequence[str], model_name: str, test: Sequence[SourceClass], test_name: str, names: Sequence[str] = ()
) -> ClassMatch:
    """Finds the model's class for each class of a test set; `names` are what people call the model's classes.

    WordNet IDs decide where both have them: "crane" and "maillot" occur twice in ImageNet. Numbers, such as
    ImageNet-V2's folders 0 to 999, are ImageNet's indices, if the model has WordNet IDs and the set no other names.
    Otherwise names decide. A UserError says which of the set's classes are none of the model's, or several.
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


def _is_name_of(name: str, standard: SourceClass) -> bool:
    """Returns whether a name is an ImageNet class's, as torchvision, Keras or Caffe spell it."""
    # torchvision has "crane bird" for one "crane", and "maillot tank suit" for "maillot, tank suit"
    first = _normalised(standard.name.split(",")[0])
    return name.startswith(standard.identity) or f"{_normalised(name)} ".startswith(f"{first} ")
