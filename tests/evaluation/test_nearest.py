"""Nearest vectors, found block by block, compared with brute force in float64."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from alexnet_torch.evaluation.figures.nearest import nearest_vectors


def brute_force(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """All distances at once, from differences; of equal ones a stable sort takes the first."""
    differences = queries.astype(np.float64)[:, None] - vectors.astype(np.float64)[None]
    distances = np.sqrt((differences**2).sum(2))
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(distances, order, axis=1)


def split_blocks(vectors: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for first in range(0, len(vectors), size):
        yield vectors[first : first + size]


def check_against_brute_force(queries: np.ndarray, vectors: np.ndarray, size: int, k: int = 6) -> None:
    indices, distances = nearest_vectors(queries, split_blocks(vectors, size), k)
    expected_indices, expected_distances = brute_force(queries, vectors, k)
    np.testing.assert_array_equal(indices, expected_indices)
    # the same float64 sums of squares, which differ only in the order of summation
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-13)


@pytest.mark.parametrize("size", [1, 5, 64, 1000])
def test_result_equals_brute_force(size: int) -> None:
    random = np.random.default_rng(0)
    check_against_brute_force(
        random.normal(size=(5, 33)).astype(np.float32), random.normal(size=(300, 33)).astype(np.float32), size
    )


@pytest.mark.parametrize("size", [1, 5, 7, 64, 1000])
def test_of_equally_near_vectors_the_first_comes_first(size: int) -> None:
    """Few distinct vectors, each many times, as an untrained or dead layer outputs; small integers are exact."""
    random = np.random.default_rng(1)
    distinct = random.integers(0, 3, (4, 20)).astype(np.float32)
    vectors = distinct[random.integers(0, 4, 200)]
    check_against_brute_force(distinct[:3], vectors, size)
    check_against_brute_force(random.normal(size=(3, 20)).astype(np.float32), vectors, size)


def test_equal_vectors_have_equal_distances_at_any_position_in_a_block() -> None:
    """Matrix products round differently at a block's edges; distances must not."""
    random = np.random.default_rng(2)
    vector = (100 * random.normal(size=4096)).astype(np.float32)
    vectors = np.tile(vector, (203, 1))
    queries = (100 * random.normal(size=(3, 4096))).astype(np.float32)
    indices, distances = nearest_vectors(queries, split_blocks(vectors, 67), 6)
    np.testing.assert_array_equal(indices, np.tile(np.arange(6), (3, 1)))
    assert (distances == distances[:, :1]).all()


def test_near_duplicates_far_from_the_origin_are_ordered_correctly() -> None:
    """|q|^2 + |x|^2 - 2 q.x has an error of 1e-4 here, and the distances differ by 1e-6."""
    random = np.random.default_rng(3)
    centre = 1e5 * random.normal(size=200)
    order = random.permutation(50)
    vectors = centre + 1e-6 * (order[:, None] + 1) * np.eye(1, 200)
    products = (vectors**2).sum(1) + (centre**2).sum() - 2 * vectors @ centre
    assert np.argsort(products, kind="stable").tolist() != np.argsort(order).tolist()
    indices, _ = nearest_vectors(centre[None], split_blocks(vectors, 7), 6)
    assert indices[0].tolist() == np.argsort(order)[:6].tolist()


def test_the_distance_of_a_vector_from_itself_is_zero() -> None:
    vectors = np.random.default_rng(4).normal(size=(20, 8)).astype(np.float32)
    indices, distances = nearest_vectors(vectors, split_blocks(vectors, 6), 1)
    assert indices[:, 0].tolist() == list(range(20))
    assert (distances == 0).all()


@pytest.mark.parametrize("n", [0, 1, 4])
def test_fewer_vectors_than_wanted(n: int) -> None:
    random = np.random.default_rng(5)
    check_against_brute_force(random.normal(size=(2, 9)), random.normal(size=(n, 9)), 3)


def peak_memory(count: int) -> int:
    """Largest number of allocated bytes for `count` blocks of 64 vectors of 512 numbers (0.13 MB each)."""

    def random_blocks() -> Iterator[np.ndarray]:
        for i in range(count):
            yield np.random.default_rng(i).normal(size=(64, 512)).astype(np.float32)

    tracemalloc.start()
    try:
        indices, _ = nearest_vectors(np.zeros((8, 512), np.float32), random_blocks(), 6)
        assert indices.max() < 64 * count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_vectors() -> None:
    """Ten times as many vectors; all of them together need 13 MB."""
    few, many = peak_memory(10), peak_memory(100)
    assert many < 1.05 * few
    assert many < 2.5e6
