"""figures: the paper's figures."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from alexnet_torch.commands.options import Devices, shown
from alexnet_torch.errors import UserError


def figures_command(
    runs: Annotated[tuple[Path, ...], Positional, shown("RUN [RUN ...]", "required")],
    output: Annotated[Path | None, shown("DIR", "default: RUN/figures")] = None,
    data: Annotated[str | None, shown("DIR|digits|none", "default: the run's")] = None,
    image: Annotated[tuple[Path, ...], shown("FILE [FILE ...]", "default: none")] = (),
    seed: Annotated[int, shown("N")] = 0,
    devices: Devices = None,
) -> None:
    """Draw the paper's figures for runs: filters, labels, neighbours, and curves; measure filters' colourfulness.

    Args:
        runs: Runs' folders; their curves are drawn in one figure.
        output: Where to write PNG and SVG files.
        data: The images that the run was trained on; none: draw only the figures that need no images.
        image: Image files to show instead of eight validation images.
        seed: Seed of the choice of validation images.
    """
    if not runs:
        raise UserError("figures: name at least one run's folder")
    if seed < 0:
        raise UserError(f"--seed {seed}: must be 0 or more")
    from alexnet_torch.evaluation.figures.draw import draw_figures

    draw_figures(runs, output, data, image, seed, devices)
