"""figures: files, TensorBoard and numbers of a run, against the run itself."""

import json
import re
import shutil
import warnings
import weakref
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import alexnet_torch
from alexnet_torch import cli, load_model, predict
from alexnet_torch.data.prepare import prepare
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.features import stage_output
from alexnet_torch.evaluation.figures import figure4_examples as examples
from alexnet_torch.evaluation.figures import figure_files as album
from alexnet_torch.evaluation.figures.curves import Curve, read_history
from alexnet_torch.evaluation.figures.draw import FIGURES, distinct_names
from alexnet_torch.evaluation.figures.figure3_filters import filter_grid
from alexnet_torch.evaluation.figures.figure4_examples import choose, nearest_training_images
from alexnet_torch.evaluation.figures.figure_files import FALLBACKS, STYLE, families, pixels, printable
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.presets import TORCHVISION
from alexnet_torch.weights.model_file import TrainedModel, save_model
from tests.support.folders import make_images, make_run
from tests.support.nets import narrow_net


def figures(*given: Any) -> int:
    return cli.main(["figures", *map(str, given)])


@pytest.fixture(autouse=True, scope="module")
def _small_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(album, "DPI", 40)
        yield


@dataclass(frozen=True)
class Drawn:
    """A run whose figures were drawn, and what was printed."""

    run: Path
    said: str


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    run, said = make_run(tmp_path_factory.mktemp("drawn")), StringIO()
    before = dict(matplotlib.rcParams)
    with redirect_stdout(said):
        assert figures(run) == 0
    assert dict(matplotlib.rcParams) == before, "matplotlib's settings were changed"
    return Drawn(run, said.getvalue())


def test_a_run_gets_all_figures_as_png_svg_and_in_tensorboard(drawn: Drawn) -> None:
    run_folder = drawn.run
    events = EventAccumulator(str(run_folder / "tensorboard/figures"), size_guidance={"images": 0})
    events.Reload()
    assert events.Tags()["images"] == [f"figures/{name}" for name in FIGURES]
    for name in FIGURES:
        with Image.open(run_folder / f"figures/{name}.png") as image:
            (shown,) = events.Images(f"figures/{name}")
            assert (shown.width, shown.height, shown.step) == (*image.size, 3)
            with Image.open(BytesIO(shown.encoded_image_string)) as same:
                np.testing.assert_array_equal(np.asarray(same), np.asarray(image))
            assert len(np.unique(np.asarray(image))) > 20
        svg = ElementTree.parse(run_folder / f"figures/{name}.svg").getroot()
        assert svg.tag.endswith("svg")
    assert "tower 0" in drawn.said
    assert "two-sided permutation test" in drawn.said
    assert "filters.png, filters.svg, labels.png" in drawn.said


def test_pyplot_which_keeps_state_is_not_used() -> None:
    sources = [path.read_text() for path in (Path(alexnet_torch.__file__).parent / "evaluation/figures").glob("*.py")]
    assert len(sources) > 5
    assert not any("pyplot" in source for source in sources)


def test_drawn_again_the_files_are_the_same_and_replace_the_first(run_folder: Path) -> None:
    given = (run_folder, "--data", "none")
    assert figures(*given) == 0
    first = {path.name: path.read_bytes() for path in (run_folder / "figures").iterdir()}
    assert figures(*given) == 0
    assert {path.name: path.read_bytes() for path in (run_folder / "figures").iterdir()} == first
    assert len(list((run_folder / "tensorboard/figures").iterdir())) == 1


def test_figures_that_are_not_drawn_again_do_not_stay_behind(run_folder: Path) -> None:
    folder = run_folder / "figures"
    assert figures(run_folder) == 0
    (folder / "mine.png").touch()
    assert figures(run_folder, "--data", "none") == 0
    assert {path.stem for path in folder.glob("*.[ps][nv]g")} == {"filters", "curves", "mine"}
    assert json.loads((folder / "figures.json").read_text())["examples"] == []


def test_the_numbers_are_the_networks_own(drawn: Drawn) -> None:
    measured = json.loads((drawn.run / "figures/figures.json").read_text())
    model, root = load_model(drawn.run), drawn.run.parent / "images"
    train = sorted((root / "train").rglob("*.png"))
    fc7 = {file: fc7_by_hand(model, file) for file in train}
    assert measured["neighbours_stage"] == "fc7"
    assert len(measured["examples"]) == 8
    for example in measured["examples"]:
        file = Path(example["file"])
        assert example["label"] == file.parent.name
        ((_, guesses),) = predict(model, [file])
        assert [c["label"] for c in example["classes"]] == [g["label"] for g in guesses]
        query = fc7_by_hand(model, file)
        distances = sorted((float(np.sqrt(((fc7[t] - query) ** 2).sum())), str(t)) for t in train)
        near = example["neighbours"]
        assert [n["file"] for n in near] == [file for _, file in distances[:6]]
        np.testing.assert_allclose([n["distance"] for n in near], [d for d, _ in distances[:6]], rtol=1e-4)
        assert all(n["label"] == Path(n["file"]).parent.name for n in near)
    towers = measured["colourfulness"]["towers"]
    assert [len(tower["filters"]) for tower in towers] == [8, 8]
    assert towers[0]["mean"] == pytest.approx(np.mean(towers[0]["filters"]))


def fc7_by_hand(model: Any, file: Path) -> np.ndarray:
    from alexnet_torch.data.decode import decode_file

    crop = torch.from_numpy(decode_file(file, 73)[4:68, 4:68] - model.mean[4:68, 4:68]).permute(2, 0, 1)[None]
    with torch.no_grad():
        return np.asarray(model.net.features(crop, "fc7")[0], np.float64)


def test_features_of_training_images_are_forgotten_batch_by_batch(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def counted(*given: Any) -> np.ndarray:
        nonlocal most
        features = stage_output(*given).copy()
        alive[:] = [one for one in alive if one() is not None] + [weakref.ref(features)]
        most = max(most, len(alive))
        return features

    monkeypatch.setattr(examples, "stage_output", counted)
    model, root = load_model(run_folder), run_folder.parent
    prepared = prepare(root / "images", 73, str(root / "cache"))
    (row,) = nearest_training_images(model, prepared, [root / "images/val/class0/000.png"], batch_size=2)
    assert len(row) == 6
    assert most <= 3  # the image's own, a batch's and the next one's, of 12 batches


def test_given_images_are_shown_in_place_of_validation_images(run_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "$somewhere^/x_{.png"
    other.parent.mkdir()
    shutil.copy(run_folder.parent / "images/val/class1/000.png", other)
    known = run_folder.parent / "images/train/class2/001.png"
    assert figures(run_folder, "--image", other, known) == 0
    first, second = json.loads((run_folder / "figures/figures.json").read_text())["examples"]
    assert (first["file"], first["label"], second["label"]) == (str(other), None, "class2")
    assert second["neighbours"][0]["file"] == str(known)
    assert second["neighbours"][0]["distance"] < 1e-3 * second["neighbours"][1]["distance"]


def test_several_runs_share_their_curves(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [run_folder, shutil.copytree(run_folder, tmp_path / "b/run"), shutil.copytree(run_folder, tmp_path / "c")]
    (runs[2] / "metrics.jsonl").unlink()
    assert figures(*runs, "--data", "none", "--output", tmp_path / "out") == 0
    found = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png")}
    first = f"{tmp_path.name}-run"
    assert found == {
        f"{first}/filters.png",
        f"{first}/curves.png",
        "b-run/filters.png",
        f"{tmp_path.name}-c/filters.png",
    }
    svg = (tmp_path / f"out/{first}/curves.svg").read_text()
    assert re.search(r"<!-- b/run -->", svg)
    assert "no curves, since" in capsys.readouterr().out


def test_imported_weights_have_filters_alone(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with model.pt and model.json, as `import` leaves it, of one tower."""
    for name in ("config.json", "metrics.jsonl"):
        (run_folder / name).unlink()
    net = AlexNet(TORCHVISION, 3, 64, seed=0)
    save_model(run_folder, TrainedModel(net, ("a", "b", "c"), np.zeros((73, 73, 3), np.float32)))
    assert figures(run_folder) == 0
    said = capsys.readouterr().out
    assert "one tower: nothing to compare" in said
    assert "no neighbours of images, and no labels: --data DIR names the images" in said
    assert "metrics.jsonl is missing" in said
    assert sorted(p.name for p in (run_folder / "figures").iterdir()) == ["figures.json", "filters.png", "filters.svg"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "figures: name at least one run's folder|Required"),
        (["nowhere"], "nowhere: no model here"),
        (["RUN", "RUN"], "the same run is named twice"),
        (["RUN", "--seed", "-1"], "--seed -1: must be 0 or more"),
        (["RUN", "--data", "nowhere"], "--data nowhere: there is no such folder"),
        (["RUN", "--data", "OTHER"], r"--data .*other: its classes are not those of .*; name the images"),
        (["RUN", "--image", *["x.png"] * 41], "--image: 41 files are too many for one figure; name 40 at most"),
        (["RUN", "--image", "nothing.png"], "nothing.png: .*No such file.*name image files"),
        (["RUN", "--output", "/dev/null/figures"], "--output /dev/null/figures: cannot be written"),
    ],
)
def test_it_refuses_in_one_line(
    given: list[str], message: str, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"RUN": run_folder, "OTHER": tmp_path / "other"}
    if "OTHER" in given:
        make_images(tmp_path / "other", classes=2, train=2, val=1)
    assert figures(*(names.get(word, word) for word in given)) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "decod" not in line and "image/s" not in line]
    assert len(said) == 1, said
    assert re.search(message, said[0]), said


def test_a_broken_report_is_named_and_one_being_written_left_out(run_folder: Path) -> None:
    path = run_folder / "metrics.jsonl"
    whole = path.read_text()
    ten_crops = {"split": "val", "step": 3, "epoch": 1, "loss": 0.1, "top1_error": 0.1, "crops": 10}
    path.write_text(whole + json.dumps(ten_crops) + '\n{"split": "tra')
    history = read_history(run_folder)
    assert history is not None
    assert history.val.step.tolist() == [1, 2, 3]
    assert history.train.error.tolist() == pytest.approx([0.9, 0.45, 0.3])
    assert history.best_step() == 3
    for broken in (b'{"split": "train"}\n', b"\xff\n", b"[]\n", b'{"split": "test"}\n'):
        path.write_bytes(broken + whole.encode())
        with pytest.raises(UserError, match=r"metrics\.jsonl: line 1 is no report"):
            read_history(run_folder)


def test_long_curves_are_averaged_and_keep_their_mean() -> None:
    values = np.random.default_rng(0).normal(size=(4, 1000))
    short = Curve(*values).averaged(10)
    np.testing.assert_allclose(short.loss, values[2].reshape(10, 100).mean(1))
    np.testing.assert_array_equal(Curve(*values).averaged(5000).error, values[3])


def test_examples_are_of_as_many_classes_as_there_are(run_folder: Path) -> None:
    prepared = prepare(run_folder.parent / "images", 73, str(run_folder.parent / "cache"))
    chosen = choose(prepared, 7, seed=0)
    classes = [path.parent.name for path in chosen]
    assert len(set(chosen)) == 7
    assert sorted(classes[:3]) == sorted(classes[3:6]) == ["class0", "class1", "class2"]
    assert chosen == choose(prepared, 7, seed=0) != choose(prepared, 7, seed=1)
    assert len(choose(prepared, 99, seed=0)) == 12


def test_runs_are_told_apart_by_as_little_of_their_paths_as_it_takes() -> None:
    paths = [Path("/x/a/run"), Path("/x/b/run"), Path("/x/c")]
    assert list(distinct_names(paths[1:])) == ["run", "c"]
    assert list(distinct_names(paths)) == ["a/run", "b/run", "x/c"]


def test_filters_are_scaled_by_themselves_around_grey() -> None:
    weights = narrow_net().stage_weights("conv1")[0]
    grid = filter_grid(weights, 4)
    assert grid.shape == (3, 2 * 13, 4 * 13)
    tile = grid[:, 14:25, 27:38]  # row 1, column 2: filter 6
    torch.testing.assert_close(tile, 0.5 + 0.5 * weights[6].detach() / weights[6].abs().max())
    assert filter_grid(torch.zeros(1, 3, 2, 2))[:, 1:3, 1:3].unique().tolist() == [0.5]


def test_long_and_odd_names_fit() -> None:
    assert printable("n01443537") == "n01443537"
    assert printable("a" * 20 + "b" * 20, 12) == "aaaaaaa…bbbb"
    assert printable("caf\udce9") == "caf?"


def test_signs_that_dejavu_lacks_are_of_the_next_font_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlib's own DejaVu Sans Mono has the arc, U+2312; DejaVu Sans has not."""
    assert families(["Unifont", "Comic", "Noto Sans CJK JP"]) == ["DejaVu Sans", "Noto Sans CJK JP", "Unifont"]

    @matplotlib.rc_context(STYLE)
    def drawn() -> np.ndarray:
        figure = Figure(figsize=(1, 1))
        figure.text(0.2, 0.2, "\u2312")
        return pixels(figure)

    monkeypatch.setitem(STYLE, "font.family", families([]))
    with pytest.warns(UserWarning, match="Glyph 8978 .* missing from"):
        box = drawn()
    monkeypatch.setattr(album, "FALLBACKS", (*FALLBACKS, "DejaVu Sans Mono"))
    monkeypatch.setitem(STYLE, "font.family", album.families(["DejaVu Sans Mono"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not np.array_equal(drawn(), box)
