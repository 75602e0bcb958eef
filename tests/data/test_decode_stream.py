"""Files are decoded ahead, in their order, with or without worker processes."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from alexnet_torch.data.decode import decode_file
from alexnet_torch.data.decode_stream import DecodedBatch, decode_centre_crops
from alexnet_torch.data.worker_processes import map_in_processes
from alexnet_torch.errors import UserError
from tests.support.folders import make_images


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return sorted(make_images(tmp_path / "images", classes=2, train=3, val=2).rglob("*.png"))


def concatenated(batches: list[DecodedBatch]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([b.images for b in batches]), np.concatenate([b.indices for b in batches])


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 4), (2, 1), (2, 64)])
def test_all_files_come_in_order_as_centre_crops(workers: int, batch_size: int, files: list[Path]) -> None:
    batches = list(decode_centre_crops(files, 73, 64, batch_size, workers))
    images, indices = concatenated(batches)
    assert len(batches) == -(-len(files) // batch_size)
    assert indices.tolist() == list(range(len(files)))
    np.testing.assert_array_equal(images, [decode_file(file, 73)[4:68, 4:68] for file in files])


def test_unreadable_files_are_named_and_the_others_decoded(files: list[Path]) -> None:
    files[1].write_bytes(b"")
    files[4].write_bytes(b"no image")
    batches = list(decode_centre_crops(files, 73, 64, 2))
    assert concatenated(batches)[1].tolist() == [0, 2, 3, *range(5, len(files))]
    assert [bad for batch in batches for bad in batch.bad] == [(1, "empty file"), (4, "not an image of a known kind")]


def test_a_batch_of_only_unreadable_files_is_empty(files: list[Path]) -> None:
    files[0].write_bytes(b"")
    (batch,) = decode_centre_crops(files[:1], 73, 64)
    assert batch.images.shape == (0, 64, 64, 3)
    assert len(batch.indices) == 0


def test_closing_the_iterator_ends_the_workers(files: list[Path]) -> None:
    batches = decode_centre_crops(files, 73, 64, 1, 2)
    next(batches)
    batches.close()  # type: ignore[attr-defined]


def _kill_worker(task: int) -> None:
    del task
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_an_error() -> None:
    with pytest.raises(UserError, match="a decoding process was killed, perhaps for lack of memory; run again"):
        list(map_in_processes(_kill_worker, range(20), 2, 1))
