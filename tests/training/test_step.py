"""The step: mixed precision, what it transfers to a device, its parts, and capturing."""

from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_torch import AlexNet, DropoutKey
from alexnet_torch.data.augment import random_crops, subtract_mean
from alexnet_torch.data.loader import Batch
from alexnet_torch.model.architecture import PAPER
from alexnet_torch.recipes.recipe import LearningRates, OptimizerName
from alexnet_torch.training import step
from alexnet_torch.training.optimizers import PaperSGD, build_optimizer, parameter_groups, set_rates
from alexnet_torch.training.step import CapturedStep, Precision, StepResult, step_inputs, train_step
from tests.support.nets import narrow_net, with_random_weights

CPU = torch.device("cpu")


def test_an_overflowed_gradient_skips_the_update_and_halves_the_scale() -> None:
    scaler, found = torch.amp.GradScaler("cpu", init_scale=1024.0), []
    for gradients in ((1.0, float("inf")), (1.0,)):
        p = nn.Parameter(torch.linspace(-1, 1, 7))
        optimizer = PaperSGD([{"params": [p], "lr": 0.1}])
        for factor in gradients:
            scaler.scale((p**2).sum() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        found.append([p.detach(), optimizer.state[p]["negative_velocity"]])
        assert scaler.get_scale() == 512.0
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_products_have_16_bits_and_normalisation_loss_and_weights_32(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net, images, labels = AlexNet(PAPER, 10, 64, seed=0).eval(), 60 * torch.randn(4, 3, 64, 64), torch.arange(4)
    exact = net(images)
    with Precision(name, CPU).autocast():
        logits = net(images)
        assert net.features(images, "conv1").dtype == logits.dtype == dtype
        loss = F.cross_entropy(logits.float(), labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(logits.float(), exact, rtol=0.05, atol=0.02 * exact.abs().max().item())
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())


@pytest.mark.parametrize(("name", "tf32"), [("fp32", False), ("tf32", True), ("bf16", True)])
def test_gpus_compute_as_the_option_says_and_the_same_bits_in_every_run(name: str, tf32: bool) -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
    Precision(name, CPU)
    assert not cudnn.deterministic
    Precision(name, torch.device("cuda"))
    assert (cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32) == (True, tf32, tf32)
    cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before


# parts of a batch, and label smoothing


def seven_images() -> tuple[AlexNet, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    images = 60 * torch.randn(7, 3, 64, 64, dtype=torch.float64, generator=random)
    return with_random_weights(narrow_net()).double().train(), images, torch.arange(7) % 3


def weights_and_result(parts: int, label_smoothing: float = 0.0) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    net, images, labels = seven_images()
    optimizer, precision = torch.optim.SGD(net.parameters(), lr=0.01), Precision("fp32", CPU)
    loss, wrong = train_step(net, optimizer, precision, images, labels, DropoutKey(0, 3), 7, label_smoothing, parts)
    return net.state_dict(), loss, wrong


def test_parts_of_a_batch_are_the_step_of_the_whole_batch_and_label_smoothing_is_torchs() -> None:
    torch.testing.assert_close(weights_and_result(3), weights_and_result(1), rtol=1e-12, atol=1e-12)
    net, images, labels = seven_images()
    expected = F.cross_entropy(net(images, DropoutKey(0, 3)), labels, label_smoothing=0.3)
    assert weights_and_result(1, 0.3)[1].item() == pytest.approx(expected.item())


# what a step reads arrives in two transfers, and is what arrives in many

MEAN = torch.linspace(0, 255, 73 * 73 * 3).view(73, 73, 3)
KEYS = torch.tensor([[1 << 61, 5], [7, 0]])


def batch_of_five(noise: bool) -> tuple[Batch, Tensor]:
    """Five crops of 64 pixels, their number odd, so that not every part ends at a multiple of 8 bytes; and images."""
    pixels = torch.randint(0, 256, (5, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    colour = torch.linspace(-20, 20, 15).view(5, 3) if noise else None
    crops = random_crops(5, 73, 64, 0, 0, True)
    given = Batch(pixels, torch.arange(5) * 100, crops, np.arange(5), 0, 5, colour, 0.9 if noise else 1.0)
    return given, subtract_mean(given.images, given.crops, MEAN, given.pca_noise, given.scale)


def send_to_the_device() -> None:
    from tests.support import pretend_device as pretend  # in the process of the fixture

    for noise in (False, True):
        (given, expected), mean = batch_of_five(noise), MEAN.to(pretend.DEVICE)
        pretend.COPIES.clear()
        sent = step_inputs(given, KEYS, mean)
        assert len(pretend.COPIES) == 2
        assert {value.device for value in sent} == {pretend.DEVICE}
        assert all(
            torch.equal(own.cpu(), value) for own, value in zip(sent, (expected, given.labels, KEYS), strict=True)
        )


def test_a_device_gets_two_transfers(pretend_process: Executor) -> None:
    pretend_process.submit(send_to_the_device).result()


def test_on_the_cpu_nothing_is_copied() -> None:
    for noise in (False, True):
        given, expected = batch_of_five(noise)
        images, labels, keys = step_inputs(given, KEYS, MEAN)
        assert torch.equal(images, expected)
        assert (labels.data_ptr(), keys.data_ptr()) == (given.labels.data_ptr(), KEYS.data_ptr())


# a captured step trains as without it, in whatever order rates and sizes of batches change

RATES = (0.01,) * 6 + (0.001,) * 2 + (0.002,) * 5
ROWS = (4, 4, 3, 4, 4, 4, 4, 4, 4, 4, 4, 3, 4)


def train(optimizer_name: OptimizerName, captured: bool) -> dict[str, Tensor]:
    """Returns weights, the optimizer's tensors, losses and errors of steps in which rates and sizes change."""
    net = with_random_weights(narrow_net()).train()
    optimizer = build_optimizer(optimizer_name, parameter_groups(net, 0.0, 5e-4), 0.9)
    run_step: Callable[..., StepResult] = partial(train_step, net, optimizer, Precision("fp32", CPU))
    run_step = CapturedStep(run_step, optimizer, 4) if captured else run_step
    found: dict[str, Tensor] = {}
    for number, (rate, rows) in enumerate(zip(RATES, ROWS, strict=True)):
        set_rates(optimizer, LearningRates(rate, 2 * rate, {"fc6": 0.5 * rate}))
        images = 60 * torch.randn(rows, 3, 64, 64, generator=torch.Generator().manual_seed(number))
        key = DropoutKey(0, number, 0, net.dropout_keys(0, number))
        loss, wrong = run_step(images, torch.arange(rows) % 3, key, rows)
        found |= {f"loss {number}": loss.clone(), f"wrong {number}": wrong.clone()}
    for name, parameter in net.named_parameters():
        found |= {name: parameter.detach()}
        found |= {f"{name}.{key}": value for key, value in optimizer.state[parameter].items()}
    return found


@pytest.mark.parametrize("optimizer", ["paper", "adam"])
def test_captured_steps_train_as_the_others(optimizer: OptimizerName, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU captures nothing: here a capture is the function that a replay calls again, on the same tensors."""
    captures, replays = 0, 0

    def capture(recorded: Callable[[], StepResult]) -> tuple[Callable[[], None], StepResult]:
        nonlocal captures
        captures += 1
        results = torch.zeros(()), torch.zeros((), dtype=torch.int64)

        def replay() -> None:
            nonlocal replays
            replays += 1
            for own, new in zip(results, recorded(), strict=True):
                own.copy_(new)

        return replay, results

    monkeypatch.setattr(step, "capture", capture)
    expected, found = train(optimizer, captured=False), train(optimizer, captured=True)
    assert set(found) == set(expected)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert (captures, replays) == (2, 3), "of the steps 4 to 6 at the first rate, and 12 to 13 at the last"
