"""On a GPU: normalisation, dropout, the step's waits, and the commands for trained networks."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_torch import AlexNet, DropoutKey
from alexnet_torch.model.architecture import PAPER
from alexnet_torch.model.response_norm import response_norm, response_norm_pool
from alexnet_torch.training.optimizers import PaperSGD, parameter_groups
from alexnet_torch.training.step import Precision, train_step
from tests.gpu.machine import ON_CPU, device, device_names, require_gpus
from tests.support.commands import run_cli

pytestmark = pytest.mark.gpu
NORM = PAPER.norm
# of the largest value: a few roundings of the type
TOLERANCES = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@pytest.fixture(autouse=True)
def _full_precision() -> None:
    require_gpus(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a function's value and its gradient, in float64 on the CPU."""
    x = x.detach().requires_grad_()
    y = function(x)
    (grad,) = torch.autograd.grad(y, x, torch.linspace(-1, 1, y.numel(), device=x.device).view_as(y).to(y.dtype))
    return y.detach().double().cpu(), grad.double().cpu()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("pooled", [False, True], ids=["norm", "norm and pool"])
def test_normalisation_is_that_of_torch_in_float64(dtype: torch.dtype, pooled: bool) -> None:
    x = 30 * torch.randn(4, 48, 13, 13, generator=torch.Generator().manual_seed(0)).to(dtype)
    x = x.to(device(), memory_format=torch.channels_last)

    def exact(x: Tensor) -> Tensor:
        y = F.local_response_norm(F.relu(x), NORM.window, NORM.alpha, NORM.beta, NORM.k)
        return F.max_pool2d(y, 3, 2) if pooled else y

    def ours(x: Tensor) -> Tensor:
        return response_norm_pool(x, NORM, True, 3, 2, False) if pooled else response_norm(x, NORM, True)

    values = zip(gradient(ours, x), gradient(exact, x.double()), strict=True)
    for index, (own, expected) in enumerate(values):
        if index == 1 and pooled and dtype.itemsize == 2:
            break  # rounding makes elements of a window equal, and either may get the gradient
        assert (own - expected).abs().max() <= TOLERANCES[dtype] * expected.abs().max()


def test_dropout_masks_are_those_of_the_cpu() -> None:
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits = []
    for where in (torch.device("cpu"), device()):
        net = AlexNet(num_classes=10, image_size=64, seed=0).double().train().to(where)
        logits.append(net(images.to(where), DropoutKey(7, 3)).detach().cpu())
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("amp", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("names", [("cuda:0",), ("cuda:0", "cuda:1")], ids=["one device", "two devices"])
def test_a_step_never_waits_for_the_gpu(amp: str, names: tuple[str, ...]) -> None:
    require_gpus(len(names))
    net = AlexNet(num_classes=10, image_size=64, devices=device_names(*names).split(","), seed=0).train()
    optimizer = PaperSGD(parameter_groups(net, 5e-4, 5e-4))
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    precision = Precision(amp, *net.devices)
    images, labels = torch.randn(4, 3, 64, 64, device=device()), torch.arange(4, device=device())
    for step in range(3):
        if step == 2 and not ON_CPU:  # the first steps compile and allocate
            torch.cuda.set_sync_debug_mode("error")
        try:
            loss, _ = train_step(net, optimizer, precision, images, labels, DropoutKey(0, step), 4)
        finally:
            if not ON_CPU:
                torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite()


@pytest.mark.parametrize("names", [("cuda:0",), ("cuda:0", "cuda:1")], ids=["one device", "two devices"])
def test_commands_compute_what_they_do_on_the_cpu(names: tuple[str, ...], run_folder: Path) -> None:
    require_gpus(len(names))
    images = run_folder.parent / "images"
    files = [str(file) for file in sorted(images.glob("val/*/*.png"))]
    printed = []
    for where in ("cpu", device_names(*names)):
        predicted = run_cli("predict", run_folder, *files, "--json", "--devices", where)
        tested = run_cli("evaluate", run_folder, "--data", images, "--cache", run_folder.parent, "--devices", where)
        output = run_folder.parent / f"{where}.npy"
        features = run_cli("features", run_folder, images / "val", "--output", output, "--devices", where)
        assert (predicted.returncode, tested.returncode, features.returncode) == (0, 0, 0), features.stderr
        guesses = [json.loads(line)["classes"] for line in predicted.stdout.splitlines()]
        printed.append([{guess["label"]: guess["probability"] for guess in line} for line in guesses])
    for own, expected in zip(*printed, strict=True):
        assert own == pytest.approx(expected, rel=1e-3)
