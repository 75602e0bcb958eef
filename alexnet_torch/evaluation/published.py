"""Published AlexNets on ImageNet by images seen, from published.csv: does a run learn as it should?"""

import csv
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_torch.data.sources.classes import imagenet_indices

STEPS = (1000, 5000, 20_000)  # at which training says how it stands


class Point(NamedTuple):
    """A loss in nats, and perhaps a top-1 error, of a network that has seen some images."""

    source: str
    split: str  # train or val
    images: int
    loss: float
    error: float  # nan if it is unknown


@cache
def published_points() -> list[Point]:
    with Path(__file__).with_suffix(".csv").open(newline="") as file:
        _, *rows = csv.reader(file)
    return [Point(row[0], row[1], int(row[2]), float(row[3]), float(row[4] or "nan")) for row in rows]


def is_imagenet(classes: Sequence[str]) -> bool:
    return set(classes) == set(imagenet_indices())


def standing(step: int, batch_size: int, loss: float) -> str | None:
    """Returns a line that compares a training loss with those published, at some steps."""
    if step not in STEPS:
        return None
    losses, images = list[float](), step * batch_size
    for series in {(point.source, point.split) for point in published_points()}:
        points = [(p.images, p.loss) for p in published_points() if (p.source, p.split) == series]
        seen, known = np.array([(0.9 * points[0][0], points[0][1]), *points, (1.1 * points[-1][0], points[-1][1])]).T
        after = int(np.searchsorted(seen, images))
        if 0 < after < len(seen) and seen[after] < 5 * seen[after - 1]:  # else too far to tell what is between them
            losses.append(float(np.interp(math.log(images), np.log(seen), known)))
    if not losses:
        return None
    there = " to ".join(sorted({f"{min(losses):.1f}", f"{max(losses):.1f}"}))
    return f"step {step}, {images:,} images seen: loss {loss:.1f}; published AlexNets had {there} there"
