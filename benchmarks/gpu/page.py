"""Measures a machine with GPUs and writes one page, benchmarks/results/gpu-NAME.md.

    make gpu
    python -m benchmarks.gpu.page --name a100x8
    python -m benchmarks.gpu.page --device cpu                 tries the page itself, with tiny sizes

Parts: the machine; the tests marked `gpu`; the training step beside torchvision's alexnet and the plain paper net; runs
of train.py with their input path, in every placement that the number of GPUs allows. Each measurement has a process of
its own. One that fails is told in the page, and the others go on; the exit status is then 1.
"""

import os
import platform
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
import tyro

from benchmarks.gpu.correctness import correctness_section
from benchmarks.gpu.links import nvidia_smi
from benchmarks.gpu.plan import TINY, Plan
from benchmarks.gpu.tables import runs_section, steps_section
from benchmarks.harness.report import RESULTS, machine_description

Section = Callable[[Plan], tuple[str, list[str]]]


SECTIONS: dict[str, tuple[str, Section]] = {
    "correctness": ("Correctness: the same run as on the CPU", correctness_section),
    "steps": ("The training step alone, images on the device", steps_section),
    "runs": ("train.py with its input path", runs_section),
}


def describe_machine(plan: Plan) -> str:
    """Returns the GPUs, their links and the software; a line says what could not be read."""
    lines = [machine_description(os.cpu_count() or 1)]
    if plan.kind == "cpu":
        return f"{lines[0]}\n\n**A dry run on a CPU: no number here means anything.**"
    for index in range(plan.gpus):
        gpu = torch.cuda.get_device_properties(index)
        lines.append(f"- cuda:{index}: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, sm_{gpu.major}{gpu.minor}")
    lines.append(f"- CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, Linux {platform.release()}")
    for question in (("--query-gpu=driver_version,power.limit,clocks.max.sm", "--format=csv"), ("topo", "-m")):
        try:
            lines.append(f"\n```text\n{nvidia_smi(*question).rstrip()}\n```")
        except OSError as error:
            lines.append(f"- {error}")
    return "\n".join(lines)


def write_page(plan: Plan, file: Path, command: str, sections: Sequence[tuple[str, Section]]) -> list[str]:
    """Runs the sections and writes the page, again after each, so that an interruption leaves what is done.

    Returns a line for each measurement that failed.
    """
    page, failures = [f"`{command}`", describe_machine(plan)], list[str]()
    for title, section in sections:
        print(f"{title} ...", flush=True)
        try:
            text, failed = section(plan)
        except Exception as error:  # whatever it is, the other sections go on, and the status tells
            text, failed = f"**Failed**: {error}", [f"{title}: {type(error).__name__}: {error}"]
        failures += failed
        page.append(f"## {title}\n\n{text}")
        failed_lines = "\n".join(f"- {failure}" for failure in failures)
        summary = f"## Failures\n\n{failed_lines}" if failures else "Nothing failed."
        file.write_text("\n\n".join([*page, summary]) + "\n")
    return failures


def default_name(plan: Plan) -> str:
    """Returns the page's name: how many GPUs of which model."""
    model = torch.cuda.get_device_name(0) if plan.kind == "cuda" else "dry run on a cpu"
    return f"{plan.gpus}x-{re.sub('[^a-z0-9]+', '-', model.lower().removeprefix('nvidia ')).strip('-')}"


def main(
    name: str | None = None,
    device: Literal["cuda", "cpu"] = "cuda",
    gpus: int | None = None,
    parts: Literal["all", "correctness", "steps", "runs"] = "all",
    output: Path = RESULTS,
) -> int:
    """Measures and writes the page in the output folder; returns the exit status: 1 if anything failed.

    Args:
        name: The page's name; by default from the number and model of the GPUs.
        device: cpu: measure nothing useful, in minutes, to try the page.
        gpus: How many GPUs to use; all that are visible by default.
    """
    found = torch.cuda.device_count()
    if device == "cuda" and not found:
        print("make gpu: this machine shows no GPU; --device cpu tries the page on a CPU", file=sys.stderr)
        return 2
    if device == "cuda" and not 1 <= (gpus or found) <= found:
        print(f"--gpus {gpus}: this machine shows {found}; name 1 to {found}", file=sys.stderr)
        return 2
    plan = Plan("cuda", gpus or found) if device == "cuda" else replace(TINY, gpus=gpus or TINY.gpus)
    sections = [SECTIONS[part] for part in SECTIONS if parts in ("all", part)]
    file = output / f"gpu-{name or default_name(plan)}.md"
    failures = write_page(plan, file, f"python -m benchmarks.gpu.page {' '.join(sys.argv[1:])}".rstrip(), sections)
    print(f"{file}: {len(failures)} failure(s)")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
