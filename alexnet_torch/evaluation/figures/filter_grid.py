"""A stage's filters as one image. Training writes it too, and does without matplotlib, which takes 0.7 s to import."""

import torch
from torch import Tensor


def filter_grid(weights: Tensor, columns: int = 8) -> Tensor:
    """Returns filters side by side as one image (3, height, width) in [0, 1].

    Each filter is scaled individually, so that its largest weight is at the end of the range and 0 is mid-grey.

    Args:
        weights: (filters, 3, height, width), of any range.
        columns: filters in a row.
    """
    weights = weights.detach().float().cpu()
    largest = weights.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    tiles = torch.nn.functional.pad(0.5 + 0.5 * weights / largest, (1, 1, 1, 1), value=1.0)
    missing = -len(tiles) % columns
    tiles = torch.cat([tiles, tiles.new_ones(missing, *tiles.shape[1:])])
    rows = tiles.reshape(-1, columns, *tiles.shape[1:])  # (rows, columns, 3, height, width)
    return rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
