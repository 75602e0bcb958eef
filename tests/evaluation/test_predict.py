"""Predictions for files, compared with the network's output for each file."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_torch.data.augment import centre_crops
from alexnet_torch.data.decode import decode_file
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.predict import _decode_batches, predict
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


@pytest.mark.parametrize("prefetch", [0, 1, 2])
def test_no_more_batches_are_decoded_in_advance_than_asked_for(prefetch: int, files: list[Path]) -> None:
    batches = [files[:3], files[3:6], files[6:7]]
    started = []

    def decode(file: Path) -> np.ndarray:
        started.append(file)
        return np.array(files.index(file))

    with ThreadPoolExecutor(2) as pool:
        decoded = _decode_batches(pool, decode, batches, prefetch)
        first, images = next(decoded)
        assert (first, [int(image) for image in images]) == (files[:3], [0, 1, 2])
        assert set(started) <= {file for batch in batches[: 1 + prefetch] for file in batch}
        rest = [*decoded]
    assert [int(image) for _, images in rest for image in images] == [3, 4, 5, 6]
    assert [file for batch, _ in rest for file in batch] == files[3:7]


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
