"""ReaL labels: several right classes for an image, or none."""

import json
from pathlib import Path

import pytest

from alexnet_torch.data.sources.classes import imagenet_classes
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.robustness import read_real_labels

WNIDS = [each.identity for each in imagenet_classes()]


def write_labels(folder: Path, first: list[list[int]]) -> Path:
    file = folder / "real.json"
    file.write_text(json.dumps(first + [[7]] * (50_000 - len(first))))
    return file


def test_labels_are_standard_indices_whatever_the_order_of_the_logits(tmp_path: Path) -> None:
    names = [f"val/n01440764/ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2)]
    assert read_real_labels(write_labels(tmp_path, [[0, 3], []]), WNIDS[::-1], names) == [{999, 996}, set()]


def test_the_suffix_of_hugging_faces_files_is_no_part_of_the_number(tmp_path: Path) -> None:
    file = write_labels(tmp_path, [[0]])
    names = ["val/x/ILSVRC2012_val_00000001_n01440764.JPEG", "val/x/ILSVRC2012_val_00050000.png"]
    assert read_real_labels(file, WNIDS, names) == [{0}, {7}]
    for wrong in ("n01440764_10026.JPEG", "ILSVRC2012_val_00050001.JPEG", "ILSVRC2012_val_000000011.JPEG"):
        with pytest.raises(UserError, match=f"{wrong} is not named as ILSVRC2012_val"):
            read_real_labels(file, WNIDS, [f"val/ILSVRC2012_val_00000001/{wrong}"])


@pytest.mark.parametrize("content", ["{", "{}", "[[1]]", json.dumps([[0]] * 49_999 + [[1000]]), "[0]"])
def test_another_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text(content)
    with pytest.raises(UserError, match=r"--real .*real\.json: is damaged \(.*\); name ReaL's"):
        read_real_labels(tmp_path / "real.json", WNIDS, [])


def test_a_missing_file_and_a_model_of_other_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json: No such file"):
        read_real_labels(tmp_path / "none.json", WNIDS, [])
    with pytest.raises(UserError, match="the model has others; leave out --real"):
        read_real_labels(write_labels(tmp_path, []), WNIDS[:999], [])
