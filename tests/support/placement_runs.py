"""Runs of narrow networks in any placement: how they are started, and what they are compared by."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alexnet_torch.training.checkpoints import load_newest_intact
from tests.support.commands import read_metrics
from tests.support.rank_pool import RankResult, returned_values

SCRIPT = Path(__file__).parent / "narrow_train.py"
PLACEMENTS = {
    "two towers": (2, "ranks"),
    "two slices": (2, "none"),
    "four slices": (4, "auto"),
    "two by two": (4, "ranks"),
    "hybrid at two": (2, "hybrid"),
    "hybrid at four": (4, "hybrid"),
}


def options(images: Path, output: Path, *more: str) -> list[str]:
    """With dropout, crops, mirror images and colour noise, and every step's loss in metrics.jsonl."""
    given = ["--data", str(images), "--cache", str(images.parent / "cache"), "--output", str(output)]
    given += ["--recipe", "demo", "--colour", "paper", "--lr", "0.02", "--batch-size", "8", "--log-every", "1"]
    return [*given, *more]


@dataclass(frozen=True)
class Run:
    """A run's numbers: reports of training and validation, and the last checkpoint's weights and velocities."""

    reports: list[dict[str, Any]]
    weights: dict[str, Tensor]
    velocities: dict[str, Tensor]

    @classmethod
    def of(cls, output: Path) -> "Run":
        newest = load_newest_intact(output / "checkpoints", lambda path: pytest.fail(f"{path} is damaged"))
        assert newest is not None
        kept = newest[1]
        velocities = {f"{name}.{key}": v for name, one in kept["optimizer"].items() for key, v in one.items()}
        return cls(read_metrics(output), kept["weights"], velocities)

    def is_like(self, other: "Run", tolerance: float) -> None:
        """Fails unless all losses, weights and velocities are within a relative tolerance, all errors equal."""
        assert len(self.reports) == len(other.reports)
        for one, another in zip(self.reports, other.reports, strict=True):
            where = f"{one['split']} of step {one['step']}"
            assert {**one, "loss": 0} == {**another, "loss": 0}, where
            if "loss" in one:
                assert one["loss"] == pytest.approx(another["loss"], rel=tolerance, abs=0), where
        for ours, theirs in ((self.weights, other.weights), (self.velocities, other.velocities)):
            assert list(ours) == list(theirs)
            for name, value in ours.items():
                assert value.dtype == theirs[name].dtype
                assert float((value - theirs[name]).norm()) <= tolerance * float(theirs[name].norm()), name

    def is_bitwise(self, other: "Run") -> None:
        assert self.reports == other.reports
        for ours, theirs in ((self.weights, other.weights), (self.velocities, other.velocities)):
            assert list(ours) == list(theirs)
            assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


def trained(done: list[RankResult]) -> list[RankResult]:
    """All ranks, which have ended well."""
    assert returned_values(done) == [0] * len(done), "".join(one.stderr for one in done)
    return done


def free_port() -> int:
    """A port of loopback that nobody has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def torchrun(
    launch: list[str], given: list[str], environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Starts narrow_train.py with options of torchrun and its own."""
    line = [sys.executable, "-m", "torch.distributed.run", *launch, str(SCRIPT), *given]
    whole = {**os.environ, "OMP_NUM_THREADS": "1", "RES_OPTIONS": "timeout:1 attempts:1", **(environment or {})}
    return subprocess.Popen(line, env=whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
