"""train.py on archives: the same run as on files; a damaged archive ends it before anything is written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.commands import read_metrics, run_train
from tests.support.image_sets import Sample, small_set, write_image_folder, write_official, write_parquet, write_shards

pytestmark = pytest.mark.usefixtures("narrow_demo_recipe")

Write = Callable[[Path, list[Sample]], Path]
FORMS: dict[str, Write] = {
    "files": write_image_folder,
    "tars": write_official,
    "parquet": write_parquet,
}
OPTIONS = ("--recipe", "demo", "--epochs", "1", "--batch-size", "6", "--seed", "3")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of a run on files."""
    folder = tmp_path_factory.mktemp("files")
    root = write_image_folder(folder / "set", small_set(train=6))
    done = run_train("--data", root, "--output", folder / "run", "--cache", folder / "cache", *OPTIONS)
    assert done.returncode == 0, done.stderr
    return (folder / "run" / "model.pt").read_bytes()


@pytest.mark.parametrize("cache", ["cache", "none"])
@pytest.mark.parametrize("form", ["tars", "parquet"])
def test_a_run_on_archives_has_the_weights_of_one_on_files(
    form: str, cache: str, weights: bytes, tmp_path: Path
) -> None:
    root = FORMS[form](tmp_path / "set", small_set(train=6))
    place = cache if cache == "none" else tmp_path / cache
    done = run_train("--data", root, "--output", tmp_path / "run", "--cache", place, *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert "3 classes, 18 training and 6 validation images" in done.stderr
    assert (tmp_path / "run" / "model.pt").read_bytes() == weights
    assert len(read_metrics(tmp_path / "run")) >= 2


@pytest.mark.parametrize("name", ["ILSVRC2012_img_train.tar", "imagenet1k-validation-0000.tar", "validation-00000"])
def test_a_truncated_archive_is_one_line_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    writers: dict[str, Write] = {"ILSVRC2012_img_train.tar": write_official, "validation-00000": write_parquet}
    root = writers.get(name, write_shards)(tmp_path / "set", small_set())
    (file,) = root.rglob(f"{name}*")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    done = run_train("--data", root, "--output", tmp_path / "run", "--cache", tmp_path / "cache", *OPTIONS)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert str(file) in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]
