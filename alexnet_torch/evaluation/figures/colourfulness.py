"""How colour-specific filters are, and whether towers differ in it (the paper's remark on Figure 3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alexnet_torch.randomness import random_generator

WHITE_NOISE = 2 / 3
"""The colourfulness of independent random weights, as before training: two of three dimensions."""

PERMUTATIONS = 10_000


def colourfulness(weights: np.ndarray) -> np.ndarray:
    """Returns the fraction of each filter's energy in the chromatic plane, from 0 (grey) to 1.

    At each position a filter has one weight for each of R, G and B. This vector is the sum of a part along
    (1, 1, 1), which is equal in all channels and responds to brightness, and a part in the orthogonal plane,
    which sums to 0 and responds only to colour. The index is the squared length of the second part, summed over
    positions, divided by that of the vector. Equivalently: for white noise, independent in R, G and B, it is
    the fraction of the response's variance that vanishes if the noise is made grey.

    The filter's mean is not removed. Removing each channel's mean over positions would remove what makes a
    filter a colour blob: its channels have different means. The mean over all channels and positions is grey,
    and removing it would make smooth grey filters, for which it is most of the energy, look coloured.

    Noise that training leaves in a filter counts as colour, 2/3 of it: after a short training, and on grey
    images, which teach nothing about colour, the index shows how much of the initial weights remains.

    Args:
        weights: (filters, 3, height, width), channels R, G, B.

    Returns:
        (filters,) float64; 0 for a filter of zeros.
    """
    weights = weights.astype(np.float64)
    energy, grey = (weights**2).sum((1, 2, 3)), (weights.sum(1) ** 2).sum((1, 2)) / 3
    chromatic: np.ndarray = 1 - np.divide(grey, energy, out=np.ones_like(energy), where=energy > 0)
    return chromatic.clip(0, 1)


def pooled_colourfulness(weights: np.ndarray) -> float:
    """Returns the colourfulness of filters (filters, 3, height, width) together: strong ones count more than noise."""
    filters, channels, height, width = weights.shape
    combined = weights.transpose(1, 0, 2, 3).reshape(1, channels, filters * height, width)
    return float(colourfulness(combined)[0])


def permutation_test(groups: Sequence[np.ndarray], permutations: int = PERMUTATIONS, seed: int = 0) -> float:
    """Returns p: the probability that means differ at least as much if values are assigned to groups at random.

    The statistic is the sum of squares between groups, which for two groups orders permutations like the
    absolute difference of their means; the test is two-sided. Permutations are random, so that p has a
    standard error of sqrt(p (1 - p) / permutations); the observed groups count as one of them, so p is never 0.
    Filters of one network are trained together: p says whether this network's towers differ from a random
    division of its filters, and says nothing about other networks.

    Args:
        groups: two or more, each of (n,) values.
        permutations: number of random permutations.
        seed: of the permutations.
    """
    values = np.concatenate(groups)
    shuffled = np.tile(values, (permutations, 1))  # (permutations, n)
    random_generator(seed, "permutations").permuted(shuffled, axis=1, out=shuffled)
    sizes = [len(group) for group in groups]
    observed = _squares_between(values[None], sizes)[0]
    # sums in another order differ in their last bits
    at_least_observed = _squares_between(shuffled, sizes) >= observed * (1 - 1e-9)
    return float((1 + at_least_observed.sum()) / (1 + permutations))


def _squares_between(values: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Returns the sum of squares between consecutive groups of these sizes, for each row of (rows, n)."""
    groups = np.split(values, np.cumsum(sizes)[:-1], axis=1)
    offsets = [group.mean(1) - values.mean(1) for group in groups]
    total: np.ndarray = sum(size * offset**2 for size, offset in zip(sizes, offsets, strict=True))
    return total


@dataclass(frozen=True)
class TowerColourfulness:
    """The colourfulness of a stage's filters in each tower."""

    stage: str
    towers: tuple[np.ndarray, ...]  # (filters,) of each tower
    pooled: tuple[float, ...]  # of each tower's filters together
    p: float | None  # of `permutation_test` between towers; None for a single tower

    def table(self) -> str:
        """Returns a table with a line for each tower, then the conclusion."""
        lines = [f"colourfulness of {self.stage}'s filters (0 grey, 1 only colour, {WHITE_NOISE:.2f} white noise)"]
        lines.append(f"{'':8}{'filters':>8}{'mean':>8}{'sd':>8}{'min':>8}{'max':>8}{'pooled by energy':>18}")
        for index, (values, pooled) in enumerate(zip(self.towers, self.pooled, strict=True)):
            numbers = f"{values.mean():8.3f}{values.std():8.3f}{values.min():8.3f}{values.max():8.3f}"
            lines.append(f"{f'tower {index}':8}{len(values):8}{numbers}{pooled:18.3f}")
        return "\n".join((*lines, self.conclusion()))

    def conclusion(self) -> str:
        """Returns a sentence: whether the towers differ, with p and the test."""
        if self.p is None:
            return "one tower: nothing to compare"
        means = [values.mean() for values in self.towers]
        differ = "differ" if self.p < 0.05 else "do not differ significantly"
        return (
            f"towers {differ}: difference of means {max(means) - min(means):.3f}, p = {self.p:.4f} "
            f"(two-sided permutation test, {PERMUTATIONS:,} permutations)"
        )

    def json_values(self) -> dict[str, object]:
        """Returns all values as JSON values by name."""
        towers = [
            {"tower": index, "mean": values.mean(), "sd": values.std(), "pooled": pooled, "filters": values.tolist()}
            for index, (values, pooled) in enumerate(zip(self.towers, self.pooled, strict=True))
        ]
        return {"stage": self.stage, "towers": towers, "p": self.p, "permutations": PERMUTATIONS}


def tower_colourfulness(stage: str, weights: Sequence[np.ndarray]) -> TowerColourfulness:
    """Computes the colourfulness of a stage from the weights of each tower, (filters, 3, height, width) RGB."""
    towers = tuple(colourfulness(tower) for tower in weights)
    pooled = tuple(pooled_colourfulness(tower) for tower in weights)
    return TowerColourfulness(stage, towers, pooled, permutation_test(towers) if len(towers) > 1 else None)
