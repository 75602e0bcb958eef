"""What measurements share: alternating rounds, medians, the machine's description, kept tables."""

import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor

RESULTS = Path(__file__).parents[1] / "results"
GFLOP_AN_IMAGE = 4.13
"""Of training the paper's net at 224 pixels: multiplications and additions, forward and backward."""


def machine(threads: int) -> str:
    """The processor, versions and date, in a line."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, Python {platform.python_version()}"
    return f"{model}, {os.cpu_count()} cores, {threads} thread(s); {versions}; {date.today()}"


def seconds(work: Callable[[], object]) -> float:
    """How long it takes, once."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median seconds of each contender, all of them taking turns: a machine's drift meets them alike.

    Args:
        contenders: each measures itself and returns seconds; its first turn is not counted.
        rounds: that count.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, contender in contenders.items():
            taken = contender()
            if turn:
                times[name].append(taken)
    return {name: statistics.median(values) for name, values in times.items()}


class Apart:
    """A contender in a process of its own, as its user would run it.

    Args:
        make: runs there, and returns what can be asked for, by name; picklable.
    """

    def __init__(self, make: Callable[[], Mapping[str, Callable[[], Any]]]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(make, theirs))
        self._process.start()

    def ask(self, name: str) -> Any:
        """What the contender returns for a name."""
        self.send(name)
        return self.receive()

    def send(self, name: str) -> None:
        """Asks, and does not wait."""
        self._pipe.send(name)

    def receive(self) -> Any:
        """What was asked for last."""
        return self._pipe.recv()

    def end(self) -> None:
        """Ends its process."""
        self._pipe.send(None)
        self._process.join()


def _serve(make: Callable[[], Mapping[str, Callable[[], Any]]], pipe: Connection) -> None:
    answers = make()
    while (name := pipe.recv()) is not None:
        pipe.send(answers[name]())


def peak_memory() -> float:
    """The most memory that this process has held, in GiB."""
    kibibytes = 1 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kibibytes / 2**30


def best_rates() -> dict[str, float]:
    """The fastest of a few products and convolutions, in GFLOP/s: what this machine can do for a net."""
    a = torch.randn(2048, 2048)
    image = torch.randn(128, 256, 13, 13).to(memory_format=torch.channels_last)
    weights = torch.randn(192, 256, 3, 3).to(memory_format=torch.channels_last)
    out = torch.empty_like(a)

    def best(work: Callable[[], object], flops: float) -> float:
        return flops / min(seconds(work) for _ in range(7)) / 1e9

    def convolve() -> Tensor:
        return torch.nn.functional.conv2d(image, weights, padding=1)

    return {
        "matrix product": best(lambda: torch.mm(a, a, out=out), 2 * 2048**3),
        "convolution": best(convolve, 2 * 128 * 192 * 13 * 13 * 256 * 9),
    }


def keep(name: str, command: str, threads: int, text: str) -> None:
    """Prints a result and keeps it in results/<name>.md, with its command and machine."""
    whole = f"`{command}`\n\n{machine(threads)}\n\n{text}\n"
    print("\n" + whole)
    (RESULTS / f"{name}.md").write_text(whole)


def table(columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """A Markdown table."""
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
