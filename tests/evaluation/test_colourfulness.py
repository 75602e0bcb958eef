"""The colourfulness index and the test between towers, against definitions and other implementations."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from alexnet_torch.evaluation.figures.colourfulness import (
    WHITE_NOISE,
    colourfulness,
    measure,
    permutation_test,
    pooled_colourfulness,
)


def filters(*pixels: tuple[float, float, float]) -> np.ndarray:
    """(1, 3, 1, n) of n positions' RGB."""
    return np.array(pixels, np.float32).T[None, :, None, :]


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        (filters((1, 1, 1), (-2, -2, -2)), 0),
        (filters((5, 5, 5)), 0),  # the mean stays in: a smooth grey filter is grey
        (filters((1, -1, 0), (0, 2, -2)), 1),
        (filters((1, 0, -1), (1, 0, -1)), 1),  # and a colour blob is coloured
        (filters((1, 0, 0)), 2 / 3),
        (filters((3, 3, 3), (1, -1, 0)), 2 / 29),
        (filters((0, 0, 0)), 0),
    ],
)
def test_known_filters(filter_: np.ndarray, expected: float) -> None:
    assert colourfulness(filter_) == pytest.approx(expected, abs=1e-12)
    assert pooled_colourfulness(filter_) == pytest.approx(expected, abs=1e-12)


def test_it_is_the_energy_after_projection_on_the_chromatic_plane() -> None:
    w = np.random.default_rng(0).normal(size=(7, 3, 11, 11))
    grey = np.ones((3, 3)) / 3
    chromatic = np.einsum("cd,ndhw->nchw", np.eye(3) - grey, w)
    shares = (chromatic**2).sum((1, 2, 3)) / (w**2).sum((1, 2, 3))
    np.testing.assert_allclose(colourfulness(w), shares, rtol=1e-12)
    assert pooled_colourfulness(w) == pytest.approx((chromatic**2).sum() / (w**2).sum())
    np.testing.assert_allclose(colourfulness(-17 * w), shares, rtol=1e-12)


def test_it_is_the_share_of_the_response_to_white_noise_that_grey_noise_lacks() -> None:
    random = np.random.default_rng(0)
    w = random.normal(size=(1, 3, 2, 2)) + 0.7
    noise = random.normal(size=(200_000, 3, 2, 2))
    grey = np.broadcast_to(noise.mean(1, keepdims=True), noise.shape)
    variance, of_grey = (np.einsum("nchw,chw->n", x, w[0]).var() for x in (noise, grey))
    # the sample variances are known to 0.5%
    assert colourfulness(w)[0] == pytest.approx(1 - of_grey / variance, abs=0.01)


def test_untrained_filters_are_white_noise() -> None:
    w = np.random.default_rng(0).normal(size=(500, 3, 11, 11))
    assert colourfulness(w).mean() == pytest.approx(WHITE_NOISE, abs=0.005)


def test_p_is_that_of_all_permutations_counted() -> None:
    random = np.random.default_rng(0)
    groups = [random.normal(size=5), random.normal(size=4) + 0.8]
    values = np.concatenate(groups)

    def apart(first: tuple[int, ...]) -> float:
        return abs(float(values[list(first)].mean() - np.delete(values, first).mean()))

    splits = [apart(first) for first in combinations(range(9), 5)]
    exact = float(np.mean([apart(tuple(range(5))) <= split + 1e-12 for split in splits]))
    assert 0.02 < exact < 0.5
    # the standard error over 10,000 permutations is at most 0.005
    assert permutation_test(groups) == pytest.approx(exact, abs=0.02)


def test_p_is_scipys_also_for_three_groups() -> None:
    random = np.random.default_rng(1)
    groups = [random.normal(size=20), random.normal(size=25) + 0.3, random.normal(size=15)]
    theirs = stats.permutation_test(
        groups, lambda *g: stats.f_oneway(*g).statistic, permutation_type="independent", n_resamples=2000,
        alternative="greater", vectorized=False, rng=0,
    )  # fmt: skip
    assert permutation_test(groups) == pytest.approx(theirs.pvalue, abs=0.04)


def test_p_is_uniform_where_towers_are_alike_and_tiny_where_they_are_not() -> None:
    random = np.random.default_rng(2)
    alike = [permutation_test([random.normal(size=24), random.normal(size=24)], 400, seed) for seed in range(100)]
    assert stats.kstest(alike, "uniform").pvalue > 0.01
    apart = [random.uniform(0, 0.2, 48), random.uniform(0.7, 1, 48)]
    assert permutation_test(apart) == 1 / 10_001


def test_the_table_has_a_line_a_tower_and_a_verdict() -> None:
    random = np.random.default_rng(3)
    grey = np.repeat(random.normal(size=(48, 1, 11, 11)), 3, axis=1)
    coloured = random.normal(size=(48, 3, 11, 11))
    colours = measure("conv1", [grey, coloured - coloured.mean(1, keepdims=True)])
    lines = colours.table().splitlines()
    assert lines[2].split() == ["tower", "0", "48", "0.000", "0.000", "0.000", "0.000", "0.000"]
    assert lines[3].split() == ["tower", "1", "48", "1.000", "0.000", "1.000", "1.000", "1.000"]
    assert lines[4].startswith("towers differ: means apart by 1.000, p = 0.0001 (two-sided permutation test, 10,000")
    alike = measure("conv1", [coloured[:24], coloured[24:]])
    assert "do not differ demonstrably" in alike.verdict()
    assert measure("conv1", [coloured]).verdict() == "one tower: nothing to compare"
