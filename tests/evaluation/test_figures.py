"""The figures command: files, TensorBoard events and numbers, compared with the run."""

import json
import os
import re
import shutil
import subprocess
import sys
import weakref
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alexnet_torch import cli, load_model, predict
from alexnet_torch.data.cache_build import prepare
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.features import stage_outputs
from alexnet_torch.evaluation.figures import filter_grid, neighbours, style
from alexnet_torch.evaluation.figures.curves import Curve, across_seeds
from alexnet_torch.evaluation.figures.draw import FIGURE_NAMES
from alexnet_torch.evaluation.figures.neighbours import find_examples
from alexnet_torch.evaluation.figures.style import font_families, printable_name
from alexnet_torch.evaluation.runs import read_run
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.presets import TORCHVISION
from alexnet_torch.weights.model_file import TrainedModel, save_model
from tests.evaluation.test_features import expected_features
from tests.support.folders import make_images, make_run
from tests.support.nets import narrow_net


def run_figures(*arguments: Any) -> int:
    return cli.main(["figures", *map(str, arguments)])


@pytest.fixture(autouse=True, scope="module")
def _small_figures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "DPI", 40)
        yield


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run whose figures were drawn, and the printed text."""
    run, printed = make_run(tmp_path_factory.mktemp("drawn")), StringIO()
    before = dict(matplotlib.rcParams)
    with redirect_stdout(printed):
        assert run_figures(run) == 0
    assert dict(matplotlib.rcParams) == before, "matplotlib's settings were changed"
    return run, printed.getvalue()


def test_all_figures_are_written_as_png_svg_and_to_tensorboard(drawn: tuple[Path, str]) -> None:
    run_folder, printed = drawn
    events = EventAccumulator(str(run_folder / "tensorboard/figures"), size_guidance={"images": 0})
    events.Reload()
    assert events.Tags()["images"] == [f"figures/{name}" for name in FIGURE_NAMES]
    for name in FIGURE_NAMES:
        with Image.open(run_folder / f"figures/{name}.png") as image:
            (shown,) = events.Images(f"figures/{name}")
            assert (shown.width, shown.height, shown.step) == (*image.size, 3)
            with Image.open(BytesIO(shown.encoded_image_string)) as event_image:
                np.testing.assert_array_equal(np.asarray(event_image), np.asarray(image))
            assert len(np.unique(np.asarray(image))) > 20
        svg = ElementTree.parse(run_folder / f"figures/{name}.svg").getroot()
        assert svg.tag.endswith("svg")
    assert "tower 0" in printed
    assert "two-sided permutation test" in printed
    assert "filters.png, filters.svg, labels.png" in printed


def test_a_backend_that_is_not_installed_does_not_matter() -> None:
    """Jupyter's MPLBACKEND is inherited by `!python train.py`, whose environment may lack it."""
    code = "from alexnet_torch.console import console\nwith console(): import alexnet_torch.evaluation.figures.draw"
    command = [sys.executable, "-c", code]
    environment = os.environ | {"MPLBACKEND": "module://not_installed.backend"}
    assert subprocess.run(command, env=environment, check=False).returncode == 0


def test_a_second_command_writes_the_same_files_and_removes_those_that_are_not_drawn_again(run_folder: Path) -> None:
    folder = run_folder / "figures"
    folder.mkdir()
    (folder / "labels.png").touch()  # of an earlier command
    (folder / "other.png").touch()
    written = []
    for _ in range(2):
        assert run_figures(run_folder, "--data", "none") == 0
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    assert {path.stem for path in folder.glob("*.[ps][nv]g")} == {"filters", "curves", "other"}
    assert json.loads((folder / "figures.json").read_text())["examples"] == []
    assert len(list((run_folder / "tensorboard/figures").iterdir())) == 1


def test_the_numbers_equal_those_of_the_network(drawn: tuple[Path, str]) -> None:
    run, _ = drawn
    measured = json.loads((run / "figures/figures.json").read_text())
    model, root = load_model(run), run.parent / "images"
    train = sorted((root / "train").rglob("*.png"))
    fc7 = expected_features(model, train, "fc7").astype(np.float64)
    assert measured["neighbours_stage"] == "fc7"
    assert len(measured["examples"]) == 8
    for example in measured["examples"]:
        file = Path(example["file"])
        assert example["label"] == file.parent.name
        ((_, predictions),) = predict(model, [file])
        assert [c["label"] for c in example["classes"]] == [p["label"] for p in predictions]
        lengths = np.sqrt(((fc7 - expected_features(model, [file], "fc7")) ** 2).sum(1)).tolist()
        distances = sorted(zip(lengths, map(str, train), strict=True))
        neighbours = example["neighbours"]
        assert [n["file"] for n in neighbours] == [file for _, file in distances[:6]]
        np.testing.assert_allclose([n["distance"] for n in neighbours], [d for d, _ in distances[:6]], rtol=1e-4)
        assert all(n["label"] == Path(n["file"]).parent.name for n in neighbours)
    towers = measured["colourfulness"]["towers"]
    assert [len(tower["filters"]) for tower in towers] == [8, 8]
    assert towers[0]["mean"] == pytest.approx(np.mean(towers[0]["filters"]))


def test_memory_holds_the_features_of_few_batches(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most_alive = 0

    def counting_stage_outputs(*arguments: Any) -> dict[str, np.ndarray]:
        nonlocal most_alive
        outputs = {stage: output.copy() for stage, output in stage_outputs(*arguments).items()}
        alive[:] = [reference for reference in alive if reference() is not None] + [weakref.ref(outputs["fc7"])]
        most_alive = max(most_alive, len(alive))
        return outputs

    monkeypatch.setattr(neighbours, "stage_outputs", counting_stage_outputs)
    model, root = load_model(run_folder), run_folder.parent
    prepared = prepare(root / "images", 73, str(root / "cache"))
    (example,) = find_examples(model, prepared, [root / "images/val/class0/000.png"], 0, batch_size=2)
    assert len(example.neighbours) == 6
    assert most_alive <= 3  # of the image, a batch and the next batch, of 12 batches


def test_named_images_replace_the_validation_images(run_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "$somewhere^/x_{.png"
    other.parent.mkdir()
    shutil.copy(run_folder.parent / "images/val/class1/000.png", other)
    known = run_folder.parent / "images/train/class2/001.png"
    assert run_figures(run_folder, "--image", other, known) == 0
    first, second = json.loads((run_folder / "figures/figures.json").read_text())["examples"]
    assert (first["file"], first["label"], second["label"]) == (str(other), None, "class2")
    assert second["neighbours"][0]["file"] == str(known)
    assert second["neighbours"][0]["distance"] < 1e-3 * second["neighbours"][1]["distance"]


def test_the_curves_of_several_runs_are_in_one_figure(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [run_folder, shutil.copytree(run_folder, tmp_path / "b/run"), shutil.copytree(run_folder, tmp_path / "c")]
    (runs[2] / "metrics.jsonl").unlink()
    assert run_figures(*runs, "--data", "none", "--output", tmp_path / "out") == 0
    written = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png")}
    first = f"{tmp_path.name}-run"
    assert written == {
        f"{first}/filters.png",
        f"{first}/curves.png",
        "b-run/filters.png",
        f"{tmp_path.name}-c/filters.png",
    }
    svg = (tmp_path / f"out/{first}/curves.svg").read_text()
    assert re.search(r"<!-- b/run -->", svg)
    assert "no curves, because" in capsys.readouterr().out


def test_imported_weights_have_only_the_filters_figure(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that has only model.pt and model.json, as `import` writes it, of a network with one tower."""
    for name in ("config.json", "metrics.jsonl"):
        (run_folder / name).unlink()
    net = AlexNet(TORCHVISION, 3, 64, seed=0)
    save_model(run_folder, TrainedModel(net, ("a", "b", "c"), np.zeros((73, 73, 3), np.float32)))
    assert run_figures(run_folder) == 0
    printed = capsys.readouterr().out
    assert "one tower: nothing to compare" in printed
    assert "no labels and neighbours, which need images: name a folder with --data DIR" in printed
    assert "metrics.jsonl is missing" in printed
    assert sorted(p.name for p in (run_folder / "figures").iterdir()) == ["figures.json", "filters.png", "filters.svg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: RUN"),
        (["nowhere"], "nowhere: no model here"),
        (["RUN", "RUN"], "the same run is named twice"),
        (["RUN", "--seed", "-1"], "--seed -1: must be 0 or more"),
        (["RUN", "--data", "nowhere"], "--data nowhere: there is no such file or folder"),
        (["RUN", "--data", "OTHER"], r"--data .*other: its classes differ from those of .*; name the images"),
        (["RUN", "--image", *["x.png"] * 41], "--image: 41 files do not fit into one figure; name 40 at most"),
        (["RUN", "--image", "nothing.png"], "nothing.png: .*No such file.*name image files"),
        (
            ["RUN", "--output", "/dev/null/figures"],
            "--output /dev/null/figures: /dev/null/figures: Not a directory; name",
        ),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    arguments: list[str], message: str, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"RUN": run_folder, "OTHER": tmp_path / "other"}
    if "OTHER" in arguments:
        make_images(tmp_path / "other", classes=2, train=2, val=1)
    assert run_figures(*(names.get(argument, argument) for argument in arguments)) == 2
    told = ("decod", "image/s", "validation images")  # about the images, before the error
    printed = [line for line in capsys.readouterr().err.splitlines() if not any(text in line for text in told)]
    assert len(printed) == 1, printed
    assert re.search(message, printed[0]), printed


def test_a_broken_report_is_an_error_and_an_incomplete_last_one_is_left_out(run_folder: Path) -> None:
    path = run_folder / "metrics.jsonl"
    reports = path.read_text()
    ten_crops = {"split": "val", "step": 3, "epoch": 1, "loss": 0.1, "top1_error": 0.1, "crops": 10}
    path.write_text(reports + json.dumps(ten_crops) + '\n{"split": "tra')
    run = read_run(run_folder)
    assert [record["step"] for record in run.val] == [1, 2, 3]
    assert [record["top1_error"] for record in run.train] == pytest.approx([0.9, 0.45, 0.3])
    assert (run.best["step"], run.test) == (3, ten_crops)
    for broken in (b'{"split": "train"}\n', b"\xff\n", b"[]\n", b'{"split": "test"}\n'):
        path.write_bytes(broken + reports.encode())
        with pytest.raises(UserError, match=r"metrics\.jsonl: line 1: is damaged .*; restore the file"):
            read_run(run_folder)
    (run_folder / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"; train\.py --output .* --resume writes it anew from the run's checkpoint"):
        read_run(run_folder)


def test_long_curves_are_downsampled_to_the_means_of_reports() -> None:
    values = np.random.default_rng(0).normal(size=(4, 3000))
    values[1] = np.arange(3000)
    short, *_ = across_seeds([Curve(*values)])
    np.testing.assert_allclose(short.loss, values[2].reshape(300, 10).mean(1))


def test_each_filter_is_scaled_individually_around_grey() -> None:
    weights = narrow_net().stage_weights("conv1")[0]
    grid = filter_grid(weights, 4)
    assert grid.shape == (3, 2 * 13, 4 * 13)
    tile = grid[:, 14:25, 27:38]  # row 1, column 2: filter 6
    torch.testing.assert_close(tile, 0.5 + 0.5 * weights[6].detach() / weights[6].abs().max())
    assert filter_grid(torch.zeros(1, 3, 2, 2))[:, 1:3, 1:3].unique().tolist() == [0.5]


def test_long_names_are_shortened_and_odd_bytes_replaced() -> None:
    assert printable_name("tench, Tinca tinca") == "tench"
    assert printable_name("a" * 20 + "b" * 20, 12) == "aaaaaaa…bbbb"
    assert printable_name("caf\udce9") == "caf?"
    assert font_families(["Unifont", "Comic", "Noto Sans CJK JP"]) == ["DejaVu Sans", "Noto Sans CJK JP", "Unifont"]
