"""Nothing that is not finite is the best, saved as good, or printed as JSON; and memory that is not there."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_torch import load_model
from alexnet_torch.errors import describe_memory_error
from alexnet_torch.evaluation import predict
from alexnet_torch.evaluation.metrics import EvalResult
from alexnet_torch.training import trainer
from alexnet_torch.training.checkpoints import list_checkpoints
from alexnet_torch.training.step import train_step
from alexnet_torch.weights.model_file import save_model
from tests.support.commands import one_line, resume, run_cli, train_demo
from tests.support.steps import before_step

pytestmark = pytest.mark.usefixtures("narrow_demo_recipe")


def require_no_run(run: Path) -> None:
    assert not (run / "model.pt").exists()
    assert not list_checkpoints(run / "checkpoints")
    for line in (run / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_validation_loss_that_is_not_a_number_is_never_the_best(tmp_path: Path) -> None:
    """With this rate the training loss and all weights are finite after the epoch, and all outputs NaN."""
    done = train_demo(tmp_path, "--lr", "50", "--max-steps", "3")
    assert done.returncode == 1
    cause = r"train.py: the validation loss after step 3 is (nan|inf): training diverged; there was no checkpoint yet"
    assert re.match(cause, done.stderr.splitlines()[-1]), done.stderr
    assert "best" not in done.stdout
    require_no_run(tmp_path / "run")


def test_the_last_good_checkpoint_is_from_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train_demo(tmp_path, "--max-steps", "3").returncode == 0
    before = (tmp_path / "run/model.pt").read_bytes()
    monkeypatch.setattr(trainer, "evaluate", lambda *_: EvalResult(math.nan, 0.0, 0.0))
    done = resume(tmp_path / "run", "--max-steps", "6")
    assert done.returncode == 1
    assert re.search(r"validation loss after step 6 is nan.*the last good checkpoint is .*step-00000003", done.stderr)
    assert (tmp_path / "run/model.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("what", "message"), [("loss", "the 1 step(s) up to step 1 is inf"), ("velocity", "not finite after step 1")]
)
def test_a_checkpoint_within_an_epoch_has_a_finite_loss_and_finite_velocities(
    what: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(net: Any, optimizer: torch.optim.Optimizer, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
        loss, wrong = train_step(net, optimizer, *rest)
        if what == "loss":
            return loss * math.inf, wrong
        next(iter(optimizer.state.values()))["negative_velocity"][0] = math.inf
        return loss, wrong

    monkeypatch.setattr(trainer, "train_step", step)
    done = train_demo(tmp_path, "--max-steps", "2", "--save-every", "1e-9")
    assert done.returncode == 1
    assert message in done.stderr
    require_no_run(tmp_path / "run")


@pytest.mark.parametrize(
    "command",
    [
        "predict RUN IMAGES/val/class0/000.png",
        "predict RUN IMAGES/val/class0/000.png --json",
        "evaluate RUN --data IMAGES --crops 1",
        "features RUN IMAGES/val --stage fc8 --output IMAGES/fc8.npy",
    ],
)
def test_commands_refuse_outputs_that_are_not_finite(command: str, run_folder: Path) -> None:
    """Of finite weights: fc8 overflows."""
    model, images = load_model(run_folder), run_folder.parent / "images"
    with torch.no_grad():
        for name, parameter in model.net.named_parameters():
            if name.endswith("fc7.bias"):
                parameter.fill_(100)
            elif name.endswith("fc8.weight"):
                parameter[0::2], parameter[1::2] = 3e36, -3e36
    save_model(run_folder, model)
    done = run_cli(*command.replace("RUN", str(run_folder)).replace("IMAGES", str(images)).split())
    one_line(done, "outputs .*are infinite or not numbers: its training has diverged; ")
    assert done.stdout == ""
    assert not (images / "fc8.npy").exists()


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_weights_that_are_not_finite_are_not_used(value: float, run_folder: Path, tmp_path: Path) -> None:
    weights = torch.load(run_folder / "model.pt", weights_only=True)
    weights["towers.1.conv2.weight"][3, 2, 1, 0] = value
    torch.save(weights, run_folder / "model.pt")
    file = shutil.copy(run_folder / "model.pt", tmp_path / "weights.pt")
    for done in (
        run_cli("predict", run_folder, tmp_path / "images/val/class0/000.png"),
        run_cli("import", file, "--output", tmp_path / "imported", "--mean", "1,2,3"),
        train_demo(tmp_path, "--init", file, run="new"),
    ):
        text = r": (towers\.1\.)?conv2\.weight has values that are infinite or not numbers; use weights that did not"
        one_line(done, text)
    assert not (tmp_path / "imported").exists()


# memory that a device or the system does not give ends a command in one line, whose mends work

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


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(("error", "cause"), CAUSES)
def test_every_librarys_words_are_known(error: MemoryError | RuntimeError, cause: str) -> None:
    assert describe_memory_error(error) == f"there is not enough memory ({cause})"


def test_training_without_memory_is_one_line_whose_two_ways_out_work(tmp_path: Path) -> None:
    with before_step(2, lambda: fail(OF_A_GPU)):
        done = train_demo(tmp_path, "--max-steps", "3")
    assert done.returncode == 2
    again = "free some, then start it again, with --resume if it has done steps"
    mends = f"{again}; or start a run in another --output with a smaller --batch-size"
    assert done.stderr.splitlines()[-1] == f"train.py: there is not enough memory ({CAUSES[0][1]}); {mends}"
    end = json.loads((tmp_path / "run/end.json").read_text())
    assert end == {"state": "failed", "message": f"there is not enough memory ({CAUSES[0][1]})"}
    assert resume(tmp_path / "run").returncode == 0
    assert train_demo(tmp_path, "--max-steps", "3", "--batch-size", "4", run="other").returncode == 0


def test_other_errors_of_torch_are_not_taken_for_it(tmp_path: Path) -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with before_step(1, lambda: fail(error)), pytest.raises(RuntimeError, match="shapes cannot"):
        train_demo(tmp_path)


def test_a_command_without_memory_is_one_line(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: Any, **__: Any) -> Any:
        return torch.empty(10**15)

    monkeypatch.setattr(predict, "predict", too_large)
    line = one_line(run_cli("predict", run_folder, run_folder.parent / "images/val/class0/000.png"), "")
    cause = f"can't allocate memory: you tried to allocate {4 * 10**15} bytes"
    mend = "free some, or use smaller images or batches"
    assert line == f"python -m alexnet_torch: there is not enough memory ({cause}); {mend}"
