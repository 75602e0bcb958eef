"""The same image files give the same prepared images, whatever form holds them."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alexnet_torch.data.cache import PreparedImages
from alexnet_torch.data.cache_build import prepare
from alexnet_torch.data.sources.recognise import open_source
from alexnet_torch.data.sources.val_split import ValSplit
from alexnet_torch.errors import UserError
from tests.support.image_sets import (
    Sample,
    kaggle_files,
    small_set,
    tiny_files,
    write_files,
    write_flat_val,
    write_image_folder,
    write_kaggle,
    write_official,
    write_parquet,
    write_shards,
    write_tiny,
    write_zip,
)
from tests.support.pixel_sets import SETS, write_pixel_set

SIDE = 32
FORMS: dict[str, Callable[[Path, list[Sample]], Path]] = {
    "official tars": write_official,
    "Hugging Face's val tar": lambda root, samples: write_official(root, samples, suffix=True),
    "shards with cls": write_shards,
    "shards with json": lambda root, samples: write_shards(root, samples, "json", shards=3),
    "Kaggle": write_kaggle,
    "Kaggle's zip": lambda root, samples: write_zip(root, kaggle_files(samples)),
    "Tiny ImageNet": write_tiny,
    "Tiny ImageNet's zip": lambda root, samples: write_zip(
        root, ((f"tiny-imagenet-200/{path}", content) for path, content in tiny_files(samples)), zipfile.ZIP_STORED
    ),
    "a zip of folders": lambda root, samples: write_zip(root, ((each.key, each.content) for each in samples)),
    "a flat val": write_flat_val,
    "a flat val with wnids": lambda root, samples: write_flat_val(root, samples, suffix=True),
    "parquet": write_parquet,
    "parquet, one row group": lambda root, samples: write_parquet(root, samples, files=1, group=100),
}


def prepared(root: Path, cache: Path) -> PreparedImages:
    return prepare(root, SIDE, str(cache), workers=1)


def assert_same_map(images: PreparedImages, expected: PreparedImages) -> None:
    assert images.classes == expected.classes
    assert images.fingerprint == expected.fingerprint
    np.testing.assert_array_equal(images.mean, expected.mean)
    np.testing.assert_array_equal(images.covariance, expected.covariance)
    for ours, theirs in ((images.train, expected.train), (images.val, expected.val)):
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        assert ours.images is not None
        assert theirs.images is not None
        assert ours.images.path.read_bytes() == theirs.images.path.read_bytes()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> PreparedImages:
    folder = tmp_path_factory.mktemp("folder")
    return prepared(write_image_folder(folder / "images", small_set()), folder / "cache")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_map(form: str, expected: PreparedImages, tmp_path: Path) -> None:
    assert expected.classes == ("n01484850", "n02012849", "n03126707")
    images = prepared(FORMS[form](tmp_path / "set", small_set()), tmp_path / "cache")
    assert images.names == expected.names
    assert_same_map(images, expected)


@pytest.mark.parametrize("name", SETS)
def test_sets_of_pixels_give_the_map_of_their_images(name: str, tmp_path: Path) -> None:
    root = write_pixel_set(tmp_path / "set", name)
    source, folder = open_source(root), tmp_path / "images"
    for split in source.splits:
        write_files(folder, ((split.keys[i], split.read(i)) for i in range(len(split))))
    assert_same_map(prepared(root, tmp_path / "cache"), prepared(folder, tmp_path / "cache"))


@pytest.mark.parametrize("form", ["official tars", "shards with cls", "parquet"])
def test_validation_images_are_chosen_from_training_archives(form: str, tmp_path: Path) -> None:
    root = FORMS[form](tmp_path / "set", small_set(train=5))
    for file in [*root.rglob("*val*"), *root.rglob("test-*")]:
        file.unlink()
    with pytest.raises(UserError, match=r"but no validation images; put .* beside it, or let --val-split 0.1 choose"):
        prepared(root, tmp_path / "cache")
    folder = write_image_folder(tmp_path / "folder", [each for each in small_set(train=5) if each.split == "train"])
    split = ValSplit(0.2, seed=3)
    ours, theirs = (prepare(each, SIDE, str(tmp_path / "c"), workers=1, val_split=split) for each in (root, folder))
    assert len(ours.val.labels) == 3
    assert ours.fingerprint == theirs.fingerprint
