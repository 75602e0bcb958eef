import threading
import time
from pathlib import Path

import numpy as np
import pytest

from alexnet_torch.data.cache import PreparedImages
from alexnet_torch.data.cache_build import prepare
from alexnet_torch.data.loader import Loader
from alexnet_torch.errors import UserError


def test_an_epoch_has_every_sample_once_and_a_smaller_last_batch(prepared: PreparedImages) -> None:
    loader = Loader(prepared, "train", 20, 8)
    batches = list(loader.epoch(0))
    assert [len(b.labels) for b in batches] == [8, 8, 8, 3]
    assert loader.batches_per_epoch == 4
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


def test_order_is_a_function_of_seed_and_epoch_not_of_batch_size(prepared: PreparedImages) -> None:
    def order(seed: int, epoch: int, batch: int = 8) -> list[int]:
        return [int(i) for b in Loader(prepared, "train", 20, batch, seed).epoch(epoch) for i in b.indices]

    assert order(1, 0) == order(1, 0) == order(1, 0, 5)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_an_epoch_starts_at_any_batch(prepared: PreparedImages) -> None:
    loader = Loader(prepared, "train", 20, 8, seed=1)
    full_epoch = list(loader.epoch(5))
    for first in range(5):
        for a, b in zip(loader.epoch(5, first), full_epoch[first:], strict=True):
            assert a.images.equal(b.images)


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
    loader = Loader(prepared, "train", 20, 8)
    loader.samples.rows[3] = 1000
    with pytest.raises(IndexError):
        list(loader.epoch(0))


def test_a_file_removed_during_a_run_without_a_map_is_named(root: Path) -> None:
    prepared = prepare(root, 24, "none")
    (root / "train/class1/002.png").unlink()
    with pytest.raises(UserError, match=r"class1/002\.png: .*No such file.*restore it") as error:
        list(Loader(prepared, "train", 20, 8, workers=1).epoch(0))
    assert "\n" not in str(error.value)
