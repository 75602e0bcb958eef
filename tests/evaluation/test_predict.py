"""Predictions for files, compared with the network's output for each file."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_torch.data.augment import centre_crops
from alexnet_torch.data.decode import decode_file
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.predict import predict
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.architecture import PAPER
from alexnet_torch.weights.model_file import TrainedModel, describe_model, load_model, save_model
from tests.support.folders import make_images


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    net = AlexNet(PAPER, 3, 64).eval()
    return TrainedModel(net, ("a", "b", "c"), np.random.default_rng(0).uniform(0, 255, (73, 73, 3)).astype(np.float32))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return sorted(make_images(tmp_path / "images", train=8).rglob("train/*/*.png"))


def test_labels_are_what_people_call_the_classes(model: TrainedModel, files: list[Path], tmp_path: Path) -> None:
    wnids = ("n01440764", "n02012849", "n03126707")
    named = replace(model, classes=wnids, names=("tench, Tinca tinca", "crane", "crane"))
    save_model(tmp_path, named)
    loaded = load_model(tmp_path, ["cpu"])
    assert loaded.classes == wnids
    ((_, guesses),) = predict(loaded, files[:1])
    expected = {
        "n01440764": "tench, Tinca tinca",
        "n02012849": "crane (n02012849)",
        "n03126707": "crane (n03126707)",
    }
    assert {guess["identity"]: guess["label"] for guess in guesses} == expected
    description = json.loads((tmp_path / "model.json").read_text())
    assert (description["classes"], description["names"]) == (list(wnids), list(named.names))
    assert "names" not in describe_model(replace(model, names=model.classes))  # as before there were names


def test_results_have_the_files_order_and_equal_those_of_single_files(model: TrainedModel, files: list[Path]) -> None:
    results = list(predict(model, files, batch_size=5))
    assert [file for file, _ in results] == files
    top = int(centre_crops(1, 73, 64).top[0])
    crop = slice(top, top + 64)
    for file, predictions in results[::5]:
        image = torch.from_numpy(decode_file(file, 73)[crop, crop] - model.mean[crop, crop]).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = model.net(image).softmax(1)[0]
        assert [p["label"] for p in predictions] == [model.classes[i] for i in expected.argsort(descending=True)]
        probabilities = [p["probability"] for p in predictions]
        assert probabilities == pytest.approx(sorted(expected.tolist(), reverse=True), rel=1e-4)


def test_strings_folders_pictures_and_arrays_are_predicted_alike(model: TrainedModel, files: list[Path]) -> None:
    folder = files[0].parent
    inside = [file for file in files if file.parent == folder]
    expected = [guesses for _, guesses in predict(model, inside)]
    assert [*predict(model, str(folder))] == [*zip(inside, expected, strict=True)]
    assert [*predict(model, map(str, inside))] == [*zip(map(str, inside), expected, strict=True)]
    picture = Image.open(inside[1])
    array = np.asarray(picture)
    mixed = [*predict(model, [picture, inside[2], array])]
    assert mixed[0][0] is picture
    assert mixed[2][0] is array
    for (_, guesses), index in zip(mixed, (1, 2, 1), strict=True):
        assert [each["label"] for each in guesses] == [each["label"] for each in expected[index]]
        probabilities = [each["probability"] for each in expected[index]]
        assert [each["probability"] for each in guesses] == pytest.approx(probabilities, rel=1e-5)


def test_a_bad_file_raises_an_error_after_the_earlier_batches(model: TrainedModel, files: list[Path]) -> None:
    files[13].write_bytes(b"no image")
    seen: list[Path] = []
    with pytest.raises(UserError, match=f"{files[13].name}: not an image.*name image files"):
        seen.extend(file for file, _ in predict(model, files, batch_size=5))
    assert seen == files[:10]


def test_no_threads_remain_if_the_caller_stops_early(model: TrainedModel, files: list[Path]) -> None:
    results = predict(model, files, batch_size=2)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("decoding")]
