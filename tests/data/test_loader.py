import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from alexnet_torch.data import loader
from alexnet_torch.data.cache import PreparedImages
from alexnet_torch.data.cache_build import prepare
from alexnet_torch.data.decode import decode_file
from alexnet_torch.data.loader import Loader, decode_ahead
from alexnet_torch.data.sources.recognise import open_source
from alexnet_torch.errors import UserError


def test_an_epoch_has_every_sample_once_and_a_smaller_last_batch(prepared: PreparedImages) -> None:
    train = Loader(prepared, "train", 20, 8)
    batches = list(train.epoch(0))
    assert [len(b.labels) for b in batches] == [8, 8, 8, 3]
    assert train.batches_per_epoch == 4
    assert sorted(np.concatenate([b.indices for b in batches])) == list(range(27))
    for b in batches:
        assert b.images.shape == (len(b.labels), 20, 20, 3)
        assert b.labels.tolist() == prepared.train.labels[b.indices].tolist()


def test_images_are_the_crops_that_the_batch_names(prepared: PreparedImages) -> None:
    assert prepared.train.images is not None
    for batch in Loader(prepared, "train", 20, 8, seed=1).epoch(2):
        for i, index in enumerate(batch.indices):
            top, left = batch.crops.top[i], batch.crops.left[i]
            crop = prepared.train.images.pixels[index, top : top + 20, left : left + 20]
            assert np.array_equal(batch.images[i].numpy(), crop[:, ::-1] if batch.crops.mirrored[i] else crop)


def test_order_is_a_function_of_seed_and_epoch_and_starts_at_any_batch(prepared: PreparedImages) -> None:
    def order(seed: int, epoch: int, batch: int = 8) -> list[int]:
        return [int(i) for b in Loader(prepared, "train", 20, batch, seed).epoch(epoch) for i in b.indices]

    assert order(1, 0) == order(1, 0) == order(1, 0, 5)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)
    full_epoch = list(Loader(prepared, "train", 20, 8, seed=1).epoch(5))
    for first in range(5):
        rest = Loader(prepared, "train", 20, 8, seed=1).epoch(5, first)
        assert all(a.images.equal(b.images) for a, b in zip(rest, full_epoch[first:], strict=True))


def test_validation_has_the_splits_order_and_centre_crops(prepared: PreparedImages) -> None:
    batches = list(Loader(prepared, "val", 20, 4, seed=9).epoch(0))
    assert np.concatenate([b.indices for b in batches]).tolist() == list(range(15))
    assert all((b.crops.top == 2).all() and not b.crops.mirrored.any() for b in batches)


def test_the_thread_ends_with_its_reader(prepared: PreparedImages) -> None:
    batches = Loader(prepared, "train", 20, 1).epoch(0)
    next(batches)
    assert any(thread.name.startswith("batches") for thread in threading.enumerate())
    del batches
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("batches") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_error_in_the_thread_reaches_the_reader(prepared: PreparedImages) -> None:
    too_large = Loader(prepared, "train", 25, 8)  # larger than the images
    with pytest.raises(ValueError, match="high"):
        list(too_large.epoch(0))
    beyond = Loader(prepared, "train", 20, 8)
    beyond.samples.rows[3] = 1000
    with pytest.raises(IndexError):
        list(beyond.epoch(0))


def test_a_gpu_that_is_behind_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    given, done = list[int](), list[int]()

    class Stream:
        def record_event(self) -> SimpleNamespace:
            return SimpleNamespace(synchronize=partial(done.append, given[-1]))

    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    for batch in loader.bounded(iter(torch.arange(9))):
        given.append(int(batch))
        assert len(given) - len(done) <= loader.MAP_PREFETCH + 1
    assert done == given[: len(done)]


def test_a_file_removed_during_a_run_without_a_map_is_named(root: Path) -> None:
    prepared = prepare(root, 24, "none")
    (root / "train/class1/002.png").unlink()
    with pytest.raises(UserError, match=r"class1/002\.png: .*No such file.*restore it") as error:
        list(Loader(prepared, "train", 20, 8, workers=1).epoch(0))
    assert "\n" not in str(error.value)


@pytest.fixture(params=["threads", "processes"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are decoded ahead by threads or by worker processes."""
    monkeypatch.setattr(loader, "FEW_IMAGES", 100 if request.param == "threads" else 0)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_all_files_come_in_order_as_centre_crops(batch_size: int, root: Path) -> None:
    files = sorted(root.rglob("*.png"))
    batches = list(decode_ahead(files, [(73, 64), (24, 20)], batch_size, 2))
    assert len(batches) == -(-len(files) // batch_size)
    assert np.concatenate([batch.indices for batch in batches]).tolist() == list(range(len(files)))
    first, second = (np.concatenate([batch.crops[k] for batch in batches]) for k in range(2))
    assert np.array_equal(first, [decode_file(file, 73)[4:68, 4:68] for file in files])
    assert np.array_equal(second, [decode_file(file, 24)[2:22, 2:22] for file in files])


@pytest.mark.usefixtures("way")
def test_unreadable_images_are_named_and_the_others_decoded(root: Path) -> None:
    (root / "train/class0/001.png").write_bytes(b"")
    (root / "train/class1/001.png").write_bytes(b"no image")
    split = open_source(root).split("train")
    batches = list(decode_ahead(split, [(24, 24)], 2, 2))
    assert len(batches) == 12
    assert [i for batch in batches for i in batch.indices] == [i for i in range(24) if i not in (1, 9)]
    bad = {index: str(error) for batch in batches for index, error in batch.bad}
    assert bad == {
        1: f"{root}/train/class0/001.png: empty file",
        9: f"{root}/train/class1/001.png: not an image of a known kind",
    }
    (none,) = decode_ahead([root / "train/class0/001.png"], [(24, 20)])
    assert none.crops[0].shape == (0, 20, 20, 3)
