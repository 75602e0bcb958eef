"""Errors against loops over single images in float64."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_torch import PAPER, TORCHVISION, AlexNet, Architecture, cli
from alexnet_torch.data.augment import subtract_mean
from alexnet_torch.data.loader import Loader
from alexnet_torch.data.prepare import prepare
from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.evaluation.evaluate import Errors, evaluate, evaluate_models, most_crops, table, views
from alexnet_torch.weights.model_file import TrainedModel, load_model, save_model

CLASSES = ("class0", "class1", "class2", "class3", "class4", "class5", "class6")


def narrow(net: Architecture) -> Architecture:
    convs = tuple(replace(conv, channels=8) for conv in net.convs)
    return replace(net, convs=convs, linears=(*(replace(f, width=16) for f in net.linears[:-1]), net.linears[-1]))


def model(net: Architecture, image_size: int, prepared: PreparedImages, seed: int) -> TrainedModel:
    """Large weights, so that images and crops are told apart, and biases, so that no two classes tie."""
    made = AlexNet(narrow(net), len(CLASSES), image_size, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in made.named_parameters():
        std = (0.03 if "conv1" in name else 1.5) / parameter[0].numel() ** 0.5 if name.endswith("weight") else 0.1
        torch.nn.init.normal_(parameter, 0, std, generator)
    return TrainedModel(made, CLASSES, prepared.mean)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, image_folder: Callable[..., Path]) -> dict[int, PreparedImages]:
    """The same images in squares of two sides."""
    folder = tmp_path_factory.mktemp("evaluate")
    root = image_folder(folder / "images", classes=len(CLASSES), train=2, val=3)
    return {side: prepare(root, side, str(folder / "cache"), announce=lambda _: None) for side in (73, 80)}


@pytest.fixture(scope="module")
def models(images: dict[int, PreparedImages]) -> list[TrainedModel]:
    """A net of two towers, one of one tower, and other image sizes and means."""
    return [model(PAPER, 64, images[73], 1), model(TORCHVISION, 67, images[80], 2), model(PAPER, 67, images[80], 3)]


def cuts(square: np.ndarray, mean: np.ndarray, size: int) -> list[np.ndarray]:
    """An image's ten crops, each less the mean's same crop: the centre, the corners; then all mirrored."""
    last = square.shape[0] - size
    crops = []
    for top, left in ((last // 2, last // 2), (0, 0), (0, last), (last, 0), (last, last)):
        crop = square[top : top + size, left : left + size].astype(np.float64)
        crops.append(crop - mean[top : top + size, left : left + size])
    return crops + [crop[:, ::-1] for crop in crops]


def probabilities(m: TrainedModel, prepared: PreparedImages, crops: int) -> np.ndarray:
    """(images, classes), image by image and crop by crop."""
    net, size, found = deepcopy(m.net).double(), m.net.image_size, []
    assert prepared.val.images is not None
    for row in prepared.val.rows:
        each = []
        for crop in cuts(prepared.val.images[row], m.mean, size)[:crops]:
            with torch.no_grad():
                logits = net(torch.from_numpy(crop.transpose(2, 0, 1)[None].copy()))[0].numpy()
            powers = np.exp(logits - logits.max())
            each.append(powers / powers.sum())
        found.append(np.mean(each, axis=0))
    return np.array(found)


def errors(p: np.ndarray, labels: np.ndarray) -> Errors:
    order = np.argsort(-p, axis=1)
    wrong = [np.mean([label not in best[:k] for label, best in zip(labels, order, strict=True)]) for k in (1, 5)]
    loss = -np.mean([np.log(row[label]) for row, label in zip(p, labels, strict=True)])
    return Errors(float(loss), float(wrong[0]), float(wrong[1]))


def assert_same(found: Errors, expected: Errors) -> None:
    assert (found.top1_error, found.top5_error) == (expected.top1_error, expected.top5_error)
    assert found.loss == pytest.approx(expected.loss, rel=1e-4)


@pytest.mark.parametrize(("batch_size", "most"), [(4, 10), (64, 5)])
def test_errors_of_models_and_of_their_average_are_a_loops(
    batch_size: int, most: int, models: list[TrainedModel], images: dict[int, PreparedImages]
) -> None:
    """Batches of 4 leave a last one of 1 of the 21 images: each counts once."""
    found = evaluate_models(models, images, most, batch_size)
    assert found is not None
    assert list(found) == [1, most]
    labels = images[73].val.labels
    for crops, tested in found.items():
        each = [probabilities(m, images[m.mean.shape[0]], crops) for m in models]
        for single, p in zip(tested.single, each, strict=True):
            assert_same(single, errors(p, labels))
        assert_same(tested.averaged, errors(np.mean(each, axis=0), labels))
    assert len({e.loss for t in found.values() for e in (*t.single, t.averaged)}) == 8  # nothing is equal by accident


def test_the_centre_crop_is_what_training_validates_by(
    models: list[TrainedModel], images: dict[int, PreparedImages]
) -> None:
    found = evaluate_models(models[:1], images, 1)
    assert found is not None
    assert list(found) == [1]
    m = models[0]
    during = evaluate(m.net, Loader(images[73], "val", 64, 5), torch.from_numpy(m.mean))
    assert during is not None
    assert_same(found[1].averaged, during)


def test_views_are_the_papers_ten() -> None:
    square = np.random.default_rng(0).integers(0, 256, (2, 21, 21, 3)).astype(np.float64)
    mean = np.random.default_rng(1).uniform(0, 255, (21, 21, 3))
    whole = torch.from_numpy(square - mean).permute(0, 3, 1, 2)
    for i in range(2):
        expected = {crop.tobytes() for crop in cuts(square[i], mean, 14)}
        found = [view[i].permute(1, 2, 0).numpy().tobytes() for view in views(whole, 14, 10)]
        assert len(found) == len(expected) == 10
        assert set(found) == expected
        assert {v[i].permute(1, 2, 0).numpy().tobytes() for v in views(whole, 14, 5)} == {
            crop.tobytes() for crop in cuts(square[i], mean, 14)[:5]
        }
        (centre,) = (view[i].permute(1, 2, 0).numpy() for view in views(whole, 14, 1))
        assert np.array_equal(centre, cuts(square[i], mean, 14)[0])
        assert found[0] == centre.tobytes()


def test_images_are_read_and_their_mean_subtracted_once_for_ten_crops(
    models: list[TrainedModel], images: dict[int, PreparedImages], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, subtracted, epoch = [], [], Loader.epoch

    def counted(loader: Loader, number: int) -> object:
        for batch in epoch(loader, number):
            read.append(len(batch.labels))
            yield batch

    def once(batch: torch.Tensor, *rest: object) -> torch.Tensor:
        subtracted.append(len(batch))
        return subtract_mean(batch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Loader, "epoch", counted)
    monkeypatch.setattr("alexnet_torch.evaluation.evaluate.subtract_mean", once)
    evaluate_models(models, images, 10)
    assert read == [21, 21]  # for two sides
    assert subtracted == [21, 21, 21]  # for three models


def test_a_wish_to_stop_gives_it_up(models: list[TrainedModel], images: dict[int, PreparedImages]) -> None:
    asked = iter([False, True])
    assert evaluate_models(models[:1], images, 10, 4, lambda: next(asked)) is None


def test_models_that_saw_no_mirror_images_are_tested_on_none(models: list[TrainedModel], tmp_path: Path) -> None:
    assert most_crops(models) == 10
    save_model(tmp_path, models[0].net, CLASSES, models[0].mean, mirror=False)
    assert most_crops([*models, load_model(tmp_path, ["cpu"])]) == 5


def test_one_model_has_no_average_row(models: list[TrainedModel], images: dict[int, PreparedImages]) -> None:
    found = evaluate_models(models[:1], images, 1)
    assert found is not None
    assert len(table(["a"], found).splitlines()) == 2


def test_a_run_is_not_averaged_with_itself(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run_folder)
    assert cli.main(["evaluate", ".", str(run_folder), "--data", "../images"]) == 2
    assert "evaluate: the same run is named twice" in capsys.readouterr().err
