"""The features command: a stage's output for a folder of images, in one file."""

import json
import re
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from alexnet_torch import cli, load_model
from alexnet_torch.data.decode import decode_file
from alexnet_torch.data.sources.classes import in_one_line
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation import features
from alexnet_torch.evaluation.features import FeatureRequest, partial_rows, save_features
from alexnet_torch.weights.model_file import METADATA_SEAL, TrainedModel, sealed_metadata
from tests.support.nets import narrow_net

STAGES = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]


def expected_features(model: TrainedModel, files: list[Path], stage: str) -> np.ndarray:
    """Computed step by step: decode, cut the centre, subtract the mean image's centre, put channels first."""
    crops = np.stack([decode_file(file, 73)[4:68, 4:68] for file in files]).astype(np.float32)
    with torch.no_grad():
        images = torch.from_numpy(crops - model.mean[4:68, 4:68]).permute(0, 3, 1, 2)
        return np.asarray(model.net.features(images, stage))


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_equals_the_networks_output(stage: str, run_folder: Path, tmp_path: Path) -> None:
    model, images = load_model(run_folder), run_folder.parent / "images/val"
    save_features(model, FeatureRequest(images, tmp_path / "f.npy", (stage,), batch_size=5))
    files = [images / name for name in json.loads((tmp_path / "f.json").read_text())["files"]]
    assert files == sorted(images.rglob("*.png"))
    saved = np.load(tmp_path / "f.npy")
    # other batch sizes may use other kernels; measured 1e-6 of the largest value
    expected = expected_features(model, files, stage)
    np.testing.assert_allclose(saved, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert np.abs(expected).max() > 0


def run_features(*arguments: Any) -> int:
    return cli.main(["features", *map(str, arguments)])


def read_h5(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arrays of a .h5 file, and what is known about them."""
    with h5py.File(path) as file:
        arrays = {name: file[name][()] for name in file if name not in ("files", "classes")}
        known = {
            name: value if name in ("folder", "architecture", "model_sha256") else json.loads(value)
            for name, value in file.attrs.items()
        }
        return arrays, known | {name: file[name].asstr()[()].tolist() for name in ("files", "classes")}


def test_both_formats_have_the_same_contents(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = run_folder.parent / "images"
    for kind in ("npy", "h5"):
        assert run_features(run_folder, images, "--output", tmp_path / f"new/f.{kind}") == 0
        assert f"new/f.{kind}: fc7 of 36 images, float32 (36, 64)" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"f.npy", "f.json", "f.h5"}
    (arrays, known), metadata = read_h5(tmp_path / "new/f.h5"), json.loads((tmp_path / "new/f.json").read_text())
    np.testing.assert_array_equal(arrays["features"], np.load(tmp_path / "new/f.npy"))
    assert arrays["labels"].tolist() == metadata.pop("labels")
    assert metadata.pop("shape") == [36, 64]
    assert known == metadata
    assert metadata["classes"] == [f"{split}/class{k}" for split in ("train", "val") for k in range(3)]
    assert run_features(run_folder, images, "--stage", "fc8", "--output", tmp_path / "logits.npy") == 0
    assert json.loads((tmp_path / "logits.json").read_text())["logits"] == ["class0", "class1", "class2"]


def test_unreadable_files_are_refused_with_a_full_list_or_left_out(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = run_folder.parent / "images/val"
    bad = [images / "class0/001.png", images / "class2/003.png"]
    all_features = tmp_path / "all.npy"
    assert run_features(run_folder, images, "--output", all_features) == 0
    for path in bad:
        path.write_bytes(b"")
    capsys.readouterr()
    assert run_features(run_folder, images, "--output", tmp_path / "f.npy", "--batch-size", 2) == 2
    printed = capsys.readouterr().err
    assert "2 file(s) cannot be read; mend them or move them elsewhere, or leave them out with --skip-bad" in printed
    assert all(f"  {path}: empty file" in printed for path in bad)
    assert not (tmp_path / "f.npy").exists()
    assert run_features(run_folder, images, "--output", tmp_path / "f.npy", "--batch-size", 2, "--skip-bad") == 0
    printed = capsys.readouterr().err
    assert "2 file(s) cannot be read and are left out" in printed
    assert all(f"  {path}: empty file" in printed for path in bad)
    assert json.loads((tmp_path / "f.json").read_text())["skipped"] == ["class0/001.png", "class2/003.png"]
    remaining = np.delete(np.load(all_features), [1, 11], axis=0)
    np.testing.assert_allclose(np.load(tmp_path / "f.npy"), remaining, rtol=0, atol=1e-5 * remaining.max())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "IMAGES"], "output"),
        (["RUN", "IMAGES", "--output", "f.txt"], r"--output f.txt: must end in .npy or .h5"),
        (
            ["RUN", "IMAGES", "--output", "f.npy", "--stage", "fc9"],
            "--stage fc9: 'fc9' is not a stage; choose from conv1,",
        ),
        (
            ["RUN", "IMAGES", "--output", "f.npy", "--stage", "conv1..pool5"],
            "'pool5' is not a stage; perhaps conv5, with what follows its layer; choose",
        ),
        (["RUN", "nowhere", "--output", "f.npy"], "nowhere: there is no such folder; name a folder of images"),
        (["RUN", "RUN", "--output", "f.npy"], "contains no images that can be read; name a folder"),
        (["RUN", "IMAGES", "--output", "/dev/null/f.npy"], "--output /dev/null/f.npy.partial: .*Not a directory"),
        (["RUN", "IMAGES", "--output", "f.npy", "--batch-size", "0"], "--batch-size 0: must be 1 or more"),
        (["IMAGES", "IMAGES", "--output", "f.npy"], "no model here"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    arguments: list[str],
    message: str,
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    names = {"RUN": str(run_folder), "IMAGES": str(run_folder.parent / "images")}
    assert run_features(*(names.get(argument, argument) for argument in arguments)) == 2
    printed = capsys.readouterr().err
    assert re.search(message, printed), printed
    assert printed.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


def interrupt_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the command raise KeyboardInterrupt after some batches."""
    compute, calls = features.stage_outputs, iter(range(1 + batches))  # one call finds out the shapes

    def limited(*arguments: Any) -> dict[str, np.ndarray]:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return compute(*arguments)

    monkeypatch.setattr(features, "stage_outputs", limited)


def test_control_c_at_once_leaves_no_file(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt_after(0, monkeypatch)
    assert run_features(run_folder, run_folder.parent / "images", "--output", tmp_path / "new/f.npy") == 130
    assert capsys.readouterr().err.endswith("python -m alexnet_torch: interrupted; the same command continues\n")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("ending", ["npy", "h5"])
def test_an_interrupted_command_continues_to_the_same_file(
    ending: str, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = run_folder.parent / "images/val"  # 12 images
    (images / "class0/001.png").write_bytes(b"")
    common = [run_folder, images, "--stage", "conv2,fc6", "--batch-size", 5, "--skip-bad", "--output"]
    whole, continued = tmp_path / f"whole.{ending}", tmp_path / f"continued.{ending}"
    assert run_features(*common, whole) == 0
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        assert run_features(*common, continued) == 130
    assert f"{continued}.partial: has 4 rows; the same command continues" in capsys.readouterr().err
    before = {file: file.read_bytes() for file in Path(f"{continued}.partial").iterdir()}
    assert run_features(run_folder, images, "--stage", "fc7", "--output", continued) == 2
    message = "has the rows of another command, which differs in stages, batch_size"
    assert re.search(f"{message}.*; finish that command", capsys.readouterr().err)
    assert {file: file.read_bytes() for file in Path(f"{continued}.partial").iterdir()} == before
    assert run_features(*common, continued) == 0
    assert f"{continued}.partial: continues after 5 of 12 files" in capsys.readouterr().err
    assert not (tmp_path / f"{continued}.partial").exists()
    if ending == "npy":
        for name in ("conv2", "fc6"):
            one, other = (tmp_path / f"{stem}.{name}.npy" for stem in ("whole", "continued"))
            assert one.read_bytes() == other.read_bytes()
    else:
        assert whole.read_bytes() == continued.read_bytes()


def test_repaired_files_are_read_when_the_command_continues(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, output = run_folder.parent / "images/val", tmp_path / "f.npy"
    bad = images / "class1/003.png"  # the 8th
    content = bad.read_bytes()
    bad.write_bytes(b"")
    assert run_features(run_folder, images, "--batch-size", 3, "--output", output) == 2
    assert "has 6 rows" in capsys.readouterr().err
    bad.write_bytes(content)
    assert run_features(run_folder, images, "--batch-size", 3, "--output", output) == 0
    assert run_features(run_folder, images, "--batch-size", 3, "--output", tmp_path / "whole.npy") == 0
    assert output.read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_several_stages_come_from_one_pass_together_or_by_tower(run_folder: Path, tmp_path: Path) -> None:
    images, stages = run_folder.parent / "images/val", ["conv1", "conv2", "conv5", "fc8"]
    for stage in stages:
        assert run_features(run_folder, images, "--stage", stage, "--output", tmp_path / f"{stage}.npy") == 0
    option = ["--stage", "conv1..conv2,conv5,fc8"]
    assert run_features(run_folder, images, *option, "--output", tmp_path / "all.h5") == 0
    together, _ = read_h5(tmp_path / "all.h5")
    assert sorted(together) == [*stages, "labels"]
    assert run_features(run_folder, images, *option, "--per-tower", "--output", tmp_path / "towers.h5") == 0
    with h5py.File(tmp_path / "towers.h5") as file:
        assert sorted({*file} - {"labels", "files", "classes"}) == [f"{s}.tower{k}" for s in stages for k in (0, 1)]
        assert (file["fc8.tower0"].shape, file["fc8.tower1"].shape) == ((12, 2), (12, 1))  # 3 classes
        for stage in stages:
            single = np.load(tmp_path / f"{stage}.npy")
            assert np.abs(single).max() > 0
            np.testing.assert_array_equal(together[stage], single)
            np.testing.assert_array_equal(np.concatenate([file[f"{stage}.tower{k}"] for k in (0, 1)], 1), single)


def test_a_list_of_files_gives_the_order_of_the_rows(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, listed, output = run_folder.parent / "images", tmp_path / "stimuli.txt", tmp_path / "f.npy"
    names = ["val/class2/001.png", "train/class0/003.png", "val/class0/002.png", "val/class2/001.png"]
    listed.write_text("\ufeff" + "\r\n".join([*names, "", ""]), "utf-8")
    assert run_features(run_folder, images, "--files", listed, "--output", output) == 0
    metadata = json.loads((tmp_path / "f.json").read_text())
    assert metadata["files"] == names
    assert metadata["classes"] == ["train/class0", "val/class0", "val/class2"]
    assert metadata["labels"] == [2, 0, 1, 2]
    expected = expected_features(load_model(run_folder), [images / name for name in names], "fc7")
    np.testing.assert_allclose(np.load(output), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    listed.write_text("\n".join([*names, "val/none.png", "other.png"]))
    capsys.readouterr()
    assert run_features(run_folder, images, "--files", listed, "--output", output) == 2
    assert f"--files {listed}: 2 file(s) do not exist; remove the lines" in (error := capsys.readouterr().err)
    assert f"  {images / 'val/none.png'}\n  {images / 'other.png'}" in error
    assert run_features(run_folder, images, "--files", listed, "--output", output, "--skip-bad") == 0
    assert json.loads((tmp_path / "f.json").read_text())["skipped"] == ["val/none.png", "other.png"]
    for line, what in (
        ("val\\class2\\001.png", "backslashes"),
        ("val/class2/001.png,3", "columns"),
        ("./val/class2/001.png\tcats", "columns"),
        ("Val/class2/001.PNG", "other letter case"),
    ):
        listed.write_text(line)
        assert run_features(run_folder, images, "--files", listed, "--output", output) == 2
        assert f"{in_one_line(line)} has {what}: write 'val/class2/001.png'; remove the" in capsys.readouterr().err
    for text, message in ((b"\n", "is empty; write one name on each line"), (b"a\0b", "is not UTF-8 text")):
        listed.write_bytes(text)
        assert run_features(run_folder, images, "--files", listed, "--output", output) == 2
        assert f"--files {listed}: {message}" in capsys.readouterr().err


def test_the_model_versions_and_preprocessing_are_recorded(run_folder: Path, tmp_path: Path) -> None:
    images = run_folder.parent / "images/val"
    assert run_features(run_folder, images, "--output", tmp_path / "f.npy") == 0
    metadata = json.loads((tmp_path / "f.json").read_text())
    assert metadata["versions"]["torch"] == torch.__version__
    assert set(metadata["versions"]) == {"torch", "torchvision", "numpy", "pillow", "python"}
    assert metadata["preprocessing"]["square"] == "central, scaled to 73 pixels, bicubic with antialiasing"
    model = load_model(run_folder)
    assert metadata["preprocessing"]["mean_rgb"] == pytest.approx(model.mean.mean((0, 1)).tolist(), rel=1e-5)
    assert metadata["model_sha256"] == sealed_metadata(model)[METADATA_SEAL]
    for change in (replace(model, mean=model.mean + 1), replace(model, net=narrow_net(seed=1))):
        assert sealed_metadata(change)[METADATA_SEAL] != metadata["model_sha256"]


def test_links_and_nested_folders_are_followed_and_a_flat_one_has_no_classes(run_folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "linked"
    (images / "a/b/c").mkdir(parents=True)
    (images / "a/b/c/notes.txt").write_text("no image")
    (images / "a/b/c/x.PNG").symlink_to(run_folder.parent / "images/val/class0/000.png")
    (images / "d").symlink_to(run_folder.parent / "images/val/class1")
    files = [f"{i:03d}.png" for i in range(4)]
    nested = ["a/b/c/x.PNG", *(f"d/{file}" for file in files)]
    for folder, expected in (
        (images, (nested, ["a/b/c", "d"], [0, 1, 1, 1, 1])),
        (images / "d", (files, [], [-1] * 4)),
    ):
        assert run_features(run_folder, folder, "--output", tmp_path / "f.npy") == 0
        metadata = json.loads((tmp_path / "f.json").read_text())
        assert (metadata["files"], metadata["classes"], metadata["labels"]) == expected


SHAPES = {"conv5": (11, 6, 2), "fc7.tower0": (11, 5)}


def test_rows_of_another_process_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.npy"
    taken = pytest.raises(UserError, match="another process is writing")
    with partial_rows(path, SHAPES, {}), taken, partial_rows(path, SHAPES, {}):
        pass
    (tmp_path / "f.npy.partial").mkdir()
    (tmp_path / "f.npy.partial/progress.json").write_text("{")
    damaged = pytest.raises(UserError, match=r"f\.npy\.partial: is damaged .*; move it elsewhere to start again")
    with damaged, partial_rows(path, SHAPES, {}):
        pass


def test_rows_after_the_last_save_before_a_kill_are_computed_again(tmp_path: Path) -> None:
    path, rows = tmp_path / "f.npy", {name: np.ones((3, *shape[1:]), np.float32) for name, shape in SHAPES.items()}
    with suppress(KeyboardInterrupt), partial_rows(path, SHAPES, {}) as partial:
        partial.append(4, rows, [(1, "no image")])
        raise KeyboardInterrupt
    with (tmp_path / "f.npy.partial/conv5.npy").open("r+b") as file:
        file.seek(128 + 3 * 48)
        file.write(b"written before a kill")
    with partial_rows(path, SHAPES, {}, skip_bad=True) as partial:
        assert (partial.done, partial.rows) == (4, 3)
        partial.append(7, {name: np.full((7, *shape[1:]), 2, np.float32) for name, shape in SHAPES.items()}, [])
        partial.finish()
        for name, part in partial.parts.items():
            assert (np.load(part).reshape(10, -1) == np.repeat([1, 2], [3, 7])[:, None]).all(), name
    with partial_rows(path, SHAPES, {}) as partial:
        assert partial.done == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["npy", "h5"])
def test_after_an_error_no_new_file_exists_and_an_old_one_is_unchanged(
    ending: str, run_folder: Path, tmp_path: Path
) -> None:
    images, output = run_folder.parent / "images/val", tmp_path / f"new/f.{ending}"
    output.parent.mkdir()
    assert run_features(run_folder, images, "--output", output) == 0
    before = {path: path.read_bytes() for path in output.parent.iterdir()}
    (images / "class0/000.png").write_bytes(b"")
    assert run_features(run_folder, images, "--output", output) == 2
    assert {path: path.read_bytes() for path in output.parent.iterdir()} == before


def test_memory_does_not_grow_with_the_features(tmp_path: Path) -> None:
    """16 MB of features in batches of 0.1 MB."""
    shapes = {"features": (4000, 1000)}
    tracemalloc.start()
    try:
        with partial_rows(tmp_path / "f.npy", shapes, {}) as partial:
            for _ in range(0, 4000, 25):
                partial.append(25, {"features": np.zeros((25, 1000), np.float32)}, [])
            partial.finish()
            features._write_hdf5(
                tmp_path / "f.h5", {}, {"files": [], "classes": [], "labels": [], "skipped": []}, partial
            )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "f.h5").stat().st_size > 16e6
    assert peak < 2e6
