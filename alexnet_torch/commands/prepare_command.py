"""prepare: a data set of decoded images, made ahead of time."""

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
    workers: Annotated[int | None, shown("N", "default: one for each core")] = None,
) -> None:
    """Decode a data set into a folder that --data takes, also on another machine, without the original images.

    Args:
        source: A data set in any form that --data takes, or "digits".
        output: The folder to make. If the command is interrupted, the same command continues.
        image_size: The network's image size: 224 for most recipes, 64 for demo.
        workers: Processes that decode.
    """
    if image_size < 1:
        raise UserError(f"--image-size {image_size}: must be 1 or more")
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: must be 1 or more")
    from alexnet_torch.data.decode import decoded_side
    from alexnet_torch.data.digits import data_folder
    from alexnet_torch.data.prepare import print_to_stderr
    from alexnet_torch.data.prepare_ahead import prepare_ahead

    try:
        prepare_ahead(data_folder(source), output.expanduser(), decoded_side(image_size), skip_bad, workers)
    except KeyboardInterrupt:
        print_to_stderr("interrupted: the same command continues")
        raise
