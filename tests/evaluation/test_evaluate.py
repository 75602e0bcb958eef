"""Errors of models and of their average, compared with loops over single images in float64."""

from collections.abc import Iterator, Mapping
from copy import deepcopy

import numpy as np
import pytest
import torch

from alexnet_torch import PAPER, TORCHVISION, AlexNet, Architecture
from alexnet_torch.data.cache import PreparedImages
from alexnet_torch.data.cache_build import prepare
from alexnet_torch.data.loader import Loader
from alexnet_torch.evaluation.metrics import EvalResult
from alexnet_torch.evaluation.results import error_table
from alexnet_torch.evaluation.scoring import (
    ImageBatch,
    evaluate,
    score,
    score_validation_images,
    worst_images,
)
from alexnet_torch.weights.model_file import TrainedModel
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


def expected_probabilities(model: TrainedModel, prepared: PreparedImages, num_crops: int) -> np.ndarray:
    """(images, classes), image by image and crop by crop: the centre, the corners; then their mirror images."""
    net, size, means = deepcopy(model.net).double(), model.net.image_size, []
    last = prepared.side - size
    assert prepared.val.images is not None
    for row in prepared.val.rows:
        square, probabilities = prepared.val.images.pixels[row] - model.mean.astype(np.float64), []
        places = [(last // 2, last // 2), (0, 0), (0, last), (last, 0), (last, last)]
        crops = [square[top : top + size, left : left + size] for top, left in places]
        for crop in [*crops, *(crop[:, ::-1] for crop in crops)][:num_crops]:
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


def batches(images: Mapping[int, PreparedImages], batch_size: int) -> Iterator[ImageBatch]:
    loaders = [Loader(prepared, "val", side, batch_size).epoch(0) for side, prepared in images.items()]
    for of_sides in zip(*loaders, strict=True):
        squares = {side: batch.images for side, batch in zip(images, of_sides, strict=True)}
        yield ImageBatch(squares, of_sides[0].labels, of_sides[0].indices)


@pytest.mark.parametrize(("batch_size", "most_crops"), [(4, 10), (64, 5)])
def test_errors_of_models_and_of_their_average_equal_those_of_a_loop(
    batch_size: int, most_crops: int, models: list[TrainedModel], images: dict[int, PreparedImages]
) -> None:
    """Batches of 4 leave a last one of 1 of the 21 images: each counts once."""
    scores = score(models, batches(images, batch_size), most_crops)
    assert scores is not None
    assert list(scores) == [1, most_crops]
    labels, results = images[73].val.labels, {n: [each.result() for each in of] for n, of in scores.items()}
    for num_crops, found in results.items():
        expected = [expected_probabilities(model, images[model.mean.shape[0]], num_crops) for model in models]
        for result, probabilities in zip(found, [*expected, np.mean(expected, axis=0)], strict=True):
            assert_same(result, expected_result(probabilities, labels))
    assert len({each.loss for found in results.values() for each in found}) == 8  # no two agree by chance


def test_the_centre_crop_gives_the_result_of_validation_in_training(
    models: list[TrainedModel], images: dict[int, PreparedImages]
) -> None:
    tested = score_validation_images(models[0], images[73])
    net = models[0].net.train()
    in_training = evaluate(models[0], Loader(images[73], "val", 64, 5))
    assert net.training, "as it was before"
    net.eval()
    assert tested is not None
    assert in_training is not None
    assert_same(tested.errors[1], in_training)


def test_a_model_is_tested_with_its_predictions_and_its_worst_images(
    models: list[TrainedModel], images: dict[int, PreparedImages]
) -> None:
    prepared, labels = images[73], images[73].val.labels
    tested = score_validation_images(models[0], prepared, 10)
    assert tested is not None
    expected = expected_probabilities(models[0], prepared, 1)
    assert list(tested.errors) == [1, 10]
    assert tested.predictions.predicted.tolist() == expected.argmax(axis=1).tolist()
    np.testing.assert_allclose(tested.predictions.label_probability, expected[range(21), labels], rtol=1e-4)
    wrong = np.flatnonzero(expected.argmax(axis=1) != labels)
    order = wrong[np.argsort(expected[wrong, labels[wrong]])]
    worst = worst_images(tested, prepared, 3)
    assert [image["path"] for image in worst] == [prepared.val.keys[index] for index in order[:3]]
    assert prepared.val.images is not None
    for image, index in zip(worst, order.tolist(), strict=False):
        assert np.array_equal(image["pixels"], prepared.val.images.pixels[index][4:68, 4:68])
        assert (image["label"], image["predicted"]) == (CLASSES[labels[index]], CLASSES[expected[index].argmax()])


def test_evaluation_stops_when_it_is_asked_to(models: list[TrainedModel], images: dict[int, PreparedImages]) -> None:
    answers = iter([False, True])
    assert score(models[:1], batches({73: images[73]}, 4), 10, should_stop=lambda: next(answers)) is None


def test_top_5_errors_are_shown_where_there_are_more_than_five_classes() -> None:
    results = [{"run": "a", "crops": n, "top1_error": 0.25 / n, "top5_error": 0.125 / n} for n in (1, 10)]
    assert error_table(results, 6).splitlines()[1].split() == ["a", "25.00%", "12.50%", "2.50%", "1.25%"]
    assert error_table(results, 5).splitlines()[1].split() == ["a", "25.00%", "2.50%"]
