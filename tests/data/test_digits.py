import os
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from alexnet_torch.data.sources.recognise import data_folder, digits_folder, open_source


def test_each_digit_is_written_once_and_unchanged() -> None:
    root = digits_folder()
    assert root == Path(os.environ["XDG_CACHE_HOME"]) / "alexnet_torch" / "digits"
    folder = open_source(root)
    assert folder.identities == tuple("0123456789")
    assert sum(map(len, folder.splits)) == 1797
    assert 350 < len(folder.split("val")) < 360
    images, labels = load_digits(return_X_y=True)
    expected = sorted(
        (int(y), np.rint(x * 255 / 16).astype(np.uint8).tobytes()) for x, y in zip(images, labels, strict=True)
    )
    written = [
        (int(label), np.asarray(Image.open(root / path)).tobytes())
        for split in folder.splits
        for path, label in zip(split.keys, split.labels, strict=True)
    ]
    assert sorted(written) == expected


def test_they_are_written_once_and_data_names_them(tmp_path: Path) -> None:
    root = digits_folder(tmp_path / "digits")
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*.png")}
    assert digits_folder(root) == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*.png")} == before
    assert list(tmp_path.iterdir()) == [root]
    assert data_folder("digits").name == "digits"
    assert data_folder(str(tmp_path)) == tmp_path
