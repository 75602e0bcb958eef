"""Counts of labels and guesses, compared with scikit-learn and with loops."""

from collections import Counter

import numpy as np
import torch
from sklearn.metrics import confusion_matrix

from alexnet_torch.evaluation.confusion import ConfusedPair, Confusion


def random_batch(n: int, labels: int, guesses: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    draw = (torch.randint(0, high, (n,), generator=generator) for high in (labels, guesses))
    return next(draw), next(draw)


def test_counts_equal_scikit_learns() -> None:
    confusion = Confusion.square(6)
    batches = [random_batch(n, 6, 6) for n in (40, 1, 13)]
    for labels, guesses in batches:
        confusion.add(labels, guesses)
    all_labels, all_guesses = (torch.cat(each).numpy() for each in zip(*batches, strict=True))
    expected = confusion_matrix(all_labels, all_guesses, labels=range(6))
    assert np.array_equal(confusion.counts, expected)
    assert confusion.images.tolist() == [np.sum(all_labels == label) for label in range(6)]
    errors = [np.mean(all_guesses[all_labels == label] != label) for label in range(6)]
    np.testing.assert_allclose(confusion.class_errors(), errors)


def test_a_set_with_some_of_the_classes_has_a_row_for_each_and_a_column_for_all() -> None:
    confusion = Confusion(np.array([4, 1]), 5)
    confusion.add(torch.tensor([0, 0, 0, 1]), torch.tensor([4, 1, 0, 1]))
    assert confusion.counts.tolist() == [[1, 1, 0, 0, 1], [0, 1, 0, 0, 0]]
    np.testing.assert_allclose(confusion.class_errors(), [2 / 3, 0])


def test_a_class_without_images_has_no_error() -> None:
    confusion = Confusion.square(2)
    confusion.add(torch.tensor([1]), torch.tensor([0]))
    assert np.isnan(confusion.class_errors()[0])
    assert confusion.class_errors()[1] == 1


def test_the_most_confused_pairs_come_first() -> None:
    confusion = Confusion(np.array([2, 0, 3]), 4)
    labels, guesses = random_batch(200, 3, 4)
    confusion.add(labels, guesses)
    pairs = Counter(zip(labels.tolist(), guesses.tolist(), strict=True))
    wrong = [(-count, label, guess) for (label, guess), count in pairs.items() if guess != (2, 0, 3)[label]]
    expected = [ConfusedPair(label, guess, -count) for count, label, guess in sorted(wrong)]
    assert len(expected) == 9
    assert confusion.most_confused() == expected
    assert confusion.most_confused(2) == expected[:2]


def test_without_errors_no_pair_is_confused() -> None:
    confusion = Confusion.square(3)
    confusion.add(torch.arange(3), torch.arange(3))
    assert confusion.most_confused() == []
