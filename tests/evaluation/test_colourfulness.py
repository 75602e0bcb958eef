"""The colourfulness index and the permutation test, compared with definitions and other implementations."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from alexnet_torch.evaluation.figures.colourfulness import (
    WHITE_NOISE,
    colourfulness,
    permutation_test,
    pooled_colourfulness,
    tower_colourfulness,
)


def make_filter(*pixels: tuple[float, float, float]) -> np.ndarray:
    """(1, 3, 1, n) weights with the RGB of n positions."""
    return np.array(pixels, np.float32).T[None, :, None, :]


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        (make_filter((1, 1, 1), (-2, -2, -2)), 0),
        (make_filter((5, 5, 5)), 0),  # the mean is not removed: a smooth grey filter is grey
        (make_filter((1, -1, 0), (0, 2, -2)), 1),
        (make_filter((1, 0, -1), (1, 0, -1)), 1),  # and a colour blob is coloured
        (make_filter((1, 0, 0)), 2 / 3),
        (make_filter((3, 3, 3), (1, -1, 0)), 2 / 29),
        (make_filter((0, 0, 0)), 0),
    ],
)
def test_known_filters(filter_: np.ndarray, expected: float) -> None:
    assert colourfulness(filter_) == pytest.approx(expected, abs=1e-12)
    assert pooled_colourfulness(filter_) == pytest.approx(expected, abs=1e-12)


def test_it_is_the_energy_after_projection_onto_the_chromatic_plane() -> None:
    w = np.random.default_rng(0).normal(size=(7, 3, 11, 11))
    grey = np.ones((3, 3)) / 3
    chromatic = np.einsum("cd,ndhw->nchw", np.eye(3) - grey, w)
    fractions = (chromatic**2).sum((1, 2, 3)) / (w**2).sum((1, 2, 3))
    np.testing.assert_allclose(colourfulness(w), fractions, rtol=1e-12)
    assert pooled_colourfulness(w) == pytest.approx((chromatic**2).sum() / (w**2).sum())
    np.testing.assert_allclose(colourfulness(-17 * w), fractions, rtol=1e-12)


def test_it_is_the_fraction_of_the_response_to_white_noise_that_grey_noise_lacks() -> None:
    random = np.random.default_rng(0)
    w = random.normal(size=(1, 3, 2, 2)) + 0.7
    noise = random.normal(size=(200_000, 3, 2, 2))
    grey = np.broadcast_to(noise.mean(1, keepdims=True), noise.shape)
    variance, grey_variance = (np.einsum("nchw,chw->n", x, w[0]).var() for x in (noise, grey))
    # the sample variances have an error of 0.5%
    assert colourfulness(w)[0] == pytest.approx(1 - grey_variance / variance, abs=0.01)


def test_untrained_filters_have_the_index_of_white_noise() -> None:
    w = np.random.default_rng(0).normal(size=(500, 3, 11, 11))
    assert colourfulness(w).mean() == pytest.approx(WHITE_NOISE, abs=0.005)


def test_p_equals_a_count_of_all_permutations() -> None:
    random = np.random.default_rng(0)
    groups = [random.normal(size=5), random.normal(size=4) + 0.8]
    values = np.concatenate(groups)

    def difference(first: tuple[int, ...]) -> float:
        return abs(float(values[list(first)].mean() - np.delete(values, first).mean()))

    differences = [difference(first) for first in combinations(range(9), 5)]
    exact = float(np.mean([difference(tuple(range(5))) <= other + 1e-12 for other in differences]))
    assert 0.02 < exact < 0.5
    # the standard error over 10,000 permutations is at most 0.005
    assert permutation_test(groups) == pytest.approx(exact, abs=0.02)


def test_p_equals_scipys_for_three_groups() -> None:
    random = np.random.default_rng(1)
    groups = [random.normal(size=20), random.normal(size=25) + 0.3, random.normal(size=15)]
    reference = stats.permutation_test(
        groups, lambda *g: stats.f_oneway(*g).statistic, permutation_type="independent", n_resamples=2000,
        alternative="greater", vectorized=False, rng=0,
    )  # fmt: skip
    assert permutation_test(groups) == pytest.approx(reference.pvalue, abs=0.04)


def test_p_is_uniform_for_similar_towers_and_tiny_for_different_ones() -> None:
    random = np.random.default_rng(2)
    similar = [permutation_test([random.normal(size=24), random.normal(size=24)], 400, seed) for seed in range(100)]
    assert stats.kstest(similar, "uniform").pvalue > 0.01
    different = [random.uniform(0, 0.2, 48), random.uniform(0.7, 1, 48)]
    assert permutation_test(different) == 1 / 10_001


def test_the_table_has_a_line_for_each_tower_and_a_conclusion() -> None:
    random = np.random.default_rng(3)
    grey = np.repeat(random.normal(size=(48, 1, 11, 11)), 3, axis=1)
    coloured = random.normal(size=(48, 3, 11, 11))
    colours = tower_colourfulness("conv1", [grey, coloured - coloured.mean(1, keepdims=True)])
    lines = colours.table().splitlines()
    assert lines[2].split() == ["tower", "0", "48", "0.000", "0.000", "0.000", "0.000", "0.000"]
    assert lines[3].split() == ["tower", "1", "48", "1.000", "0.000", "1.000", "1.000", "1.000"]
    assert lines[4].startswith(
        "towers differ: difference of means 1.000, p = 0.0001 (two-sided permutation test, 10,000"
    )
    similar = tower_colourfulness("conv1", [coloured[:24], coloured[24:]])
    assert "do not differ significantly" in similar.conclusion()
    assert tower_colourfulness("conv1", [coloured]).conclusion() == "one tower: nothing to compare"
