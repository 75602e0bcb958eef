"""On GPUs a run is that of the CPU, in every placement; it resumes after kill -9."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.gpu.machine import ON_CPU, device_names, require_gpus
from tests.support.paths import NARROW_TRAIN
from tests.support.placement_runs import Run, options

pytestmark = pytest.mark.gpu

# relative, in float64: a GPU adds in another order, and in one that differs from run to run, which changes a number's
# last bits, 1e-16 of it, and thirty steps make that some thousand times as large
IN_DOUBLE = 1e-10
IN_16_BITS = 2e-2  # of the losses: roundings of float16 and bfloat16, and the order of their sums
STEPS = ("--max-steps", "30")
FEW_STEPS = ("--max-steps", "10")
HANGS = 900.0  # seconds: compiling for a GPU takes two minutes at most


@dataclass(frozen=True)
class Case:
    """A placement: how many GPUs and processes it takes, and its options."""

    gpus: int
    processes: int = 0  # 0: without torchrun
    devices: tuple[str, ...] = ()  # of --devices; torchrun's processes take the GPUs of their ranks
    split: str = "auto"

    def command(self, given: list[str]) -> list[str]:
        given = [*given, "--split", self.split]
        if self.devices or ON_CPU:
            given += ["--devices", device_names(*(self.devices or ("cpu",)))]
        launch = ["-m", "torch.distributed.run", f"--nproc_per_node={self.processes}"] if self.processes else []
        return [sys.executable, *launch, str(NARROW_TRAIN), *given]


CASES = {
    "one device": Case(1, devices=("cuda:0",)),
    "CPU and GPU": Case(1, devices=("cpu", "cuda:0")),
    "GPU and CPU": Case(1, devices=("cuda:0", "cpu")),
    "two devices": Case(2, devices=("cuda:0", "cuda:1")),
    "two tower ranks": Case(2, 2, split="ranks"),
    "two batch slices": Case(2, 2, split="none"),
    "hybrid at two": Case(2, 2, split="hybrid"),
    "four batch slices": Case(4, 4, split="none"),
    "two by two": Case(4, 4, split="ranks"),
    "hybrid at four": Case(4, 4, split="hybrid"),
    "two slices of two devices": Case(4, 2, split="auto" if ON_CPU else "devices"),
}
every_placement = pytest.mark.parametrize("name", CASES)


def train(case: Case, given: list[str], status: int = 0, **variables: str) -> None:
    """Trains as a process of its own, in float64 by default; kills all ranks if they hang."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DOUBLE": "1", **variables}
    process = subprocess.Popen(
        case.command(given),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # of torchrun's ranks, too
    )
    try:
        output, _ = process.communicate(timeout=HANGS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"{case} hangs:\n{output[-3000:]}")
    assert process.returncode == status, output[-3000:]


@pytest.fixture(scope="module")
def on_cpu(images: Path) -> Callable[..., Run]:
    """Trains on the CPU with these options, once; returns the run."""
    runs: dict[tuple[str, ...], Run] = {}

    def run(*more: str, double: bool = True) -> Run:
        key = (*more, str(double))
        if key not in runs:
            output = images.parent / f"on-cpu-{len(runs)}"
            cpu = Case(0, devices=("cpu",))
            train(cpu, options(images, output, *more), DOUBLE="1" if double else "")
            runs[key] = Run.of(output)
        return runs[key]

    return run


@every_placement
def test_thirty_steps_are_those_of_the_cpu(name: str, images: Path, on_cpu: Callable[..., Run], tmp_path: Path) -> None:
    require_gpus(CASES[name].gpus)
    train(CASES[name], options(images, tmp_path / "run", *STEPS))
    Run.of(tmp_path / "run").require_close(on_cpu(*STEPS), IN_DOUBLE)


@every_placement
def test_a_killed_run_resumes(
    name: str, images: Path, on_cpu: Callable[..., Run], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Killed after the checkpoint of step 10; whether the weights are the same bits is recorded, not required."""
    case = CASES[name]
    require_gpus(case.gpus)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(case, options(images, whole, *STEPS))
    rank = max(0, case.processes - 1)
    train(case, options(images, killed, *STEPS), 1 if case.processes else -9, FAULT=f"{rank}:12:kill")
    train(case, ["--output", str(killed), "--resume"])
    Run.of(killed).require_close(on_cpu(*STEPS), IN_DOUBLE)
    same = (whole / "model.pt").read_bytes() == (killed / "model.pt").read_bytes()
    record_property("model.pt is bitwise that of the uninterrupted run", same)


@pytest.mark.parametrize(
    "more",
    [("--compile",), ("--freeze", "conv1..conv3"), ("--ablation", "never-meet"), ("--cache", "none")],
    ids=lambda more: more[0],
)
def test_options_mean_the_same_as_on_the_cpu(
    more: tuple[str, ...], images: Path, on_cpu: Callable[..., Run], tmp_path: Path
) -> None:
    require_gpus(1)
    given = (*FEW_STEPS, *more)
    train(CASES["one device"], options(images, tmp_path / "run", *given))
    Run.of(tmp_path / "run").require_close(on_cpu(*(word for word in given if word != "--compile")), IN_DOUBLE)


@pytest.mark.parametrize("name", ["one device", "two devices", "two batch slices"])
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_is_close_to_that_of_the_cpu(
    name: str, amp: str, images: Path, on_cpu: Callable[..., Run], tmp_path: Path
) -> None:
    require_gpus(CASES[name].gpus)
    given = (*FEW_STEPS, "--amp", amp)
    train(CASES[name], options(images, tmp_path / "run", *given), DOUBLE="")
    own, expected = Run.of(tmp_path / "run").reports, on_cpu(*given, double=False).reports
    assert [report["loss"] for report in own] == pytest.approx([r["loss"] for r in expected], rel=IN_16_BITS)
