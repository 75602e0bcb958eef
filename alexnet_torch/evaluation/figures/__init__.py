"""The paper's figures, drawn from a run."""

import torch
from torch import Tensor


def filter_grid(weights: Tensor, columns: int = 8) -> Tensor:
    """Returns filters (filters, 3, h, w), each scaled with 0 as grey, as one image (3, H, W) in 0..1."""
    # here: training writes it, too, without matplotlib, whose import takes 0.7 s
    weights = weights.detach().float().cpu()
    largest = weights.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    tiles = torch.nn.functional.pad(0.5 + 0.5 * weights / largest, (1, 1, 1, 1), value=1.0)
    missing = tiles.new_ones(-len(tiles) % columns, *tiles.shape[1:])
    rows = torch.cat([tiles, missing]).view(-1, columns, *tiles.shape[1:])  # (rows, columns, 3, height, width)
    return rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
