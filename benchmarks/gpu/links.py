"""Bytes between GPUs, and between them and the CPU, as nvidia-smi counts them."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


def nvidia_smi(*arguments: str) -> str:
    """Returns nvidia-smi's output; raises an OSError if it is missing, or fails."""
    done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise OSError(f"nvidia-smi {' '.join(arguments)}: {(done.stderr or done.stdout).strip()[:200]}")
    return done.stdout


def parse_nvlink(text: str) -> dict[int, float]:
    """Returns the bytes that each GPU has sent over all its links, from `nvidia-smi nvlink -gt d`."""
    sent: dict[int, float] = {}
    gpu = -1
    for line in text.splitlines():
        if found := re.match(r"GPU (\d+):", line):
            gpu = int(found[1])
        elif found := re.search(r"Link \d+: Data Tx: (\d+) KiB", line):
            sent[gpu] = sent.get(gpu, 0.0) + 1024 * int(found[1])
    return sent


def parse_pcie(text: str) -> dict[int, float]:
    """Returns each GPU's largest rate over PCIe in either direction, in MB/s, from `nvidia-smi dmon -s t`."""
    rates: dict[int, float] = {}
    for line in text.splitlines():
        cells = line.split()
        if len(cells) >= 3 and all(cell.isdigit() for cell in cells[:3]):
            rates[int(cells[0])] = max(rates.get(int(cells[0]), 0.0), *map(float, cells[1:3]))
    return rates


@dataclass
class Traffic:
    """What GPUs have sent while something ran; empty where nvidia-smi does not tell."""

    nvlink: dict[int, float] = field(default_factory=dict)  # bytes over NVLink, by GPU
    pcie: dict[int, float] = field(default_factory=dict)  # the largest rate over PCIe in MB/s, by GPU
    notes: list[str] = field(default_factory=list)  # why something is missing

    def describe(self) -> str:
        """Returns a table cell."""
        parts = []
        if any(self.nvlink.values()):
            parts.append("NVLink " + ", ".join(f"{value / 1e9:.1f} GB" for value in self.nvlink.values()))
        if any(self.pcie.values()):
            parts.append("PCIe up to " + ", ".join(f"{rate:,.0f} MB/s" for rate in self.pcie.values()))
        return "; ".join(parts) or "; ".join(dict.fromkeys(self.notes)) or "none"


@contextmanager
def counted_traffic(gpus: int) -> Iterator[Traffic]:
    """Counts what the first GPUs send in a `with` block; the yielded value is filled at its end."""
    traffic = Traffic() if gpus else Traffic(notes=["no GPU"])
    before = _nvlink(traffic) if gpus else {}
    with tempfile.TemporaryFile("w+") as printed:
        sampler = None
        with suppress(OSError):  # the notes have told
            sampler = subprocess.Popen(["nvidia-smi", "dmon", "-s", "t"], stdout=printed, stderr=subprocess.DEVNULL)
        try:
            yield traffic
        finally:
            if sampler:
                sampler.kill()
                sampler.wait()
            printed.seek(0)
            traffic.pcie = {gpu: rate for gpu, rate in parse_pcie(printed.read()).items() if gpu < gpus}
            after = _nvlink(traffic) if gpus else {}
            traffic.nvlink = {gpu: after[gpu] - before.get(gpu, 0.0) for gpu in sorted(after) if gpu < gpus}


def _nvlink(traffic: Traffic) -> dict[int, float]:
    try:
        counts = parse_nvlink(nvidia_smi("nvlink", "-gt", "d"))
    except (OSError, subprocess.TimeoutExpired) as error:
        traffic.notes.append(str(error))
        return {}
    traffic.notes += [] if counts else ["no NVLink counters"]
    return counts
