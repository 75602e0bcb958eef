"""Result pages in results/: a command, the machine that ran it, and Markdown tables; files of JSON lines."""

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torchvision

from alexnet_torch.errors import UserError

PROJECT = Path(__file__).parents[2]
RESULTS = PROJECT / "benchmarks/results"
TRAIN_SCRIPT = PROJECT / "train.py"


def machine_description(threads: int) -> str:
    """Returns the processor, versions and date on one line."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, Python {platform.python_version()}"
    model = next(models, platform.machine())
    return f"{model}, {os.cpu_count()} cores, {threads} thread(s); {versions}; {date.today()}"


def save_result(threads: int, text: str, suffix: str = "") -> None:
    """Prints a result and writes it, with the command and the machine, to results/NAME.md: the benchmark's name."""
    module = sys.modules["__main__"].__spec__
    name = module.name if module else Path(sys.argv[0]).stem
    given = f"OMP_NUM_THREADS={value} " if (value := os.environ.get("OMP_NUM_THREADS")) else ""
    command = " ".join([f"{given}python -m {name}", *sys.argv[1:]])
    page = f"`{command}`\n\n{machine_description(threads)}\n\n{text}\n"
    print("\n" + page)
    (RESULTS / f"{name.rpartition('.')[2]}{suffix}.md").write_text(page)


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def read_records(file: Path) -> list[dict[str, Any]]:
    """Reads a file of JSON lines; one that does not exist has none."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def saved_records(file: Path, **expected: object) -> list[dict[str, Any]]:
    """Reads the results that a command with --output has saved; a UserError says that they have other settings."""
    records = read_records(file)
    for record in records:
        if {name: record[name] for name in expected} != expected:
            found = ", ".join(f"{name} {record[name]}" for name in expected)
            raise UserError(f"--output {file.parent}: has results of {found}; name another folder")
    return records


def append_record(file: Path, record: Mapping[str, object]) -> None:
    """Writes a record at the end of a file of JSON lines."""
    with file.open("a") as lines:
        lines.write(json.dumps(record) + "\n")
