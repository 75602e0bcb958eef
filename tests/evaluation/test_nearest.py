"""Nearest neighbours in blocks, against brute force in float64."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from alexnet_torch.evaluation.figures.nearest import nearest


def brute_force(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """All distances at once, from differences; a stable sort takes the first of equals."""
    differences = queries.astype(np.float64)[:, None] - vectors.astype(np.float64)[None]
    distances = np.sqrt((differences**2).sum(2))
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(distances, order, axis=1)


def blocks(vectors: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for first in range(0, len(vectors), size):
        yield vectors[first : first + size]


def check(queries: np.ndarray, vectors: np.ndarray, size: int, k: int = 6) -> None:
    found = nearest(queries, blocks(vectors, size), k)
    indices, distances = brute_force(queries, vectors, k)
    np.testing.assert_array_equal(found.indices, indices)
    # the same float64 sums of squares, so equal but for the order of summation
    np.testing.assert_allclose(found.distances, distances, rtol=1e-13)


@pytest.mark.parametrize("size", [1, 5, 64, 1000])
def test_it_is_brute_force(size: int) -> None:
    random = np.random.default_rng(0)
    check(random.normal(size=(5, 33)).astype(np.float32), random.normal(size=(300, 33)).astype(np.float32), size)


@pytest.mark.parametrize("size", [1, 5, 7, 64, 1000])
def test_of_equally_near_ones_the_first_come_first(size: int) -> None:
    """Few distinct vectors many times over, as an untrained or dead layer puts out; small integers are exact."""
    random = np.random.default_rng(1)
    distinct = random.integers(0, 3, (4, 20)).astype(np.float32)
    vectors = distinct[random.integers(0, 4, 200)]
    check(distinct[:3], vectors, size)
    check(random.normal(size=(3, 20)).astype(np.float32), vectors, size)


def test_equal_vectors_tie_wherever_they_lie_in_a_block() -> None:
    """Matrix products round differently at a block's edges; distances must not."""
    random = np.random.default_rng(2)
    one = (100 * random.normal(size=4096)).astype(np.float32)
    vectors = np.tile(one, (203, 1))
    found = nearest((100 * random.normal(size=(3, 4096))).astype(np.float32), blocks(vectors, 67), 6)
    np.testing.assert_array_equal(found.indices, np.tile(np.arange(6), (3, 1)))
    assert (found.distances == found.distances[:, :1]).all()


def test_near_duplicates_far_from_the_origin_are_told_apart() -> None:
    """|q|^2 + |x|^2 - 2 q.x alone would be off by 1e-4 here, and the distances are 1e-6 apart."""
    random = np.random.default_rng(3)
    centre = 1e5 * random.normal(size=200)
    order = random.permutation(50)
    vectors = centre + 1e-6 * (order[:, None] + 1) * np.eye(1, 200)
    products = (vectors**2).sum(1) + (centre**2).sum() - 2 * vectors @ centre
    assert np.argsort(products, kind="stable").tolist() != np.argsort(order).tolist()
    found = nearest(centre[None], blocks(vectors, 7), 6)
    assert found.indices[0].tolist() == np.argsort(order)[:6].tolist()


def test_a_vector_is_at_no_distance_from_itself() -> None:
    vectors = np.random.default_rng(4).normal(size=(20, 8)).astype(np.float32)
    found = nearest(vectors, blocks(vectors, 6), 1)
    assert found.indices[:, 0].tolist() == list(range(20))
    assert (found.distances == 0).all()


@pytest.mark.parametrize("n", [0, 1, 4])
def test_fewer_vectors_than_wanted(n: int) -> None:
    random = np.random.default_rng(5)
    check(random.normal(size=(2, 9)), random.normal(size=(n, 9)), 3)


def peak(count: int) -> int:
    """Bytes allocated at most, over `count` blocks of 64 vectors of 512 numbers (0.13 MB each)."""

    def made() -> Iterator[np.ndarray]:
        for i in range(count):
            yield np.random.default_rng(i).normal(size=(64, 512)).astype(np.float32)

    tracemalloc.start()
    try:
        found = nearest(np.zeros((8, 512), np.float32), made(), 6)
        assert found.indices.max() < 64 * count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_vectors() -> None:
    """Ten times as many vectors; all together they would be 13 MB."""
    few, many = peak(10), peak(100)
    assert many < 1.05 * few
    assert many < 2.5e6
