"""Data sets are the same if their images are, whatever their names and forms."""

import shutil
import unicodedata
from pathlib import Path

import pytest

from alexnet_torch.data.cache_build import prepare
from alexnet_torch.errors import UserError
from alexnet_torch.training.checkpoints import require_same_run


def fingerprint(root: Path, side: int = 24) -> str:
    return prepare(root, side, str(root.parent / "cache")).fingerprint


def test_class_names_are_the_same_however_unicode_writes_them() -> None:
    composed, decomposed = ({"classes": [unicodedata.normalize(form, "café"), "thé"]} for form in ("NFC", "NFD"))
    assert composed != decomposed
    require_same_run(composed, decomposed)
    with pytest.raises(UserError, match="the run does not have the classes of"):
        require_same_run(composed, {"classes": ["cafe", "thé"]})


def test_other_bytes_of_the_same_size_are_another_data_set(root: Path) -> None:
    before = fingerprint(root)
    file = root / "train/class1/000.png"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1  # in the last chunk's checksum, which Pillow does not verify
    file.write_bytes(content)
    assert fingerprint(root) != before


def test_names_do_not_matter_but_labels_and_order_do(root: Path) -> None:
    before = fingerprint(root)
    for path in sorted((root / "train").rglob("*.png")):
        path.rename(path.with_name(f"picture {path.stem}.PNG"))
    assert fingerprint(root) == before
    shutil.move(root / "train/class0/picture 002.PNG", root / "train/class1/picture 002b.PNG")
    assert fingerprint(root) != before
    shutil.rmtree(root.parent / "cache")
    assert fingerprint(root, 25) != before
