"""The records in a run's metrics.jsonl: one for each report of training, each validation and each test."""

import json
from pathlib import Path
from typing import Any

from alexnet_torch.errors import UserError
from alexnet_torch.run_folder import METRICS, fix_of_damage

_NUMBERS = ("epoch", "step", "loss", "top1_error")  # what every record has


def read_records(run: Path) -> list[dict[str, Any]] | None:
    """Returns a run's records, oldest first; None without the file, as for imported weights.

    A last line without a newline is still being written: it is left out.

    Raises:
        UserError: a line is not a record.
    """
    path = run / METRICS
    if not path.exists():
        return None
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            record = json.loads(line)
            record |= {name: float(record[name]) for name in _NUMBERS}
            if record["split"] not in ("train", "val"):
                raise ValueError(f"split {record['split']!r}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            fix = fix_of_damage(run, "restore the file")
            raise UserError(f"{path}: line {number} is not a report ({error!r}); {fix}") from error
        records.append(record)
    return records


def training_seconds(records: list[dict[str, Any]], batch_size: int) -> float:
    """Returns how long training took, without validation and pauses: each report's images over its images/s."""
    seconds, step = 0.0, 0.0
    for record in records:
        if record["split"] == "train" and record.get("images_per_second"):
            seconds += (record["step"] - step) * batch_size / record["images_per_second"]
            step = record["step"]
    return seconds
