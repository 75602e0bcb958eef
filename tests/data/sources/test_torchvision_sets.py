"""CIFAR and MNIST are read as torchvision.datasets reads them."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_torch.data.decode import decode_bytes
from alexnet_torch.data.sources.torchvision_sets import find_sets, open_torchvision_set
from alexnet_torch.errors import UserError
from tests.support.pixel_sets import SETS, idx, write_pickle, write_pixel_set


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
    assert find_sets(tmp_path)
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


def test_a_wrong_checksum_is_refused_before_anything_is_unpickled(tmp_path: Path) -> None:
    folder = write_pixel_set(tmp_path, "CIFAR-100")
    (folder / "train").write_bytes(pickle.dumps(Opens()))
    with pytest.raises(UserError, match=r"cifar-100-python: is damaged \(Dataset not found or corrupted"):
        open_torchvision_set(tmp_path)
    assert not Path("made-by-a-pickle").exists()


class Opens:
    """What a pickle from a stranger could do."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.mkdir, (Path("made-by-a-pickle"),)


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def shorten(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def batch(data: np.ndarray, labels: list[Any]) -> Callable[[Path], object]:
    return lambda folder: write_pickle(folder / "test_batch", {"data": data, "labels": labels})


PIXELS = np.zeros((2, 3072), np.uint8)
FAULTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "missing batch": ("CIFAR-10", lambda f: (f / "data_batch_3").unlink()),
    "short batch": ("CIFAR-10", shorten("data_batch_2")),
    "no names": ("CIFAR-10", lambda f: write_pickle(f / "batches.meta", {})),
    "label too large": ("CIFAR-10", batch(PIXELS, [0, 3])),
    "fewer labels": ("CIFAR-10", batch(PIXELS, [0])),
    "short images": ("MNIST", shorten("train-images-idx3-ubyte")),
    "no header": ("MNIST", write("train-images-idx3-ubyte", b"x")),
    "digit 10": ("MNIST", write("train-labels-idx1-ubyte", idx(np.full(20, 10)))),
    "one label less": ("MNIST", write("train-labels-idx1-ubyte", idx(np.zeros(19)))),
    "packed": ("Fashion-MNIST", lambda f: (f / "t10k-images-idx3-ubyte").rename(f / "t10k-images-idx3-ubyte.gz")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_that_names_the_set(fault: str, tmp_path: Path) -> None:
    name, spoil = FAULTS[fault]
    folder = write_pixel_set(tmp_path / "sets", name)
    spoil(folder)
    with pytest.raises(UserError, match=rf"^{folder}: is damaged \(.*\); .*unpack it") as error:
        open_torchvision_set(tmp_path / "sets")
    assert "\n" not in str(error.value)


def test_two_sets_in_a_folder_are_refused(tmp_path: Path) -> None:
    write_pixel_set(tmp_path, "CIFAR-10")
    folder = write_pixel_set(tmp_path, "MNIST")
    with pytest.raises(UserError, match=r"holds two sets, .*batches-py and .*MNIST/raw; name the folder"):
        open_torchvision_set(tmp_path)
    assert open_torchvision_set(folder).form == "MNIST"
