"""Files of JSON lines: the reports of runs, and results that are saved one by one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_records(file: Path) -> list[dict[str, Any]]:
    """Reads a file's records; a file that does not exist has none."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def append_record(file: Path, record: Mapping[str, object]) -> None:
    """Writes a record at the end of a file."""
    with file.open("a") as lines:
        lines.write(json.dumps(record) + "\n")
