"""Runs of narrow networks in any placement: how to start and to compare them."""

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

from alexnet_torch.training.checkpoints import list_checkpoints, load_newest_intact
from tests.support.commands import read_metrics
from tests.support.paths import NARROW_TRAIN
from tests.support.rank_pool import RankResult, returned_values

PLACEMENTS = {
    "two towers": (2, "ranks"),
    "two slices": (2, "none"),
    "four slices": (4, "auto"),
    "two by two": (4, "ranks"),
    "hybrid at two": (2, "hybrid"),
    "hybrid at four": (4, "hybrid"),
}


def options(images: Path, output: Path, *more: str) -> list[str]:
    """Options for dropout, crops, mirror images, colour noise, and every step's loss in metrics.jsonl."""
    given = ["--data", str(images), "--cache", str(images.parent / "cache"), "--output", str(output)]
    given += ["--recipe", "demo", "--colour", "paper", "--lr", "0.02", "--batch-size", "8", "--log-every", "1"]
    return [*given, *more]


@dataclass(frozen=True)
class Run:
    """A run's reports of training and validation, and the last checkpoint's weights and optimizer tensors."""

    reports: list[dict[str, Any]]
    weights: dict[str, Tensor]
    velocities: dict[str, Tensor]

    @classmethod
    def of(cls, output: Path) -> "Run":
        newest = load_newest_intact(output / "checkpoints")
        assert newest is not None
        assert newest[0] == list_checkpoints(output / "checkpoints")[0], "the newest is damaged"
        optimizer = newest[1]["optimizer"]
        velocities = {f"{name}.{key}": v for name, tensors in optimizer.items() for key, v in tensors.items()}
        return cls(read_metrics(output), newest[1]["weights"], velocities)

    def require_close(self, other: "Run", tolerance: float) -> None:
        """Fails unless all losses, weights and velocities are within a relative tolerance, and all errors equal."""
        assert len(self.reports) == len(other.reports)
        for own, expected in zip(self.reports, other.reports, strict=True):
            where = f"{own['split']} of step {own['step']}"
            assert {**own, "loss": 0} == {**expected, "loss": 0}, where
            if "loss" in own:
                assert own["loss"] == pytest.approx(expected["loss"], rel=tolerance, abs=0), where
        for name, value, expected_value in self._pairs(other):
            assert value.dtype == expected_value.dtype
            assert float((value - expected_value).norm()) <= tolerance * float(expected_value.norm()), name

    def require_equal(self, other: "Run") -> None:
        """Fails unless all losses, errors, weights and velocities are equal, to the bit."""
        assert self.reports == other.reports
        assert [name for name, value, expected in self._pairs(other) if not torch.equal(value, expected)] == []

    def _pairs(self, other: "Run") -> list[tuple[str, Tensor, Tensor]]:
        own, others = self.weights | self.velocities, other.weights | other.velocities
        assert list(own) == list(others)
        return [(name, value, others[name]) for name, value in own.items()]


def require_same_run(output: Path, expected: Path) -> None:
    """Fails unless two runs reported and saved the same, to the bit."""
    Run.of(output).require_equal(Run.of(expected))
    assert (output / "model.pt").read_bytes() == (expected / "model.pt").read_bytes()


def trained(results: list[RankResult], status: int = 0) -> list[RankResult]:
    """Returns the results; fails unless all ranks exited with a status."""
    assert returned_values(results) == [status] * len(results), "".join(result.stderr for result in results)
    return results


def free_port() -> int:
    """Returns an unused port of 127.0.0.1."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


def torchrun(
    launch: list[str], given: list[str], environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Starts narrow_train.py by torchrun, with options for both."""
    command = [sys.executable, "-m", "torch.distributed.run", *launch, str(NARROW_TRAIN), *given]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "RES_OPTIONS": "timeout:1 attempts:1", **(environment or {})}
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
