"""Small data sets of the tests of this room."""

from pathlib import Path

import pytest

from alexnet_torch.data.cache import PreparedImages
from alexnet_torch.data.cache_build import prepare
from tests.support.folders import make_images


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images")


@pytest.fixture
def prepared(tmp_path: Path) -> PreparedImages:
    return prepare(make_images(tmp_path / "images", train=9, val=5), 24)
