import numpy as np
from torchvision.models import AlexNet_Weights

from alexnet_torch.data.sources.classes import (
    class_of,
    imagenet_classes,
    imagenet_indices,
    validation_labels,
)


def test_the_standard_index_is_the_place_among_the_sorted_wordnet_ids() -> None:
    wnids = [each.identity for each in imagenet_classes()]
    assert len(wnids) == len(set(wnids)) == 1000
    assert wnids == sorted(wnids)
    assert imagenet_indices()["n01440764"] == 0


def test_names_agree_with_torchvisions() -> None:
    ours = [each.name.split(",")[0] for each in imagenet_classes()]
    theirs = AlexNet_Weights.IMAGENET1K_V1.meta["categories"]
    assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= 990  # torchvision tells the doubled names apart


def test_two_classes_are_cranes_and_two_are_maillots() -> None:
    for wnid in ("n02012849", "n03126707"):
        assert class_of(wnid).name == "crane"
    assert [class_of(wnid).name for wnid in ("n03710637", "n03710721")] == ["maillot", "maillot, tank suit"]
    assert class_of("ants").name == "ants"
    assert class_of("n01440764", {"n01440764": "tench"}).name == "tench"


def test_each_class_has_fifty_validation_images() -> None:
    labels = validation_labels()
    assert np.array_equal(np.bincount(labels), np.full(1000, 50))
    assert labels[:3].tolist() == [65, 970, 230]
