"""Finds which images of a set a run was not trained on, if it was trained on the rest of it by --val-split."""

from collections.abc import Sequence
from pathlib import Path

from alexnet_torch.data.sources.val_split import ValSplit
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.runs import recorded_split


def held_out_part(runs: Sequence[Path], root: Path) -> ValSplit | None:
    """Returns how the runs' training divided a data set into training and validation images.

    Args:
        runs: the runs' folders.
        root: the set that they are tested on.

    Returns:
        None if it is another set than they were trained on, or has validation images of its own.

    Raises:
        UserError: the runs divided it in different ways, so that each was trained on some of the others' images.
    """
    parts = {run: recorded_split(run, root) for run in runs}
    if len(set(parts.values())) > 1:
        first, *others = parts
        other = next(run for run in others if parts[run] != parts[first])
        raise UserError(
            f"--data {root}: {first} and {other} were trained on different parts of it (--val-split, --seed): "
            "an image that tests one has trained the other; evaluate each alone"
        )
    return next(iter(parts.values()))
