"""The commands of docs/imagenet.md run on small sets in the layouts that it names."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet_torch.recipes.catalogue import RECIPES, paper
from tests.support.image_sets import (
    kaggle_files,
    small_set,
    tiny_files,
    write_official,
    write_parquet,
    write_shards,
    write_zip,
)
from tests.support.nets import narrow, narrow_demo
from tests.support.test_sets import WNIDS, imagenet_run, write_image
from tests.test_documents import blocks, run


def write_data_sets() -> None:
    """Writes every data set for training into the current folder."""
    samples, here = small_set(), Path()
    write_official(here / "imagenet-tars", samples)
    write_parquet(here / "imagenet-1k", samples)
    write_shards(here / "imagenet-1k-wds", samples)
    kaggle = write_zip(here / "kaggle", kaggle_files(samples))
    kaggle.rename("imagenet-object-localization-challenge.zip")
    tiny = write_zip(here / "tiny", [(f"tiny-imagenet-200/{name}", content) for name, content in tiny_files(samples)])
    tiny.rename("tiny-imagenet-200.zip")


def write_test_sets() -> None:
    """Writes every test set, with ReaL's labels."""
    shutil.copy("imagenet-tars/ILSVRC2012_img_val.tar", ".")
    wnids = sorted({sample.wnid for sample in small_set()})
    for number, wnid in enumerate(wnids):
        index = WNIDS.index(wnid)
        write_image(Path(f"imagenetv2-matched-frequency-format-val/{index}/a.jpeg"), number)
        write_image(Path(f"imagenet-sketch/sketch/{wnid}/sketch_1.JPEG"), number)
        write_image(Path(f"imagenet-c/snow/1/{wnid}/ILSVRC2012_val_00000001.JPEG"), number, (224, 224))
    for name in ("imagenet-a", "imagenet-r"):
        for number, wnid in enumerate(wnids[:2]):
            write_image(Path(f"{name}/{wnid}/{number}.jpg"), number)
        Path(name, "README.txt").write_text(name)
    Path("real.json").write_text(f"[{', '.join(['[0, 2]'] * 50_000)}]")


def test_every_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    at_224 = replace(paper(), architecture=narrow(paper().architecture))
    monkeypatch.setitem(RECIPES, "paper", lambda: at_224)
    monkeypatch.setitem(RECIPES, "demo", narrow_demo)
    write_data_sets()
    write_test_sets()
    Path("runs").mkdir()
    imagenet_run(Path("runs/torchvision"))  # as import makes it
    commands = [line for block in blocks("docs/imagenet.md", "sh") for line in block.splitlines()]
    assert len(commands) == 15
    for command in commands:
        run(command)
    shown = capsys.readouterr()
    for text in ("among the set's 2 classes", "error by ReaL labels", "mCE needs all 15 corruptions"):
        assert text in shown.out
    assert "ImageNet-V2, 3 classes, 3 images" in shown.err
    assert Path("guesses.csv").read_text().count("\n") == 7
    weights = {Path(f"runs/{name}/model.pt").read_bytes() for name in ("imagenet", "kaggle", "parquet", "shards")}
    assert weights == {Path("runs/prepared/model.pt").read_bytes()}
