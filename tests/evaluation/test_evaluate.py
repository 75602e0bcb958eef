"""Errors of models and of their average, compared with loops over single images in float64."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_torch import PAPER, TORCHVISION, AlexNet, Architecture, cli
from alexnet_torch.data.augment import subtract_mean
from alexnet_torch.data.loader import Batch, Loader
from alexnet_torch.data.prepare import prepare
from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.evaluation.evaluate import evaluate, evaluate_models
from alexnet_torch.evaluation.metrics import EvalResult, error_table
from alexnet_torch.evaluation.multi_crop import cut_crops, default_num_crops
from alexnet_torch.weights.model_file import TrainedModel, load_model, save_model
from tests.support.folders import make_images
from tests.support.nets import narrow

CLASSES = ("class0", "class1", "class2", "class3", "class4", "class5", "class6")


def make_model(architecture: Architecture, image_size: int, prepared: PreparedImages, seed: int) -> TrainedModel:
    """Large weights, so that images and crops have different logits, and biases, so that no two classes tie."""
    net = AlexNet(narrow(architecture, 8, 16), len(CLASSES), image_size, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in net.named_parameters():
        std = (0.03 if "conv1" in name else 1.5) / parameter[0].numel() ** 0.5 if name.endswith("weight") else 0.1
        torch.nn.init.normal_(parameter, 0, std, generator)
    return TrainedModel(net, CLASSES, prepared.mean)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[int, PreparedImages]:
    """The same images in squares of two sides."""
    folder = tmp_path_factory.mktemp("evaluate")
    root = make_images(folder / "images", classes=len(CLASSES), train=2, val=3)
    return {side: prepare(root, side, str(folder / "cache")) for side in (73, 80)}


@pytest.fixture(scope="module")
def models(images: dict[int, PreparedImages]) -> list[TrainedModel]:
    """Networks of two towers and of one, with different image sizes and means."""
    return [
        make_model(PAPER, 64, images[73], 1),
        make_model(TORCHVISION, 67, images[80], 2),
        make_model(PAPER, 67, images[80], 3),
    ]


def expected_crops(square: np.ndarray, mean: np.ndarray, size: int) -> list[np.ndarray]:
    """An image's ten crops, each minus the mean's same crop: the centre, the corners; then their mirror images."""
    last = square.shape[0] - size
    crops = []
    for top, left in ((last // 2, last // 2), (0, 0), (0, last), (last, 0), (last, last)):
        crop = square[top : top + size, left : left + size].astype(np.float64)
        crops.append(crop - mean[top : top + size, left : left + size])
    return crops + [crop[:, ::-1] for crop in crops]


def expected_probabilities(model: TrainedModel, prepared: PreparedImages, num_crops: int) -> np.ndarray:
    """(images, classes), image by image and crop by crop."""
    net, size, means = deepcopy(model.net).double(), model.net.image_size, []
    assert prepared.val.images is not None
    for row in prepared.val.rows:
        probabilities = []
        for crop in expected_crops(prepared.val.images[row], model.mean, size)[:num_crops]:
            with torch.no_grad():
                logits = net(torch.from_numpy(crop.transpose(2, 0, 1)[None].copy()))[0].numpy()
            powers = np.exp(logits - logits.max())
            probabilities.append(powers / powers.sum())
        means.append(np.mean(probabilities, axis=0))
    return np.array(means)


def expected_result(probabilities: np.ndarray, labels: np.ndarray) -> EvalResult:
    order = np.argsort(-probabilities, axis=1)
    wrong = [np.mean([label not in best[:k] for label, best in zip(labels, order, strict=True)]) for k in (1, 5)]
    loss = -np.mean([np.log(row[label]) for row, label in zip(probabilities, labels, strict=True)])
    return EvalResult(float(loss), float(wrong[0]), float(wrong[1]))


def assert_same(result: EvalResult, expected: EvalResult) -> None:
    assert (result.top1_error, result.top5_error) == (expected.top1_error, expected.top5_error)
    assert result.loss == pytest.approx(expected.loss, rel=1e-4)


@pytest.mark.parametrize(("batch_size", "most_crops"), [(4, 10), (64, 5)])
def test_errors_of_models_and_of_their_average_equal_those_of_a_loop(
    batch_size: int, most_crops: int, models: list[TrainedModel], images: dict[int, PreparedImages]
) -> None:
    """Batches of 4 leave a last one of 1 of the 21 images: each counts once."""
    results = evaluate_models(models, images, most_crops, batch_size)
    assert results is not None
    assert list(results) == [1, most_crops]
    labels = images[73].val.labels
    for num_crops, result in results.items():
        expected = [expected_probabilities(model, images[model.mean.shape[0]], num_crops) for model in models]
        for model_result, probabilities in zip(result.models, expected, strict=True):
            assert_same(model_result, expected_result(probabilities, labels))
        assert_same(result.average, expected_result(np.mean(expected, axis=0), labels))
    assert len({each.loss for r in results.values() for each in (*r.models, r.average)}) == 8  # no two agree by chance


def test_the_centre_crop_gives_the_result_of_validation_in_training(
    models: list[TrainedModel], images: dict[int, PreparedImages]
) -> None:
    results = evaluate_models(models[:1], images, 1)
    assert results is not None
    assert list(results) == [1]
    in_training = evaluate(models[0].net, Loader(images[73], "val", 64, 5), torch.from_numpy(models[0].mean))
    assert in_training is not None
    assert_same(results[1].average, in_training)


def test_crops_are_the_papers_ten() -> None:
    squares = np.random.default_rng(0).integers(0, 256, (2, 21, 21, 3)).astype(np.float64)
    mean = np.random.default_rng(1).uniform(0, 255, (21, 21, 3))
    tensor = torch.from_numpy(squares - mean).permute(0, 3, 1, 2)  # (2, 3, 21, 21)
    for i in range(2):
        expected = [crop.tobytes() for crop in expected_crops(squares[i], mean, 14)]
        crops = {n: [c[i].permute(1, 2, 0).numpy().tobytes() for c in cut_crops(tensor, 14, n)] for n in (1, 5, 10)}
        assert len(crops[10]) == len(set(expected)) == 10
        assert set(crops[10]) == set(expected)
        assert set(crops[5]) == set(expected[:5])
        assert crops[1] == expected[:1]
        assert crops[10][0] == expected[0]


def test_ten_crops_read_an_image_and_subtract_the_mean_once(
    models: list[TrainedModel], images: dict[int, PreparedImages], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, subtracted, epoch = [], [], Loader.epoch

    def counting_epoch(loader: Loader, number: int) -> Iterator[Batch]:
        for batch in epoch(loader, number):
            read.append(len(batch.labels))
            yield batch

    def counting_to_float(batch: torch.Tensor, *rest: object) -> torch.Tensor:
        subtracted.append(len(batch))
        return subtract_mean(batch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Loader, "epoch", counting_epoch)
    monkeypatch.setattr("alexnet_torch.evaluation.multi_crop.subtract_mean", counting_to_float)
    evaluate_models(models, images, 10)
    assert read == [21, 21]  # for two sides
    assert subtracted == [21, 21, 21]  # for three models


def test_evaluation_stops_when_it_is_asked_to(models: list[TrainedModel], images: dict[int, PreparedImages]) -> None:
    answers = iter([False, True])
    assert evaluate_models(models[:1], images, 10, 4, lambda: next(answers)) is None


def test_models_trained_without_mirror_images_are_tested_on_five_crops(
    models: list[TrainedModel], tmp_path: Path
) -> None:
    assert default_num_crops(models) == 10
    save_model(tmp_path, TrainedModel(models[0].net, CLASSES, models[0].mean, mirror=False))
    assert default_num_crops([*models, load_model(tmp_path, ["cpu"])]) == 5


def test_the_table_of_one_model_has_no_average(models: list[TrainedModel], images: dict[int, PreparedImages]) -> None:
    results = evaluate_models(models[:1], images, 1)
    assert results is not None
    assert len(error_table(["a"], results).splitlines()) == 2


def test_the_same_run_named_twice_is_refused(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run_folder)
    assert cli.main(["evaluate", ".", str(run_folder), "--data", "../images"]) == 2
    assert "evaluate: the same run is named twice" in capsys.readouterr().err
