"""The development kit is checked against the package's classes and labels."""

import gzip
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from alexnet_torch.data.sources.devkit import DEVKIT, META, TRUTH, check_devkit
from alexnet_torch.data.sources.imagenet_classes import imagenet_classes, index_of_devkit_id, validation_labels
from alexnet_torch.data.sources.tar_forms import open_tar_set
from alexnet_torch.errors import UserError
from tests.support.image_sets import small_set, tar_of, write_official

IDS = np.argsort(index_of_devkit_id()[1:]) + 1  # (1000,) the kit's ID of each standard index


def kit(wnids: list[str], truth: np.ndarray, folder: str = "ILSVRC2012_devkit_t12/") -> bytes:
    """Returns a kit with the WordNet IDs of 1, 2, ... and the labels of the validation images."""
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")]
    rows = [(i + 1, wnid, "words") for i, wnid in enumerate([*wnids, "n00001740"])]  # the last is a group of classes
    meta = BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=kinds)[:, None]})
    text = "".join(f"{label}\n" for label in truth).encode()
    return gzip.compress(tar_of([(folder + META, meta.getvalue()), (folder + TRUTH, text)]), 1)


@pytest.fixture(scope="module")
def right() -> tuple[list[str], np.ndarray]:
    """The kit's WordNet IDs, and its labels."""
    wnids = [imagenet_classes()[index_of_devkit_id()[i]].identity for i in range(1, 1001)]
    return wnids, IDS[validation_labels()]


def test_a_right_kit_with_another_checksum_is_a_warning(right: tuple[list[str], np.ndarray], tmp_path: Path) -> None:
    root = write_official(tmp_path, small_set())
    (root / DEVKIT).write_bytes(kit(*right))
    note = open_tar_set(root).notes[0]
    assert "not the official fa75699e90414af021442c21a62c3abf; its labels are right" in note


def spoiled(fault: str, wnids: list[str], truth: np.ndarray) -> bytes:
    """Returns a kit with a fault."""
    match fault:
        case "sorted classes":
            return kit(sorted(wnids), truth)
        case "standard labels":
            return kit(wnids, validation_labels() + 1)
        case "fewer labels":
            return kit(wnids, truth[:-1])
        case "label 1001":
            return kit(wnids, truth + 1)
        case "999 classes":
            return kit(wnids[:-1], truth)
        case "truncated":
            return kit(wnids, truth)[:-5000]
        case "no gzip":
            return b"<html>"
        case "other content":
            return gzip.compress(tar_of([("x", b"")]))
    return gzip.compress(tar_of([(META, b"x" * 200), (TRUTH, b"1")]))


FAULTS = {
    "sorted classes": r"its class 1 is n01440764, and ILSVRC-2012's is n02119789; download .* or move it elsewhere",
    "standard labels": "its labels of the validation images are not .*, first that of image 1;",
    "fewer labels": "its labels of the validation images are not",
    "label 1001": "its labels of the validation images are not",
    "999 classes": "its class 1000 is n00001740, and",
    "truncated": r"is truncated or damaged \(",
    "no gzip": r"is truncated or damaged \(",
    "other content": r"\(it has no data/meta.mat\)",
    "other meta": r"is truncated or damaged \(",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_message(fault: str, right: tuple[list[str], np.ndarray], tmp_path: Path) -> None:
    (tmp_path / DEVKIT).write_bytes(spoiled(fault, *right))
    with pytest.raises(UserError, match=FAULTS[fault]) as error:
        check_devkit(tmp_path / DEVKIT)
    assert str(error.value).startswith(str(tmp_path / DEVKIT))
    assert "\n" not in str(error.value)
