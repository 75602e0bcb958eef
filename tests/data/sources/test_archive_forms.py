"""Archives give the samples of ImageFolder's layout: classes, labels, keys, order and bytes."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from alexnet_torch.data.sources.parquet import is_parquet_set, open_parquet_set
from alexnet_torch.data.sources.source import Source
from alexnet_torch.data.sources.tar_sets import is_tar_set, open_tar_set
from tests.support.image_sets import (
    Sample,
    small_set,
    write_image_folder,
    write_official,
    write_parquet,
    write_shards,
)

Write = Callable[[Path, list[Sample]], Path]
TAR_FORMS: dict[str, Write] = {
    "official tars": write_official,
    "Hugging Face's val tar": lambda root, samples: write_official(root, samples, suffix=True),
    "shards, cls": write_shards,
    "shards, json": lambda root, samples: write_shards(root, samples, "json"),
}


def open_archives(root: Path) -> Source:
    assert is_tar_set(root) != is_parquet_set(root)
    return open_tar_set(root) if is_tar_set(root) else open_parquet_set(root)


@pytest.mark.parametrize("form", [*TAR_FORMS, "parquet"])
def test_samples_are_those_of_image_folder(form: str, tmp_path: Path) -> None:
    samples = small_set()
    root = (TAR_FORMS | {"parquet": write_parquet})[form](tmp_path / "archives", samples)
    source = open_archives(root)
    folder = write_image_folder(tmp_path / "folder", samples)
    for split in source.splits:
        expected = ImageFolder(str(folder / split.name))
        assert list(source.identities) == expected.classes
        assert split.labels.tolist() == expected.targets
        stems = [Path(key).with_suffix("") for key in split.keys]
        assert stems == [Path(path).relative_to(folder).with_suffix("") for path, _ in expected.samples]
        copied = pickle.loads(pickle.dumps(split))
        for i, (path, _) in enumerate(expected.samples):
            assert copied.read(i) == Path(path).read_bytes(), path
    assert [split.name for split in source.splits] == ["train", "val"]
    assert source.classes[1].name == "crane"


@pytest.mark.parametrize("form", [*TAR_FORMS, "parquet"])
def test_part_of_a_split_reads_the_same(form: str, tmp_path: Path) -> None:
    source = open_archives((TAR_FORMS | {"parquet": write_parquet})[form](tmp_path, small_set()))
    train, picked = source.split("train"), np.array([7, 0, 4])
    part = train.take(picked)
    assert [part.read(i) for i in range(3)] == [train.read(int(i)) for i in picked]
    assert list(part.keys) == [train.keys[int(i)] for i in picked]
    assert [part.reader.location(i) for i in range(3)] == [train.reader.location(int(i)) for i in picked]
