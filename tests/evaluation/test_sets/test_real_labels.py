"""ReaL labels: several right classes for an image, or none."""

import json
from pathlib import Path

import numpy as np
import pytest

from alexnet_torch.data.sources.classes import imagenet_classes
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.robustness import RealLabels

WNIDS = [each.identity for each in imagenet_classes()]


def write_labels(folder: Path, first: list[list[int]]) -> Path:
    file = folder / "real.json"
    file.write_text(json.dumps(first + [[7]] * (50_000 - len(first))))
    return file


def name(number: int) -> str:
    return f"val/n01440764/ILSVRC2012_val_{number:08d}.JPEG"


def test_labels_are_standard_indices_whatever_the_order_of_the_logits_and_some_images_have_none(tmp_path: Path) -> None:
    labels = RealLabels(write_labels(tmp_path, [[0], []]), WNIDS[::-1], [name(1), name(2)])
    assert labels.count(np.array([0, 1]), np.array([999, 0])) == (1, 0)
    assert labels.count(np.array([0]), np.array([0])) == (1, 1)
    assert labels.count(np.array([1]), np.array([0])) == (0, 0)


def test_the_suffix_of_hugging_faces_files_is_no_part_of_the_number(tmp_path: Path) -> None:
    file = write_labels(tmp_path, [[0]])
    RealLabels(file, WNIDS, ["val/x/ILSVRC2012_val_00000001_n01440764.JPEG", "val/x/ILSVRC2012_val_00050000.png"])
    for wrong in ("n01440764_10026.JPEG", "ILSVRC2012_val_00050001.JPEG", "ILSVRC2012_val_000000011.JPEG"):
        with pytest.raises(UserError, match=f"{wrong} is not named as a validation image"):
            RealLabels(file, WNIDS, [f"val/ILSVRC2012_val_00000001/{wrong}"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"is damaged \(Expecting property name"),
        ("{}", ".it does not have the labels of 50,000 images"),
        ("[[1]]", ".it does not have the labels of 50,000 images"),
        (
            json.dumps([[0]] * 9 + [[1000]] + [[0]] * 49_990),
            ".the labels of image 10 are no list of classes",
        ),
        (json.dumps([[0]] * 49_999 + [[True]]), ".the labels of image 50000 are no list of classes"),
        (json.dumps([0] * 50_000), ".the labels of image 1 are no list of classes"),
    ],
)
def test_another_file_is_refused(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "real.json"
    file.write_text(content)
    with pytest.raises(UserError, match=rf"--real .*real\.json: .*{message}"):
        RealLabels(file, WNIDS, [])


def test_a_missing_file_and_a_model_of_other_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json: No such file"):
        RealLabels(tmp_path / "none.json", WNIDS, [])
    with pytest.raises(UserError, match="the model has others; leave out --real"):
        RealLabels(write_labels(tmp_path, []), WNIDS[:999], [])
