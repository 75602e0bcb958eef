"""Folders of images that tests make, and those that they may find beside the project."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kernels are kept, compiled once for all tests."""
    return tmp_path_factory.mktemp("native")


@pytest.fixture(autouse=True)
def _private_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, compiled: Path) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    (cache / "alexnet_torch").mkdir()
    (cache / "alexnet_torch/native").symlink_to(compiled)


def make_folder(
    root: Path, classes: int = 3, train: int = 8, val: int = 4, size: tuple[int, int] = (40, 30), seed: int = 0
) -> Path:
    """Images of noise around a colour for each class: easy to learn."""
    random = np.random.default_rng(seed)
    for k in range(classes):
        colour = 255 * np.array([k & 1, (k >> 1) & 1, (k >> 2) & 1])
        for split, count in (("train", train), ("val", val)):
            folder = root / split / f"class{k}"
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                noise = random.integers(0, 256, (size[1], size[0], 3))
                Image.fromarray(((noise + colour) // 2).astype(np.uint8)).save(folder / f"{i:03d}.png")
    return root


@pytest.fixture(scope="session")
def image_folder() -> Callable[..., Path]:
    return make_folder


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    def find(name: str) -> Path:
        if not (SHARED / name).is_dir():
            pytest.skip(f"{name} is not beside the project")
        return SHARED / name

    return find
