"""How colour-specific filters are, and whether towers differ in it (the paper's remark on Figure 3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alexnet_torch.randomness import stream

WHITE_NOISE = 2 / 3
"""The colourfulness of weights drawn independently, as before training: two of three dimensions."""

PERMUTATIONS = 10_000


def colourfulness(weights: np.ndarray) -> np.ndarray:
    """The share of each filter's energy that lies in the chromatic plane, from 0 (grey) to 1.

    At each position a filter has one weight for each of R, G and B: a vector, which splits into a part along
    (1, 1, 1), the same in all channels, and a part in the plane orthogonal to it, which sums to 0. The
    first answers to brightness, the second to colour alone. The index is the squared length of the second,
    summed over positions, over that of the whole. Equivalently: fed with white noise, independent in R,
    G and B, it is the share of the response's variance that vanishes if the noise is made grey.

    The filter's mean is left in. Taking each channel's mean over positions away would take what makes a
    colour blob one: that its channels' means differ. The mean over all channels and positions is grey,
    and taking it away would make smooth grey filters, for which it is most of the energy, look coloured.

    Noise that training leaves in a filter counts as colour, 2/3 of it: after a short training, and on grey
    images, which teach nothing of colour, the index says how much of the initial weights is left.

    Args:
        weights: (filters, 3, height, width), channels R, G, B.

    Returns:
        (filters,) float64; 0 for a filter of zeros.
    """
    w = weights.astype(np.float64)
    energy, grey = (w**2).sum((1, 2, 3)), (w.sum(1) ** 2).sum((1, 2)) / 3
    chromatic: np.ndarray = 1 - np.divide(grey, energy, out=np.ones_like(energy), where=energy > 0)
    return chromatic.clip(0, 1)


def pooled_colourfulness(weights: np.ndarray) -> float:
    """The same of a tower's filters together: strong filters count for more, and noise for little.

    Args:
        weights: (filters, 3, height, width).
    """
    filters, channels, height, width = weights.shape
    one = weights.transpose(1, 0, 2, 3).reshape(1, channels, filters * height, width)
    return float(colourfulness(one)[0])


def permutation_test(groups: Sequence[np.ndarray], permutations: int = PERMUTATIONS, seed: int = 0) -> float:
    """The probability that groups differ as much in their means if values were dealt to them at random.

    The statistic is the sum of squares between groups, which for two of them orders permutations as the
    absolute difference of their means does; the test is two-sided. The permutations are drawn, so that p has a
    standard error of sqrt(p (1 - p) / permutations); what is observed counts as one of them, so p is never 0.
    Filters of one network learned together: p says whether this network's towers are unlike a random
    division of its filters, and nothing of other networks.

    Args:
        groups: two or more, each of (n,) values.
        permutations: drawn.
        seed: of the drawing.
    """
    values = np.concatenate(groups)
    shuffled = np.tile(values, (permutations, 1))  # (permutations, n)
    stream(seed, "permutations").permuted(shuffled, axis=1, out=shuffled)
    sizes = [len(group) for group in groups]
    observed = _between(values[None], sizes)[0]
    # sums in another order differ in their last bits
    as_much = _between(shuffled, sizes) >= observed * (1 - 1e-9)
    return float((1 + as_much.sum()) / (1 + permutations))


def _between(values: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """The sum of squares between consecutive groups of these sizes, for each row of (rows, n)."""
    parts = np.split(values, np.cumsum(sizes)[:-1], axis=1)
    offsets = [part.mean(1) - values.mean(1) for part in parts]
    total: np.ndarray = sum(size * offset**2 for size, offset in zip(sizes, offsets, strict=True))
    return total


@dataclass(frozen=True)
class TowerColours:
    """The colourfulness of a stage's filters, tower by tower.

    Attributes:
        stage: its name.
        towers: (filters,) of each tower.
        pooled: of each tower's filters together.
        p: of `permutation_test` between towers; None where there is one tower.
    """

    stage: str
    towers: tuple[np.ndarray, ...]
    pooled: tuple[float, ...]
    p: float | None

    def table(self) -> str:
        """What is printed: a line a tower, and whether they differ."""
        lines = [f"colourfulness of {self.stage}'s filters (0 grey, 1 colour alone, {WHITE_NOISE:.2f} white noise)"]
        lines.append(f"{'':8}{'filters':>8}{'mean':>8}{'sd':>8}{'least':>8}{'most':>8}{'pooled by energy':>18}")
        for index, (values, pooled) in enumerate(zip(self.towers, self.pooled, strict=True)):
            numbers = f"{values.mean():8.3f}{values.std():8.3f}{values.min():8.3f}{values.max():8.3f}"
            lines.append(f"{f'tower {index}':8}{len(values):8}{numbers}{pooled:18.3f}")
        return "\n".join((*lines, self.verdict()))

    def verdict(self) -> str:
        """Whether the towers differ, with p and how it was found."""
        if self.p is None:
            return "one tower: nothing to compare"
        means = [values.mean() for values in self.towers]
        differ = "differ" if self.p < 0.05 else "do not differ demonstrably"
        return (
            f"towers {differ}: means apart by {max(means) - min(means):.3f}, p = {self.p:.4f} "
            f"(two-sided permutation test, {PERMUTATIONS:,} permutations)"
        )

    def described(self) -> dict[str, object]:
        """All of it as JSON values."""
        towers = [
            {
                "tower": index,
                "mean": values.mean(),
                "sd": values.std(),
                "pooled": pooled,
                "filters": values.tolist(),
            }
            for index, (values, pooled) in enumerate(zip(self.towers, self.pooled, strict=True))
        ]
        return {"stage": self.stage, "towers": towers, "p": self.p, "permutations": PERMUTATIONS}


def measure(stage: str, weights: Sequence[np.ndarray]) -> TowerColours:
    """The colourfulness of a stage that reads RGB images.

    Args:
        stage: its name.
        weights: of each tower, (filters, 3, height, width).
    """
    towers = tuple(colourfulness(tower) for tower in weights)
    pooled = tuple(pooled_colourfulness(tower) for tower in weights)
    return TowerColours(stage, towers, pooled, permutation_test(towers) if len(towers) > 1 else None)
