"""Classes, and what a line says of them, of names that repeat, and of what is skipped."""

from array import array
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from torchvision.models import AlexNet_Weights

from alexnet_torch.data.sources.classes import class_of, imagenet_classes, imagenet_indices, validation_labels
from alexnet_torch.data.sources.listing import file_reader
from alexnet_torch.data.sources.source import LISTED, ClassSamples, Skipped, Source, make_source
from alexnet_torch.errors import UserError


def made_of(samples: dict[str, list[str]], names_repeat: bool = False) -> Source:
    by_class = {
        identity: ClassSamples(names, [f"in/{name}" for name in names], array("q", range(2 * len(names))))
        for identity, names in samples.items()
    }
    root = Path("set")
    reader = partial(file_reader, root)
    return make_source("form", root, {"train": by_class}, lambda m, _: reader(m), Skipped(), names_repeat=names_repeat)


def test_names_that_repeat_are_numbered_or_refused() -> None:
    names = ["x", "y", "x", "x"]
    keys = made_of({"a": names}, names_repeat=True).splits[0].keys
    assert keys == ["train/a/x", "train/a/x#2", "train/a/x#3", "train/a/y"]
    with pytest.raises(UserError, match="in/x and in/x are the same sample, x; leave one of them out"):
        made_of({"a": names})


def test_classes_that_differ_only_in_case_or_space_give_a_line() -> None:
    assert made_of({"ant ": ["1"], "Ant": ["2"], "bee": ["3"]}).notes == (
        "--data set: the classes 'Ant' and 'ant ' differ only in case or space; "
        "if they are one, move their images into one folder",
    )


def test_what_is_skipped_is_counted_and_named() -> None:
    skipped = Skipped()
    assert str(skipped) == ""
    for i in range(LISTED + 5):
        skipped.add("macOS", f"train/._{i}.jpg")
    skipped.add("hidden", ".x")
    assert str(skipped) == "; 1,006 skipped: 1 hidden (.x), 1,005 macOS (train/._0.jpg)"
    assert len(skipped.paths["macOS"]) == LISTED


def test_imagenets_classes_are_in_the_order_of_their_wordnet_ids_with_torchvisions_names() -> None:
    wnids = [each.identity for each in imagenet_classes()]
    assert wnids == sorted(set(wnids))
    assert (len(wnids), imagenet_indices()["n01440764"]) == (1000, 0)
    ours = [each.name.split(",")[0] for each in imagenet_classes()]
    theirs = AlexNet_Weights.IMAGENET1K_V1.meta["categories"]
    assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= 990  # torchvision tells the doubled names apart
    labels = validation_labels()
    assert np.array_equal(np.bincount(labels), np.full(1000, 50))
    assert labels[:3].tolist() == [65, 970, 230]


@pytest.mark.parametrize(
    ("wnid", "name"),
    [
        *(("n02012849", "crane"), ("n03126707", "crane"), ("n03710637", "maillot")),
        *(("n03710721", "maillot, tank suit"), ("ants", "ants")),
    ],
)
def test_two_classes_are_cranes_and_two_are_maillots(wnid: str, name: str) -> None:
    assert class_of(wnid).name == name
    assert class_of(wnid, {wnid: "its own"}).name == "its own"
