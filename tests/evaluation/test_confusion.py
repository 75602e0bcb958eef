"""Counts of labels and predictions, compared with loops."""

from collections import Counter

import numpy as np
import torch

from alexnet_torch.evaluation.metrics import Confusion, Predictions, Scores


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
