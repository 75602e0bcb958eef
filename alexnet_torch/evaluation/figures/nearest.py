"""The nearest of very many vectors, which come in blocks and are never held together."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Neighbours:
    """The nearest vectors of each query, nearest first; of equally near ones the first to come is first.

    Attributes:
        indices: (queries, k) int64, in the order in which they came; k is less where there were fewer.
        distances: (queries, k) float64, Euclidean.
    """

    indices: np.ndarray
    distances: np.ndarray


def nearest(queries: np.ndarray, blocks: Iterable[np.ndarray], k: int) -> Neighbours:
    """The k nearest of all blocks' vectors to each query, by Euclidean distance in float64.

    A block's squared distances |q|^2 + |x|^2 - 2 q.x are one matrix product, whose rounding is too coarse
    to order near-equal ones: it only rules out what cannot be among the k nearest. The others'
    distances are taken from the differences, so that equal vectors are equally far. Memory holds a block at
    a time, and 2 k numbers a query.

    Args:
        queries: (queries, d), of any floating-point type.
        blocks: (n, d) each, of any n.
        k: at least 1.
    """
    q = queries.astype(np.float64)
    best_d, best_i = np.full((len(q), k), np.inf), np.zeros((len(q), k), np.int64)  # squared distances
    seen = 0
    for block in blocks:
        x = block.astype(np.float64)
        for row, candidates in enumerate(_candidates(q, x, best_d[:, -1], k)):
            exact = ((x[candidates] - q[row]) ** 2).sum(1)
            distances = np.concatenate((best_d[row], exact))
            indices = np.concatenate((best_i[row], candidates + seen))
            order = np.argsort(distances, kind="stable")[:k]  # earlier ones come first among equals
            best_d[row], best_i[row] = distances[order], indices[order]
        seen += len(x)
    found = min(k, seen)
    return Neighbours(best_i[:, :found], np.sqrt(best_d[:, :found]))


def _candidates(q: np.ndarray, x: np.ndarray, limits: np.ndarray, k: int) -> list[np.ndarray]:
    """For each query, ascending, the rows of a block that may be among the k nearest.

    Args:
        q: (queries, d) float64.
        x: (n, d) float64.
        limits: (queries,) squared distance of the k-th nearest so far.
        k: how many are wanted.
    """
    q2, x2 = (q * q).sum(1)[:, None], (x * x).sum(1)  # (queries, 1), (n,)
    squared = q2 + x2 - 2 * (q @ x.T)  # (queries, n)
    # the most by which sums of d products, in any order, can be off (Higham, 2002, section 3.1), twice over
    slack = 8 * q.shape[1] * np.finfo(np.float64).eps * (q2 + x2)
    lower, upper = squared - slack, squared + slack
    if len(x) >= k:
        limits = np.minimum(limits, np.partition(upper, k - 1, axis=1)[:, k - 1])
    return [np.flatnonzero(row <= limit) for row, limit in zip(lower, limits, strict=True)]
