"""ImageNet-C in its layout: corruption x severity, images that are centre crops already."""

from pathlib import Path

import numpy as np
import pytest

from alexnet_torch.evaluation.robustness import ALEXNET_ERRORS, SEVERITIES, corruption_errors
from tests.support.commands import run_cli
from tests.support.test_sets import WNIDS, evaluate_json, imagenet_run, probabilities, refused, write_image

ARCHIVES = {"noise": 3, "blur": 4, "weather": 4, "digital": 4}
"""How many of the corruptions, in the paper's order, each of the authors' archives has."""
CORRUPTIONS = list(ALEXNET_ERRORS)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imagenet_run(tmp_path_factory.mktemp("imagenet") / "run", image_size=224)


def error_of(run: Path, images: list[Path], labels: list[int]) -> float:
    guesses = [int(probabilities(run, image, cropped=True).argmax()) for image in images]
    return float(np.mean([guess != label for guess, label in zip(guesses, labels, strict=True)]))


def test_each_corruption_has_its_error_and_the_images_are_not_resized(run: Path, tmp_path: Path) -> None:
    guess = int(probabilities(run, write_image(tmp_path / "first.png", 0, (224, 224)), cropped=True).argmax())
    labels, files = [guess, (guess + 1) % 1000], dict[str, list[Path]]()
    for number, group in enumerate(("snow/1", "snow/4", "fog/2", "speckle_noise/5")):
        places = [tmp_path / "c" / group / WNIDS[label] / "1.png" for label in labels]
        files[group] = [write_image(file, 10 * number + i, (224, 224)) for i, file in enumerate(places)]
    document = evaluate_json(run, "--data", tmp_path / "c")
    (result,) = document["results"]
    assert (result["crops"], document["images"]) == (1, 8)
    for group, images in files.items():
        name, severity = group.split("/")
        assert result["corruptions"][name][severity] == error_of(run, images, labels)
        assert result["corruptions"][name]["mean"] is None  # of five severities
    assert result["corruptions"]["snow"]["1"] <= 0.5
    assert result["mce"] is None
    assert "fog/1" in result["mce_lacks"]
    assert "frost" in result["mce_lacks"]


def test_the_whole_set_has_an_mce(run: Path, tmp_path: Path) -> None:
    """One image of each corruption and severity, in the folders of the authors' archives."""
    archives = [name for name, count in ARCHIVES.items() for _ in range(count)]
    images = {
        corruption: [tmp_path / "c" / archive / corruption / str(s) / WNIDS[0] / "1.JPEG" for s in SEVERITIES]
        for corruption, archive in zip(CORRUPTIONS, archives, strict=True)
    }
    for number, file in enumerate(file for files in images.values() for file in files):
        write_image(file, number, (224, 224))
    document = evaluate_json(run, "--data", tmp_path / "c")
    (result,) = document["results"]
    relative, rows = [], []
    for corruption, files in images.items():
        errors = [error_of(run, [file], [0]) for file in files]
        assert result["corruptions"][corruption] == {
            "mean": pytest.approx(np.mean(errors)),
            **{str(s): error for s, error in enumerate(errors, 1)},
        }
        relative.append(np.mean(errors) / ALEXNET_ERRORS[corruption])
        rows.append([corruption, *(f"{value:.1%}" for value in (*errors, np.mean(errors), relative[-1]))])
    assert result["mce"] == pytest.approx(np.mean(relative))
    assert result["mce_lacks"] == []
    shown = run_cli("evaluate", run, "--data", tmp_path / "c")
    assert f"mCE, relative to AlexNet's published errors: {np.mean(relative):.1%}" in shown.stdout
    assert "only 1 of ImageNet's 1,000 classes: not comparable" in shown.stdout
    assert "images of 224x224 pixels taken as centre crops" in shown.stderr
    assert [line.split() for line in shown.stdout.splitlines() if line.startswith(tuple(CORRUPTIONS))] == rows


def test_one_corruption_and_one_severity_are_found_by_their_folders(run: Path, tmp_path: Path) -> None:
    root = tmp_path / "imagenet-c"
    for severity in (2, 3):
        write_image(root / "snow" / str(severity) / WNIDS[5] / "1.png", severity, (224, 224))
    for folder in (root, root / "snow"):
        (both,) = evaluate_json(run, "--data", folder)["results"]
        assert set(both["corruptions"]["snow"]) == {"mean", "2", "3"}
    one = evaluate_json(run, "--data", root / "snow/3")["results"][0]
    assert one["corruptions"]["snow"]["3"] == error_of(run, [root / "snow/3" / WNIDS[5] / "1.png"], [5])


def test_networks_of_another_size_read_the_whole_crop(tmp_path: Path) -> None:
    run = imagenet_run(tmp_path / "run", image_size=64)
    image = write_image(tmp_path / "c/fog/1" / WNIDS[3] / "1.png", 4, (224, 224))
    (result,) = evaluate_json(run, "--data", tmp_path / "c")["results"]
    assert result["loss"] == pytest.approx(-np.log(probabilities(run, image, cropped=True)[3]), rel=1e-4)


def test_wrong_sets_are_refused_in_one_line(run: Path, tmp_path: Path) -> None:
    root = tmp_path / "c"
    write_image(root / "fog/1" / WNIDS[3] / "1.png", 0, (224, 224))
    line = refused(run, "--data", root, "--crops", "10")
    assert "are centre crops already; use --crops 1" in line
    write_image(root / "fog/1" / WNIDS[3] / "2.png", 1, (230, 224))
    assert "2.png: has 230x224 pixels, not 224x224" in refused(run, "--data", root)
    write_image(root / "snow/1" / WNIDS[4] / "1.png", 1, (224, 224))
    assert "fog/1 and snow/1 have different classes" in refused(run, "--data", root)
    write_image(root / "weather/snow/1" / WNIDS[3] / "1.png", 1, (224, 224))
    assert "has snow/1 twice" in refused(run, "--data", root)


def test_images_of_any_other_size_are_tested_as_usual(run: Path, tmp_path: Path) -> None:
    image = write_image(tmp_path / "c/fog/1" / WNIDS[3] / "1.png", 4)
    results = evaluate_json(run, "--data", tmp_path / "c")["results"]
    for result, crops in zip(results, (1, 10), strict=True):
        assert result["loss"] == pytest.approx(-np.log(probabilities(run, image, crops)[3]), rel=1e-4)


def test_mce_is_the_mean_of_ratios_to_alexnets_errors_of_the_paper() -> None:
    table = [88.6, 89.4, 92.3, 82.0, 82.6, 78.6, 79.8, 86.7, 82.7, 81.9, 56.5, 85.3, 64.6, 71.8, 60.7]  # the paper's
    assert [100 * error for error in ALEXNET_ERRORS.values()] == pytest.approx(table, abs=0.0501)
    resnet = [80, 82, 83, 75, 89, 78, 80, 78, 75, 66, 57, 71, 85, 77, 77]  # ResNet-50's, relative, in %: mCE 76.7
    means = {name: error * ce / 100 for (name, error), ce in zip(ALEXNET_ERRORS.items(), resnet, strict=True)}
    errors = {f"{name}/{s}": mean + 0.01 * (s - 3) for name, mean in means.items() for s in SEVERITIES}
    extra = corruption_errors(errors | {f"speckle_noise/{s}": 0.1 for s in SEVERITIES})
    assert extra["mce"] == corruption_errors(errors)["mce"] == pytest.approx(0.767, abs=0.002)  # from rounded ratios
    assert extra["corruptions"]["speckle_noise"]["mean"] == pytest.approx(0.1)
    few = corruption_errors(
        {group: error for group, error in errors.items() if group[:3] != "fog" and group != "snow/3"}
    )
    assert few["mce"] is None
    assert few["mce_lacks"] == ["snow/3", "fog"]
