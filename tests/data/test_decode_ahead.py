"""Images are decoded ahead, in their order, by threads or by worker processes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_torch.data import loader
from alexnet_torch.data.decode import decode_file
from alexnet_torch.data.loader import decode_ahead
from alexnet_torch.data.sources.recognise import open_source
from tests.support.folders import make_images


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images", classes=2, train=3, val=2)


@pytest.fixture(params=["threads", "processes"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "FEW_IMAGES", 100 if request.param == "threads" else 0)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_all_files_come_in_order_as_centre_crops(batch_size: int, root: Path) -> None:
    files = sorted(root.rglob("*.png"))
    batches = list(decode_ahead(files, [(73, 64), (24, 20)], batch_size, 2))
    assert len(batches) == -(-len(files) // batch_size)
    assert np.concatenate([batch.indices for batch in batches]).tolist() == list(range(len(files)))
    first, second = (np.concatenate([batch.crops[k] for batch in batches]) for k in range(2))
    assert np.array_equal(first, [decode_file(file, 73)[4:68, 4:68] for file in files])
    assert np.array_equal(second, [decode_file(file, 24)[2:22, 2:22] for file in files])


def test_unreadable_images_are_named_and_the_others_decoded(root: Path) -> None:
    (root / "train/class0/001.png").write_bytes(b"")
    (root / "train/class1/001.png").write_bytes(b"no image")
    Image.new("RGB", (40, 40)).save(root / "train/class1/002.png")
    split = open_source(root).split("train")
    batches = list(decode_ahead(split, [(24, 24)], 2, 2))
    assert [batch.indices.tolist() for batch in batches] == [[0], [2, 3], [5]]
    bad = {index: str(error) for batch in batches for index, error in batch.bad}
    assert bad == {
        1: f"{root}/train/class0/001.png: empty file",
        4: f"{root}/train/class1/001.png: not an image of a known kind",
    }
    (small,) = decode_ahead(split, [(24, 24)], 6, 2, required_side=40)
    assert small.indices.tolist() == [5]
    assert str(small.bad[0][1]).endswith("has 40x30 pixels, not 40x40 as the others of the set")
    (none,) = decode_ahead([root / "train/class0/001.png"], [(24, 20)])
    assert none.crops[0].shape == (0, 20, 20, 3)
