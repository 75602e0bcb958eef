"""prepare: a data set of decoded images, made ahead of time."""

import logging
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from alexnet_torch.commands.options import SkipBad, shown
from alexnet_torch.errors import UserError


def prepare_command(
    source: Annotated[str, Positional, shown("SOURCE")],
    output: Annotated[Path, shown("DIR")],
    image_size: Annotated[int, shown("N")] = 224,
    skip_bad: SkipBad = False,
    val_split: Annotated[float | None, shown("FRACTION", "default: none")] = None,
    seed: Annotated[int, shown("N")] = 0,
    workers: Annotated[int | None, shown("N", "default: one for each core")] = None,
) -> None:
    """Decode a data set into a folder that --data takes, also on another machine, without the original images.

    Args:
        source: A data set in any form that --data takes, or "digits".
        output: The folder to make. If the command is interrupted, the same command continues.
        image_size: The network's image size: 224 for most recipes, 64 for demo.
        val_split: Part of each class's training images to validate with, where there are no validation images.
        seed: Decides, with the images' content, which images these are.
        workers: Processes that decode.
    """
    if image_size < 1:
        raise UserError(f"--image-size {image_size}: must be 1 or more")
    if val_split is not None and not 0 < val_split < 1:
        raise UserError(f"--val-split {val_split:g}: must be between 0 and 1, such as 0.1")
    if seed < 0:
        raise UserError(f"--seed {seed}: must be 0 or more")
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: must be 1 or more")
    from alexnet_torch.data.decode import decoded_side
    from alexnet_torch.data.digits import data_folder
    from alexnet_torch.data.prepare_ahead import prepare_ahead
    from alexnet_torch.data.sources.val_split import ValSplit

    side, chosen = decoded_side(image_size), ValSplit(val_split, seed) if val_split else None
    try:
        prepare_ahead(data_folder(source), output.expanduser(), side, skip_bad, chosen, workers)
    except KeyboardInterrupt:
        logging.getLogger(__name__).warning("interrupted: the same command continues")
        raise
