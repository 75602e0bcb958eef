"""Counts of labels and predictions, compared with loops."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_torch import load_model
from alexnet_torch.evaluation.metrics import Confusion, EvalResult, Predictions, Scores
from alexnet_torch.weights.model_file import save_model
from tests.support.commands import run_cli, run_train


def predictions(labels: np.ndarray, predicted: np.ndarray) -> Predictions:
    unused = np.zeros(len(labels))
    return Predictions(np.arange(len(labels)), labels, predicted, unused, unused)


def test_the_most_confused_pairs_come_first() -> None:
    random = np.random.default_rng(0)
    labels, predicted = random.integers(0, 3, 200), random.integers(0, 4, 200)
    confusion = Confusion(predictions(labels, predicted), np.array([2, 0, 3]), 4)
    pairs = Counter(zip(labels.tolist(), predicted.tolist(), strict=True))
    wrong = [(-count, label, other) for (label, other), count in pairs.items() if other != (2, 0, 3)[label]]
    expected = [(label, other, -count) for count, label, other in sorted(wrong)]
    assert len(expected) == 9
    assert confusion.most_confused() == expected
    assert confusion.most_confused(2) == expected[:2]
    assert Confusion(predictions(np.arange(3), np.arange(3)), np.arange(3), 3).most_confused() == []


def test_many_classes_take_memory_only_for_their_images() -> None:
    many = 100_000  # a matrix would take 80 GB
    labels = np.arange(0, many, 1000)
    confusion = Confusion(predictions(labels, labels[::-1].copy()), np.arange(many), many)
    assert np.nansum(confusion.class_errors()) == 100
    assert confusion.most_confused(1) == [(0, 99_000, 1)]


def test_predictions_of_two_ranks_are_joined_by_the_images_indices() -> None:
    log_probs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).double().log_softmax(1)
    labels, ranks = torch.tensor([3, 1, 0, 2, 2]), [Scores(), Scores()]
    for scores, rows in zip(ranks, ([4, 0], [1, 3]), strict=True):  # image 2 is unreadable
        scores.add(log_probs[rows], labels[rows], np.array(rows))
    other = torch.zeros(5, 5, dtype=torch.float64)
    ranks[1].predictions(5, lambda table: other.copy_(table))
    joined = ranks[0].predictions(5, lambda table: table + other)
    assert joined.indices.tolist() == [0, 1, 3, 4]
    assert joined.labels.tolist() == labels[joined.indices].tolist()
    assert joined.predicted.tolist() == log_probs.argmax(1)[joined.indices].tolist()
    probabilities = log_probs.exp()
    np.testing.assert_allclose(joined.label_probability, probabilities[joined.indices, labels[joined.indices]])
    np.testing.assert_allclose(joined.probability, probabilities.amax(1)[joined.indices])


@pytest.mark.parametrize(
    ("guesses", "labels", "only"),
    [([2, 2, 2], [0, 2, 2], 2), ([2, 2, 2], [2, 2, 2], None), ([2, 1, 2], [0, 2, 2], None)],
)
def test_a_network_that_predicts_one_class_for_images_of_several_is_told(
    guesses: list[int], labels: list[int], only: int | None
) -> None:
    ranks = [Scores(), Scores()]
    for guess, label, scores in zip(guesses, labels, [*ranks, ranks[0]], strict=True):
        scores.add(10.0 * torch.eye(3)[[guess]], torch.tensor([label]))
    other: list[torch.Tensor] = []
    ranks[1].result(lambda counts: other.append(counts) or counts)  # type: ignore[func-returns-value]
    result = ranks[0].result(lambda counts: counts + other[0])
    assert result.only_guess == only
    said = "all images are predicted to be cat, although they are of several classes"
    assert result.warning(["ant", "bee", "cat"]) == (None if only is None else said)


@pytest.mark.usefixtures("narrow_demo_recipe")
def test_evaluate_and_training_print_that_line(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(run_folder, ["cpu"])
    with torch.no_grad():
        for name, value in model.net.state_dict().items():
            if "fc8" in name:
                value.fill_(float(name.startswith("towers.1.fc8.b")))  # the last of the three classes
    save_model(run_folder, model)
    said = "all images are predicted to be class2, although they are of several classes"
    assert f"{run_folder}, centre crop: {said}" in run_cli("evaluate", run_folder).stderr
    monkeypatch.setattr(EvalResult, "warning", lambda *_: said)
    images, trained = run_folder.parent / "images", run_folder.parent / "trained"
    done = run_train("--data", images, "--recipe", "demo", "--max-steps", "1", "--output", trained)
    assert said in done.stdout
