"""Memory that a device or the system does not give ends a command in one line, whose mends work."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_torch.errors import describe_memory_error
from alexnet_torch.evaluation import predict
from alexnet_torch.training import trainer
from alexnet_torch.training.step import train_step
from tests.support.commands import run_cli, run_train
from tests.support.folders import make_images

OF_A_GPU = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 148.00 MiB. GPU 0 has a total capacity of 79.19 GiB of which 5.06 MiB is "
    "free. Process 1 has 79.18 GiB memory in use.\nSee documentation for Memory Management"
)
OF_CUDA = RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")
OF_CUBLAS = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
CAUSES = [
    (OF_A_GPU, "CUDA out of memory. Tried to allocate 148.00 MiB"),
    (OF_CUDA, "CUDA error: out of memory"),
    (OF_CUBLAS, "CUBLAS_STATUS_ALLOC_FAILED"),
    (MemoryError(), "none was left"),
]


def given(folder: Path, name: str = "run") -> list[str]:
    if not (folder / "images").exists():
        make_images(folder / "images")
    options = ["--data", str(folder / "images"), "--output", str(folder / name), "--recipe", "demo"]
    return [*options, "--batch-size", "8", "--max-steps", "3"]


@pytest.mark.parametrize(("error", "cause"), CAUSES)
def test_every_librarys_words_are_known(error: MemoryError | RuntimeError, cause: str) -> None:
    assert describe_memory_error(error) == f"there is not enough memory ({cause})"


@pytest.mark.usefixtures("narrow_demo_recipe")
def test_training_without_memory_is_one_line_whose_two_ways_out_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, steps = train_step, 0

    def step(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 2:
            raise OF_A_GPU
        return inner(*arguments)

    monkeypatch.setattr(trainer, "train_step", step)
    done = run_train(*given(tmp_path))
    assert done.returncode == 2
    again = "free some, then start it again, with --resume if it has done steps"
    mends = f"{again}; or start a run in another --output with a smaller --batch-size"
    assert done.stderr.splitlines()[-1] == f"train.py: there is not enough memory ({CAUSES[0][1]}); {mends}"
    end = json.loads((tmp_path / "run/end.json").read_text())
    assert end == {"state": "failed", "message": f"there is not enough memory ({CAUSES[0][1]})"}
    assert run_train("--output", tmp_path / "run", "--resume").returncode == 0
    assert run_train(*given(tmp_path, "other"), "--batch-size", "4").returncode == 0


@pytest.mark.usefixtures("narrow_demo_recipe")
def test_other_errors_of_torch_are_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(trainer, "train_step", step)
    with pytest.raises(RuntimeError, match="shapes cannot"):
        run_train(*given(tmp_path))


def test_a_command_without_memory_is_one_line(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any, **__: Any) -> Any:
        return torch.empty(10**15)

    monkeypatch.setattr(predict, "predict", too_large)
    image = next(make_images(tmp_path / "images").rglob("*.png"))
    done = run_cli("predict", run_folder, image)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    cause = f"can't allocate memory: you tried to allocate {4 * 10**15} bytes"
    mend = "free some, or use smaller images or batches"
    assert line == f"python -m alexnet_torch: there is not enough memory ({cause}); {mend}"
