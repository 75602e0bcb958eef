"""evaluate --data SET: test sets without train/, in the layouts of their authors, compared with loops in float64."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_torch.run_folder import MODEL_WEIGHTS
from tests.support.commands import run_cli
from tests.support.test_sets import (
    NAMES,
    WNIDS,
    evaluate_json,
    imagenet_run,
    place_by_guess,
    probabilities,
    refused,
    write_image,
)

A_CLASSES = {wnid: WNIDS.index(wnid) for wnid in ("n01498041", "n01531178", "n02012849", "n03126707", "n03710637")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imagenet_run(tmp_path_factory.mktemp("imagenet") / "run")


@pytest.fixture(scope="module")
def imagenet_a(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five of ImageNet's classes, with both cranes, and the README that the set has."""
    root = tmp_path_factory.mktemp("sets") / "imagenet-a"
    place_by_guess(run, root, A_CLASSES, 15)
    (root / "README.txt").write_text("ImageNet-A")
    (root / ".DS_Store").write_bytes(b"junk")
    return root


def files_of(root: Path) -> list[Path]:
    return sorted(root.rglob("*.png"))


def test_a_subset_of_the_classes_is_scored_among_all_and_among_its_own(run: Path, imagenet_a: Path) -> None:
    document = evaluate_json(run, "--data", imagenet_a)
    own = sorted({file.parent.name for file in files_of(imagenet_a)})
    labels = [own.index(file.parent.name) for file in files_of(imagenet_a)]
    indices = [WNIDS.index(wnid) for wnid in own]
    assert document["identities"] == own
    assert document["classes"] == [NAMES[index] for index in indices]
    assert (document["form"], document["matched_by"], document["images"]) == ("class folders", "WordNet ID", 15)
    for result, crops in zip(document["results"], (1, 10), strict=True):
        assert (result["run"], result["crops"]) == (str(run), crops)
        values = np.array([probabilities(run, file, crops) for file in files_of(imagenet_a)])  # (15, 1000)
        for scored, scores, right in (
            (result, values, np.array(indices)[labels]),
            (result["among_set_classes"], values[:, indices], np.array(labels)),
        ):
            order = np.argsort(-scores, axis=1)
            wrong = order[:, 0] != right
            assert scored["top1_error"] == pytest.approx(wrong.mean())
            assert scored["top5_error"] == pytest.approx((order[:, :5] != right[:, None]).all(axis=1).mean())
            own_share = scores[range(15), right] / scores.sum(axis=1)
            assert scored["loss"] == pytest.approx(-np.log(own_share).mean(), rel=1e-4)
        confusion = np.zeros((len(own), 1000), int)
        np.add.at(confusion, (labels, values.argmax(axis=1)), 1)
        assert result["confusion"] == confusion.tolist()
        assert result["class_images"] == np.bincount(labels).tolist()
    centre = document["results"][0]["among_set_classes"]["top1_error"]
    assert centre == pytest.approx(1 / 3)
    assert document["results"][0]["top1_error"] > centre


def test_the_tables_show_both_scores_and_what_was_found(run: Path, imagenet_a: Path) -> None:
    done = run_cli("evaluate", run, "--data", imagenet_a, "--crops", "1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "among the model's 1,000 classes:"
    assert "among the set's" in done.stdout
    assert lines[-1].split()[:2] == [str(run), "33.33%"]
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"--data {imagenet_a}: class folders, ")
    assert "15 images; 2 skipped: " in line
    assert line.endswith("; classes matched by WordNet ID")


def test_numbered_folders_are_the_standard_indices(run: Path, imagenet_a: Path, tmp_path: Path) -> None:
    """In ImageNet-V2's layout, inside the folder that its archive makes; 10 sorts before 6 as text."""
    v2 = tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val"
    for file in files_of(imagenet_a):
        target = v2 / str(WNIDS.index(file.parent.name)) / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(file)
    document = evaluate_json(run, "--data", tmp_path / "imagenetv2", "--crops", "1")
    expected = evaluate_json(run, "--data", imagenet_a, "--crops", "1")
    assert document["classes"] == expected["classes"]
    assert document["results"] == expected["results"]


@pytest.mark.parametrize("layout", ["{root}/val", "{root}/sketch"])
def test_val_alone_and_a_folder_in_a_folder_are_test_sets(
    layout: str, run: Path, imagenet_a: Path, tmp_path: Path
) -> None:
    folder = Path(layout.format(root=tmp_path / "set"))
    folder.parent.mkdir()
    folder.symlink_to(imagenet_a)
    document = evaluate_json(run, "--data", tmp_path / "set", "--crops", "1")
    assert document["results"] == evaluate_json(run, "--data", imagenet_a, "--crops", "1")["results"]


def test_csv_has_a_row_for_each_image(run: Path, imagenet_a: Path, tmp_path: Path) -> None:
    file = tmp_path / "guesses.csv"
    evaluate_json(run, "--data", imagenet_a, "--csv", file)
    rows = list(csv.DictReader(file.open(newline="")))
    assert [row["file"] for row in rows] == [f"val/{f.relative_to(imagenet_a)}" for f in files_of(imagenet_a)]
    for row, image in zip(rows, files_of(imagenet_a), strict=True):
        expected = probabilities(run, image, 10)  # of the most crops
        order = np.argsort(-expected)[:5]
        assert row["label"] == NAMES[WNIDS.index(image.parent.name)]
        assert [row[f"guess{i}"] for i in range(1, 6)] == [NAMES[index] for index in order]
        shown = [float(row[f"probability{i}"]) for i in range(1, 6)]
        np.testing.assert_allclose(shown, expected[order], rtol=1e-3)


def test_csv_keeps_names_that_are_not_utf8_or_have_commas(run: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_image(root / "n01498041" / "a,\n\udcff.png", 1)
    write_image(root / "n01531178" / "b.png", 2)
    evaluate_json(run, "--data", root, "--csv", tmp_path / "out.csv", "--crops", "1")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert [row["file"] for row in csv.DictReader(file)] == ["val/n01498041/a,\n\udcff.png", "val/n01531178/b.png"]


def test_real_labels_score_the_validation_images(run: Path, tmp_path: Path) -> None:
    numbers, wnid = [3, 1, 50_000, 17], "n01751748"
    labels: list[list[int]] = [[0]] * 50_000
    for place, number in enumerate(numbers):
        image = write_image(tmp_path / f"val/{wnid}/ILSVRC2012_val_{number:08d}.JPEG", number)
        guess = int(probabilities(run, image).argmax())
        # right with a second label; right; without any label; wrong
        labels[number - 1] = [[(guess + 1) % 1000, guess], [guess], [], [(guess + 1) % 1000]][place]
    (tmp_path / "real.json").write_text(json.dumps(labels))
    document = evaluate_json(run, "--data", tmp_path / "val", "--real", tmp_path / "real.json", "--crops", "1")
    assert document["results"][0]["real"] == {"images": 3, "top1_error": pytest.approx(1 / 3)}
    assert document["images"] == 4
    shown = run_cli("evaluate", run, "--data", tmp_path / "val", "--real", tmp_path / "real.json", "--crops", "1")
    assert "error by ReaL labels 33.3% of 3 images that have some" in shown.stdout


def test_several_runs_are_averaged_and_the_csv_has_the_averages_guesses(
    run: Path, imagenet_a: Path, tmp_path: Path
) -> None:
    other = imagenet_run(tmp_path / "other", image_size=67, seed=3)
    document = evaluate_json(run, other, "--data", imagenet_a, "--crops", "1", "--csv", tmp_path / "out.csv")
    assert [result["run"] for result in document["results"]] == [str(run), str(other), "average of 2"]
    means = [(probabilities(run, f) + probabilities(other, f)) / 2 for f in files_of(imagenet_a)]
    right = [WNIDS.index(f.parent.name) for f in files_of(imagenet_a)]
    assert document["results"][2]["loss"] == pytest.approx(
        -np.mean([np.log(mean[index]) for mean, index in zip(means, right, strict=True)]), rel=1e-4
    )
    guesses = [row["guess1"] for row in csv.DictReader((tmp_path / "out.csv").open(newline=""))]
    assert guesses == [NAMES[int(mean.argmax())] for mean in means]


def test_classes_are_compared_before_anything_is_decoded(run: Path, tmp_path: Path) -> None:
    for name in ("n01498041", "wasps"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "broken.png").write_bytes(b"no image")
    assert "1 of its 2 classes is none of the classes of" in refused(run, "--data", tmp_path / "set")


def test_an_unreadable_image_stops_or_is_left_out(run: Path, imagenet_a: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    for file in files_of(imagenet_a):
        (root / file.parent.name).mkdir(parents=True, exist_ok=True)
        (root / file.parent.name / file.name).hardlink_to(file)
    broken = root / files_of(root)[0].parent.name / "aaa.png"
    broken.write_bytes(b"no image")
    line = refused(run, "--data", root, "--csv", tmp_path / "out.csv")
    assert f"{broken}: not an image" in line
    assert "--skip-bad" in line
    assert not (tmp_path / "out.csv").exists()
    document = evaluate_json(run, "--data", root, "--skip-bad", "--crops", "1")
    assert document["results"] == evaluate_json(run, "--data", imagenet_a, "--crops", "1")["results"]
    assert document["images"] == 15
    (left_out,) = document["left_out"]
    assert str(broken) in left_out


def test_a_network_whose_outputs_overflow_is_refused(imagenet_a: Path, tmp_path: Path) -> None:
    broken = imagenet_run(tmp_path / "broken")
    weights = torch.load(broken / MODEL_WEIGHTS, weights_only=True)
    for sign, place in ((3e38, slice(0, None, 2)), (-3e38, slice(1, None, 2))):  # finite, but its outputs overflow
        weights["towers.0.fc8.weight"][place] = sign
    torch.save(weights, broken / MODEL_WEIGHTS)
    line = refused(broken, "--data", imagenet_a, "--csv", tmp_path / "out.csv")
    assert f"{broken}: val/n0" in line
    assert "the network's outputs for it are infinite" in line
    assert not (tmp_path / "out.csv").exists()


def test_other_wrong_input_gives_one_line(run: Path, imagenet_a: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "train/a").mkdir(parents=True)
    write_image(tmp_path / "train/a/1.png", 0)
    assert "there is no such file or folder" in refused(run, "--data", tmp_path / "none")
    assert "--data" in refused(run, "--data", tmp_path / "empty")
    assert "val/" in refused(run, "--data", tmp_path)
    assert "is a folder; name a file" in refused(run, "--data", imagenet_a, "--csv", tmp_path)
    assert "No such file or directory" in refused(run, "--data", imagenet_a, "--csv", tmp_path / "none/out.csv")
    assert "--real" in refused(run, "--data", imagenet_a, "--real", tmp_path / "real.json")
