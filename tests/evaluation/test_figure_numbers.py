"""What the figures measure: colourfulness, its permutation test and nearest vectors, against other computations."""

import numpy as np
import pytest
import torch
from scipy import stats

from alexnet_torch.evaluation.figures.filters import (
    WHITE_NOISE,
    colourfulness,
    colours_table,
    filter_colours,
    permutation_test,
)
from alexnet_torch.evaluation.figures.neighbours import nearest_vectors


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ([(1, 1, 1), (-2, -2, -2)], 0),
        ([(5, 5, 5)], 0),  # the mean is not removed: a smooth grey filter is grey
        ([(1, -1, 0), (0, 2, -2)], 1),
        ([(1, 0, -1), (1, 0, -1)], 1),  # and a colour blob is coloured
        ([(1, 0, 0)], 2 / 3),
        ([(3, 3, 3), (1, -1, 0)], 2 / 29),
        ([(0, 0, 0)], 0),
    ],
)
def test_the_colourfulness_of_known_filters(pixels: list[tuple[int, int, int]], expected: float) -> None:
    assert colourfulness(np.array(pixels, np.float32).T[None, :, None]) == pytest.approx(expected, abs=1e-12)


def test_p_is_scipys_for_two_and_three_groups_and_tiny_for_different_ones() -> None:
    random = np.random.default_rng(1)
    groups = [random.normal(size=20), random.normal(size=25) + 0.3, random.normal(size=15)]
    for some in (groups[:2], groups):
        reference = stats.permutation_test(
            some, lambda *g: stats.f_oneway(*g).statistic, permutation_type="independent", n_resamples=2000,
            alternative="greater", vectorized=False, rng=0,
        )  # fmt: skip
        assert permutation_test(some) == pytest.approx(reference.pvalue, abs=0.04)
    assert permutation_test([random.uniform(0, 0.2, 48), random.uniform(0.7, 1, 48)]) == 1 / 10_001


def test_the_table_has_a_line_for_each_tower_and_a_conclusion() -> None:
    random = np.random.default_rng(3)
    grey = torch.tensor(random.normal(size=(48, 1, 11, 11))).repeat(1, 3, 1, 1)
    noise = torch.tensor(random.normal(size=(48, 3, 11, 11)))
    lines = colours_table(filter_colours("conv1", [grey, noise - noise.mean(1, keepdim=True)])).splitlines()
    assert lines[2].split() == ["tower", "0", "48", "0.000", "0.000", "0.000", "0.000", "0.000"]
    assert lines[3].split() == ["tower", "1", "48", "1.000", "0.000", "1.000", "1.000", "1.000"]
    assert lines[4] == (
        "towers differ: difference of means 1.000, p = 0.0001 (two-sided permutation test, 10,000 permutations)"
    )
    similar = filter_colours("conv1", [noise[:24], noise[24:]])
    assert similar["towers"][0]["mean"] == pytest.approx(WHITE_NOISE, abs=0.02)
    assert "do not differ significantly" in similar["conclusion"]
    assert filter_colours("conv1", [noise])["conclusion"] == "one tower: nothing to compare"


def check_nearest(queries: np.ndarray, vectors: np.ndarray, size: int) -> None:
    """Compares with all distances at once, from differences; of equal ones a stable sort takes the first."""
    blocks = torch.tensor(vectors).split(size) if len(vectors) else []
    indices, distances = nearest_vectors(torch.tensor(queries), blocks, 6)
    differences = queries.astype(np.float64)[:, None] - vectors.astype(np.float64)[None]
    expected = np.sqrt((differences**2).sum(2))
    order = np.argsort(expected, axis=1, kind="stable")[:, :6]
    np.testing.assert_array_equal(indices, order)
    # the same float64 sums of squares, which differ only in the order of summation
    np.testing.assert_allclose(distances, np.take_along_axis(expected, order, axis=1), rtol=1e-13)


@pytest.mark.parametrize("size", [1, 5, 64, 1000])
def test_nearest_vectors_are_those_of_brute_force(size: int) -> None:
    random = np.random.default_rng(0)
    check_nearest(random.normal(size=(5, 33)).astype("f4"), random.normal(size=(300, 33)).astype("f4"), size)
    # few distinct vectors, each many times, as a dead layer outputs; small integers are exact
    distinct = random.integers(0, 3, (4, 20)).astype("f4")
    check_nearest(distinct[:3], distinct[random.integers(0, 4, 200)], size)
    for count in (0, 1, 4):
        check_nearest(random.normal(size=(2, 9)), random.normal(size=(count, 9)), size)


def test_near_duplicates_far_from_the_origin_are_ordered_correctly() -> None:
    """|q|^2 + |x|^2 - 2 q.x has an error of 1e-4 here, and the distances differ by 1e-6."""
    random = np.random.default_rng(3)
    centre = 1e5 * random.normal(size=200)
    order = random.permutation(50)
    vectors = centre + 1e-6 * (order[:, None] + 1) * np.eye(1, 200)
    indices, _ = nearest_vectors(torch.tensor(centre[None]), torch.tensor(vectors).split(7), 6)
    assert indices[0].tolist() == np.argsort(order)[:6].tolist()
