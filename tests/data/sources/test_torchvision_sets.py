"""CIFAR and MNIST are read as torchvision.datasets reads them."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets

from alexnet_torch.data.decode import decode_bytes
from alexnet_torch.data.sources import cifar, mnist
from alexnet_torch.data.sources.torchvision_sets import is_torchvision_set, open_torchvision_set
from alexnet_torch.errors import UserError
from tests.support.pixel_sets import SETS, idx, write_pixel_set


def as_torchvision_reads(name: str, root: Path, train: bool) -> tuple[np.ndarray, list[int]]:
    """Returns the (n, H, W) or (n, H, W, 3) uint8 images and (n) labels of a set."""
    members: dict[str, Any] = {}
    if name.startswith("CIFAR"):  # an MD5 of None is not checked
        listed: Any = SETS[name]
        members = {key: [[file, None] for file, _ in getattr(listed, key)] for key in ("train_list", "test_list")}
        members["meta"] = listed.meta | {"md5": None}
    images = type(SETS[name].__name__, (SETS[name],), members)(str(root), train=train)
    return np.asarray(images.data), [int(label) for label in images.targets]


@pytest.mark.parametrize("name", SETS)
def test_pixels_labels_and_classes_are_torchvisions(name: str, tmp_path: Path) -> None:
    folder = write_pixel_set(tmp_path, name)
    assert is_torchvision_set(tmp_path)
    source = open_torchvision_set(tmp_path)
    assert source.form == name
    assert open_torchvision_set(folder).classes == source.classes
    for split in source.splits:
        pixels, labels = as_torchvision_reads(name, tmp_path, split.name == "train")
        assert split.labels.tolist() == sorted(labels)
        side, copied = pixels.shape[1], pickle.loads(pickle.dumps(split.take(np.arange(len(split)))))
        for i, key in enumerate(split.keys):
            number = int(Path(key).stem)
            assert labels[number] == split.labels[i]
            image = decode_bytes(copied.read(i), side, key)  # (side, side, 3)
            expected = pixels[number] if pixels.ndim == 4 else np.repeat(pixels[number][..., None], 3, axis=2)
            np.testing.assert_array_equal(image, expected)


def test_names_and_checksums_are_torchvisions() -> None:
    for name in ("CIFAR-10", "CIFAR-100"):
        ours, theirs = cifar.SETS[name], getattr(torchvision.datasets, name.replace("-", ""))
        assert ours.folder == theirs.base_folder
        assert [*ours.train.items()] == [tuple(each) for each in theirs.train_list]
        assert [*ours.test.items()] == [tuple(each) for each in theirs.test_list]
        assert (ours.meta, ours.names) == (theirs.meta["filename"], theirs.meta["key"])
    for name, (folder, classes) in mnist.SETS.items():
        theirs = getattr(torchvision.datasets, folder)
        assert [text.removeprefix(f"{i} - ") for i, text in enumerate(theirs.classes)] == list(classes), name
        files = {f"{file}.gz" for pair in mnist.FILES.values() for file in pair}
        assert {file for file, _ in theirs.resources} == files


def test_wrong_checksum_is_a_warning(tmp_path: Path) -> None:
    write_pixel_set(tmp_path, "CIFAR-100")
    source = open_torchvision_set(tmp_path)
    assert len(source.notes) == 2
    assert "train: has the MD5" in source.notes[0]
    assert "not the official 16019d7e3df5f24257cddd939b257f8d" in source.notes[0]


class Opens:
    """What a pickle from a stranger could do."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.mkdir, (Path("made-by-a-pickle"),)


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def shorten(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def batch(data: np.ndarray, labels: list[Any]) -> bytes:
    return pickle.dumps({"data": data, "labels": labels})


PIXELS = np.zeros((2, 3072), np.uint8)
FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing batch": ("CIFAR-10", lambda f: (f / "data_batch_3").unlink(), "CIFAR-10 is incomplete: .*data_batch_3"),
    "short batch": ("CIFAR-10", shorten("data_batch_2"), r"data_batch_2: is truncated or damaged \("),
    "program": ("CIFAR-10", write("test_batch", pickle.dumps(Opens())), "pathlib.*which is no array"),
    "no dictionary": ("CIFAR-10", write("test_batch", pickle.dumps(1)), "contains no dictionary"),
    "no names": ("CIFAR-10", write("batches.meta", pickle.dumps({})), "has no list label_names"),
    "label too large": ("CIFAR-10", write("test_batch", batch(PIXELS, [0, 3])), "image 1 has the label 3, not 0 to 2"),
    "label is text": ("CIFAR-10", write("test_batch", batch(PIXELS, [0, "x"])), "has the label 'x'"),
    "fewer labels": ("CIFAR-10", write("test_batch", batch(PIXELS, [0])), "not as many labels as rows"),
    "other pixels": ("CIFAR-10", write("test_batch", batch(PIXELS.astype(float), [0, 1])), "not as many labels as"),
    "missing labels": ("MNIST", lambda f: (f / "t10k-labels-idx1-ubyte").unlink(), "t10k-labels-idx1-ubyte is missing"),
    "short images": ("MNIST", shorten("train-images-idx3-ubyte"), "has 15,596 bytes instead of 15,696"),
    "no header": ("MNIST", write("train-images-idx3-ubyte", b"x"), "does not begin as images"),
    "other sides": ("MNIST", write("train-images-idx3-ubyte", idx(np.zeros((20, 28, 27)))), "does not begin as images"),
    "digit 10": (
        "MNIST",
        write("train-labels-idx1-ubyte", idx(np.full(20, 10))),
        "image 0 has the label 10, not 0 to 9",
    ),
    "one label less": ("MNIST", write("train-labels-idx1-ubyte", idx(np.zeros(19))), "has 20 images, and .* 19 labels"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_message(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, spoil, message = FAULTS[fault]
    spoil(write_pixel_set(tmp_path / "sets", name))
    with pytest.raises(UserError, match=message) as error:
        open_torchvision_set(tmp_path / "sets")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "made-by-a-pickle").exists()


def test_packed_files_are_named(tmp_path: Path) -> None:
    folder = write_pixel_set(tmp_path, "Fashion-MNIST")
    file = folder / "train-images-idx3-ubyte"
    file.rename(file.with_suffix(".gz"))
    with pytest.raises(UserError, match="is packed; run gzip -dk"):
        open_torchvision_set(tmp_path)


def test_two_sets_in_a_folder_are_refused(tmp_path: Path) -> None:
    write_pixel_set(tmp_path, "CIFAR-10")
    folder = write_pixel_set(tmp_path, "MNIST")
    with pytest.raises(UserError, match="holds CIFAR-10 and MNIST; name the folder of one"):
        open_torchvision_set(tmp_path)
    assert open_torchvision_set(folder).form == "MNIST"


def test_a_batch_that_changes_is_an_error_of_the_file(tmp_path: Path) -> None:
    folder = write_pixel_set(tmp_path, "CIFAR-10")
    split = open_torchvision_set(folder).split("val")
    shutil.copy(folder / "batches.meta", folder / "test_batch")
    with pytest.raises(OSError, match="changed since it was listed"):
        split.reader.read(0)
