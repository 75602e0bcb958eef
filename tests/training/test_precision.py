"""Mixed precision; and a step never waits for a GPU."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from alexnet_torch import AlexNet, DropoutKey
from alexnet_torch.data.augment import Crops, subtract_mean
from alexnet_torch.evaluation.metrics import count_wrong
from alexnet_torch.model.architecture import PAPER
from alexnet_torch.training.optimizers import PaperSGD
from alexnet_torch.training.step import Precision


def updated(scaler: torch.amp.GradScaler, factor: float = 1.0) -> tuple[PaperSGD, nn.Parameter]:
    """Returns a parameter after two updates, with the second gradient multiplied by `factor`."""
    p = nn.Parameter(torch.linspace(-1, 1, 7))
    optimizer = PaperSGD([{"params": [p], "lr": 0.1}])
    for times in (1.0, factor):
        scaler.scale((p**2).sum() * times).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return optimizer, p


def test_an_overflowed_gradient_skips_the_update_and_halves_the_scale() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer, p = updated(scaler, float("inf"))
    parameter = nn.Parameter(torch.linspace(-1, 1, 7))
    plain = PaperSGD([{"params": [parameter], "lr": 0.1}])
    (parameter**2).sum().backward()
    plain.step()
    torch.testing.assert_close(p, parameter)
    torch.testing.assert_close(optimizer.state[p]["negative_velocity"], plain.state[parameter]["negative_velocity"])
    assert scaler.get_scale() == 512.0


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_products_have_16_bits_and_normalisation_loss_and_weights_32(name: str) -> None:
    torch.manual_seed(0)
    net = AlexNet(PAPER, 10, 64, seed=0)
    images, labels = 60 * torch.randn(4, 3, 64, 64), torch.arange(4)
    exact = net.eval()(images)
    with Precision(name, torch.device("cpu")).autocast():
        logits = net(images)
        assert (
            net.features(images, "conv1").dtype == logits.dtype == (torch.bfloat16 if name == "bf16" else torch.float16)
        )
        loss = F.cross_entropy(logits.float(), labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(logits.float(), exact, rtol=0.05, atol=0.02 * exact.abs().max().item())
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())


@pytest.mark.parametrize(("name", "tf32"), [("fp32", False), ("tf32", True), ("bf16", True)])
def test_gpus_compute_as_the_option_says_and_the_same_bits_in_every_run(name: str, tf32: bool) -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
    Precision(name, torch.device("cpu"))
    assert not cudnn.deterministic
    Precision(name, torch.device("cuda"))
    assert (cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32) == (True, tf32, tf32)
    cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before


@pytest.mark.parametrize("name", [None, "bf16", "fp16"])
@pytest.mark.parametrize("devices", [["cuda:0"], ["cuda:0", "cuda:1"]], ids=["one", "two"])
def test_a_step_reads_nothing_back_from_the_gpu(name: str | None, devices: list[str]) -> None:
    """Fake tensors have no values: reading one, as .item() does, raises an error."""
    crops = Crops(np.array([3, 0]), np.array([1, 4]), np.array([True, False]))
    with FakeTensorMode():
        net = AlexNet(PAPER, 10, 64, devices).train()
        pixels = torch.empty(2, 64, 64, 3, dtype=torch.uint8, device="cuda:0")
        images = subtract_mean(pixels, crops, torch.empty(73, 73, 3, device="cuda:0"))
        labels = torch.zeros(2, dtype=torch.int64, device="cuda:0")
        with torch.autocast("cuda", torch.bfloat16 if name == "bf16" else torch.float16, enabled=name is not None):
            logits = net(images, DropoutKey(0, 0)).float()
            loss = F.cross_entropy(logits, labels)
        wrong = count_wrong(logits, labels, 1)
        assert loss.device == wrong.device == torch.device("cuda:0")
        with pytest.raises(Exception, match="_local_scalar_dense"):
            loss.item()
