import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_torch.data.augment import centre_crops
from alexnet_torch.data.decode import decode_file
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.predict import _decoded, predict
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.architecture import PAPER
from alexnet_torch.weights.model_file import TrainedModel


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    net = AlexNet(PAPER, 3, 64).eval()
    return TrainedModel(net, ("a", "b", "c"), np.random.default_rng(0).uniform(0, 255, (73, 73, 3)).astype(np.float32))


@pytest.fixture
def files(tmp_path: Path, image_folder: Callable[..., Path]) -> list[Path]:
    return sorted(image_folder(tmp_path / "images", train=8).rglob("train/*/*.png"))


def test_files_keep_their_order_and_are_what_each_is_alone(model: TrainedModel, files: list[Path]) -> None:
    guessed = list(predict(model, files, batch_size=5))
    assert [file for file, _ in guessed] == files
    top = int(centre_crops(1, 73, 64).top[0])
    crop = slice(top, top + 64)
    for file, guesses in guessed[::5]:
        image = torch.from_numpy(decode_file(file, 73)[crop, crop] - model.mean[crop, crop]).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = model.net(image).softmax(1)[0]
        assert [g["label"] for g in guesses] == [model.classes[i] for i in expected.argsort(descending=True)]
        assert [g["probability"] for g in guesses] == pytest.approx(sorted(expected.tolist(), reverse=True), rel=1e-4)


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_batches_decoded_ahead_are_those_asked_for(ahead: int, files: list[Path]) -> None:
    batches = [files[:3], files[3:6], files[6:7]]
    begun = []

    def work(file: Path) -> torch.Tensor:
        begun.append(file)
        return torch.tensor(files.index(file))

    with ThreadPoolExecutor(2) as pool:
        decoded = _decoded(pool, work, batches, ahead)
        first, images = next(decoded)
        assert (first, [int(image) for image in images]) == (files[:3], [0, 1, 2])
        assert set(begun) <= {file for batch in batches[: 1 + ahead] for file in batch}
        rest = [*decoded]
    assert [int(image) for _, images in rest for image in images] == [3, 4, 5, 6]
    assert [file for batch, _ in rest for file in batch] == files[3:7]


def test_a_bad_file_is_named_after_the_batches_before_it(model: TrainedModel, files: list[Path]) -> None:
    files[13].write_bytes(b"no image")
    seen: list[Path] = []
    with pytest.raises(UserError, match=f"{files[13].name}: not an image.*name image files"):
        seen.extend(file for file, _ in predict(model, files, batch_size=5))
    assert seen == files[:10]


def test_a_caller_that_leaves_early_leaves_no_threads(model: TrainedModel, files: list[Path]) -> None:
    guesses = predict(model, files, batch_size=2)
    next(guesses)
    guesses.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("decoding")]
