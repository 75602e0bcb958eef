"""The nearest of very many vectors, which come in blocks and are never in memory together."""

from collections.abc import Iterable

import numpy as np


def nearest_vectors(queries: np.ndarray, blocks: Iterable[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k nearest vectors of all blocks to each query, by Euclidean distance in float64.

    A block's squared distances |q|^2 + |x|^2 - 2 q.x are one matrix product, but its rounding is too coarse
    to order almost equal ones: it only excludes vectors that cannot be among the k nearest. The distances of the
    others are computed from differences, so that equal vectors have equal distances. Memory holds one block
    and 2 k numbers for each query.

    Args:
        queries: (queries, d), of any floating-point type.
        blocks: (n, d) each, of any n.
        k: at least 1.

    Returns:
        indices (queries, k) int64 in the order of all blocks, and distances (queries, k) float64, nearest first, of
        equally near vectors in the blocks' order; k is smaller if there were fewer vectors.
    """
    queries = queries.astype(np.float64)
    best_squared, best_indices = np.full((len(queries), k), np.inf), np.zeros((len(queries), k), np.int64)
    seen = 0
    for block in blocks:
        vectors = block.astype(np.float64)
        for row, candidates in enumerate(_candidates(queries, vectors, best_squared[:, -1], k)):
            exact = ((vectors[candidates] - queries[row]) ** 2).sum(1)
            squared = np.concatenate((best_squared[row], exact))
            indices = np.concatenate((best_indices[row], candidates + seen))
            order = np.argsort(squared, kind="stable")[:k]  # earlier vectors come first among equals
            best_squared[row], best_indices[row] = squared[order], indices[order]
        seen += len(vectors)
    count = min(k, seen)
    return best_indices[:, :count], np.sqrt(best_squared[:, :count])


def _candidates(queries: np.ndarray, vectors: np.ndarray, limits: np.ndarray, k: int) -> list[np.ndarray]:
    """Returns for each query the rows of a block, ascending, that may be among the k nearest vectors.

    `limits` (queries,) are the squared distances of the k-th nearest vectors so far.
    """
    query_norms, norms = (queries**2).sum(1)[:, None], (vectors**2).sum(1)  # squared: (queries, 1), (n,)
    squared = query_norms + norms - 2 * (queries @ vectors.T)  # (queries, n)
    # twice the largest error of sums of d products, in any order (Higham, 2002, section 3.1)
    slack = 8 * queries.shape[1] * np.finfo(np.float64).eps * (query_norms + norms)
    lower, upper = squared - slack, squared + slack
    if len(vectors) >= k:
        limits = np.minimum(limits, np.partition(upper, k - 1, axis=1)[:, k - 1])
    return [np.flatnonzero(row <= limit) for row, limit in zip(lower, limits, strict=True)]
