"""Result pages in results/: a command, the machine that ran it, and Markdown tables."""

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

import torch
import torchvision

from benchmarks.harness.paths import RESULTS


def machine_description(threads: int) -> str:
    """Returns the processor, versions and date on one line."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, Python {platform.python_version()}"
    model = next(models, platform.machine())
    return f"{model}, {os.cpu_count()} cores, {threads} thread(s); {versions}; {date.today()}"


def save_result(name: str, command: str, threads: int, text: str) -> None:
    """Prints a result and writes it to results/NAME.md with its command and machine."""
    page = f"`{command}`\n\n{machine_description(threads)}\n\n{text}\n"
    print("\n" + page)
    (RESULTS / f"{name}.md").write_text(page)


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
