"""The paper's Figure 3: the first stage's filters by tower, and how colour-specific they are."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from alexnet_torch.console import text_table
from alexnet_torch.evaluation.figures import filter_grid
from alexnet_torch.evaluation.figures.style import BLUE, MARKERS, PALETTE, Axes, Figure, printable_name, styled
from alexnet_torch.randomness import random_generator

WHITE_NOISE = 2 / 3  # the colourfulness of independent random weights: two of three dimensions
PERMUTATIONS = 10_000
COLUMNS = 16  # three rows for each tower, as in the paper


def colourfulness(weights: np.ndarray) -> np.ndarray:
    """Returns what of each filter's energy is orthogonal to grey, 0 to 1, of (filters, 3, height, width).

    The mean is not removed: a colour blob's channels have different means.
    """
    weights = weights.astype(np.float64)
    energy, grey = (weights**2).sum((1, 2, 3)), (weights.sum(1) ** 2).sum((1, 2)) / 3
    chromatic: np.ndarray = 1 - np.divide(grey, energy, out=np.ones_like(energy), where=energy > 0)
    return chromatic.clip(0, 1)


def permutation_test(groups: Sequence[np.ndarray], permutations: int = PERMUTATIONS) -> float:
    """Returns p: how probable as different means of groups are if values are assigned at random."""
    # not scipy.stats, whose import takes a second of each run's page
    values, ends = np.concatenate(groups)[None], np.cumsum([len(group) for group in groups])[:-1]
    shuffled = random_generator(0, "permutations").permuted(values.repeat(permutations, 0), axis=1)

    def spread(rows: np.ndarray) -> np.ndarray:
        squares = [part.shape[1] * (part.mean(1) - values.mean()) ** 2 for part in np.split(rows, ends, axis=1)]
        return np.asarray(np.sum(squares, axis=0))

    # sums in another order differ in their last bits
    return float((1 + (spread(shuffled) >= spread(values) * (1 - 1e-9)).sum()) / (1 + permutations))


def filter_colours(stage: str, weights: Sequence[Tensor]) -> dict[str, Any]:
    """Returns as JSON values the colourfulness by tower of filters (filters, 3, height, width)."""
    towers = []
    for index, tower in enumerate(tower.detach().float().cpu() for tower in weights):
        values = colourfulness(tower.numpy())
        pooled = colourfulness(tower.transpose(0, 1).flatten(1, 2)[None].numpy())[0]  # strong filters count more
        numbers = {"mean": values.mean(), "sd": values.std(), "min": values.min(), "max": values.max()}
        towers.append({"tower": index, **numbers, "pooled": pooled, "filters": values.tolist()})
    p, conclusion = None, "one tower: nothing to compare"
    if len(towers) > 1:
        p = permutation_test([np.array(tower["filters"]) for tower in towers])
        differ, spread = "differ" if p < 0.05 else "do not differ significantly", np.ptp([t["mean"] for t in towers])
        test = f"two-sided permutation test, {PERMUTATIONS:,} permutations"
        conclusion = f"towers {differ}: difference of means {spread:.3f}, p = {p:.4f} ({test})"
    return {"stage": stage, "towers": towers, "p": p, "permutations": PERMUTATIONS, "conclusion": conclusion}


def colours_table(colours: Mapping[str, Any]) -> str:
    title = f"colourfulness of {colours['stage']}'s filters (0 grey, 1 only colour, {WHITE_NOISE:.2f} white noise)"
    names = ("mean", "sd", "min", "max", "pooled")
    towers = colours["towers"]
    rows = [[f"tower {t['tower']}", str(len(t["filters"])), *(f"{t[name]:.3f}" for name in names)] for t in towers]
    table = text_table(["", "filters", *names[:-1], "pooled by energy"], rows)
    return f"{title}\n{table}\n{colours['conclusion']}"


def grey_note(mean: np.ndarray) -> str | None:
    """Returns what to expect of filters that learnt from grey images, by the mean image (S, S, 3)."""
    # a constant mean says nothing about the images
    if (mean != mean[..., :1]).any() or (mean == mean[0, 0]).all():
        return None
    return "the training images are grey: the filters have colours only from their random initial weights"


@styled
def filters_figure(run: str, weights: Sequence[Tensor], colours: Mapping[str, Any], note: str | None = None) -> Figure:
    grids = [filter_grid(tower, COLUMNS).permute(1, 2, 0).numpy() for tower in weights]  # (H, W, 3) each
    heights = [9 * grid.shape[0] / grid.shape[1] for grid in grids]
    panel = 0.55 + 0.45 * len(grids)  # height of the colourfulness
    figure = Figure(figsize=(9.4, sum(heights) + 0.45 * len(grids) + panel + 1.1), layout="constrained")
    rows = figure.subplots(len(grids) + 1, 1, height_ratios=[*heights, panel])
    first, size = 0, " x ".join(map(str, [*weights[0].shape[2:], weights[0].shape[1]]))
    title = f"{colours['stage']} of {printable_name(run)}: {sum(map(len, weights))} filters of {size}, by tower"
    figure.suptitle("\n".join([title, *textwrap.wrap(note or "", 95)]), x=0.01, ha="left", fontsize=12)
    for axes, grid, tower in zip(rows[:-1], grids, colours["towers"], strict=True):
        axes.imshow(grid, interpolation="nearest", aspect="equal")
        axes.set_axis_off()
        last = first + len(tower["filters"]) - 1
        mean = f"colourfulness {tower['mean']:.2f} ± {tower['sd']:.2f}"
        axes.set_title(f"Tower {tower['tower']}: filters {first} to {last}, {mean}")
        first = last + 1
    _draw_colourfulness(rows[-1], colours)
    return figure


def _draw_colourfulness(axes: Axes, colours: Mapping[str, Any]) -> None:
    towers = colours["towers"]
    for index, tower in enumerate(towers):
        values, colour = np.array(tower["filters"]), PALETTE[index % len(PALETTE)]
        ys = index + (values.argsort(kind="stable").argsort() % 5 - 2) * 0.09  # similar values are all visible
        axes.plot(values, ys, MARKERS[index % len(MARKERS)], color=colour, fillstyle="none", markersize=4)
        axes.plot([tower["mean"]] * 2, [index - 0.36, index + 0.36], color=colour, linewidth=2.5)
    axes.axvline(WHITE_NOISE, color="0.5", linestyle=":", linewidth=1)
    axes.text(WHITE_NOISE + 0.01, 0.03, "white noise", transform=axes.get_xaxis_transform(), color="0.4")
    axes.set_yticks(range(len(towers)), [f"tower {index}" for index in range(len(towers))])
    axes.set(xlim=(-0.01, 1.01), ylim=(len(towers) - 0.25, -0.5))
    axes.set_xlabel("colourfulness: fraction of a filter's energy that is not grey (markers: filters; bars: means)")
    axes.set_title(str(colours["conclusion"]).capitalize(), color=BLUE if (colours["p"] or 1) < 0.05 else "black")
