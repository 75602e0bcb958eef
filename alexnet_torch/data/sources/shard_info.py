"""Compares shards with the description that timm's sets have beside them: _info.json."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet_torch.data.sources.sample_table import SampleTable
from alexnet_torch.errors import UserError

INFO = "_info.json"
SPLITS = {"train": ("train",), "val": ("validation", "val", "valid")}
"""Names of our splits in such a file."""


def check_info(file: Path, tables: Sequence[SampleTable]) -> None:
    """Raises a UserError if a description names shards that are missing, or another number of samples.

    Args:
        file: the description: {"splits": {"train": {"filenames": [...], "num_samples": ...}, ...}}.
        tables: the samples of each split.
    """
    try:
        splits = json.loads(file.read_bytes())["splits"]
        described = {split: _described(splits, SPLITS[split]) for split in ("train", "val")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file}: does not describe shards ({error!r}); download it again, or move it elsewhere"
        ) from error
    for table in tables:
        names, samples = described[table.split]
        there = {file.name for file in table.files}
        if missing := [name for name in names if name not in there]:
            more = f" and {len(missing) - 1:,} more are" if len(missing) > 1 else " is"
            raise UserError(f"{file.parent}: {missing[0]}{more} missing, which {file.name} names; download them")
        if samples not in (None, len(table)):
            raise UserError(
                f"{file.parent}: the {table.split} shards have {len(table):,} samples instead of the {samples:,} of "
                f"{file.name}; download them again"
            )


def _described(splits: Mapping[str, Any], names: Sequence[str]) -> tuple[list[str], int | None]:
    """Returns the shards' names and the number of samples of a split; nothing for one that is not described."""
    found: Mapping[str, Any] = next((splits[name] for name in names if name in splits), {})
    samples = found.get("num_samples")
    return [str(name) for name in found.get("filenames", [])], None if samples is None else int(samples)
