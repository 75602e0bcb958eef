"""Devices follow the parameters: networks that are moved, copied and saved, on the CPU and on a pretend device."""

import copy
import functools
import pickle
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_torch import AlexNet, DropoutKey, kernel_choice
from tests.support.nets import narrow_demo, with_random_weights

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 50
LABELS, KEY, CPU = torch.tensor([0, 2]), DropoutKey(0, 0), torch.device("cpu")


def double_net(devices: Sequence[str | torch.device] = ("cpu",)) -> AlexNet:
    """Returns a narrow network in float64, with the same weights on all devices."""
    torch.set_default_dtype(torch.float64)  # .double() would leave the pretend device's parameters in float32
    try:
        net = AlexNet(narrow_demo().architecture, 3, 64, devices)
    finally:
        torch.set_default_dtype(torch.float32)
    weights = with_random_weights(AlexNet(narrow_demo().architecture, 3, 64).double())
    net.load_state_dict(weights.state_dict())
    return net.train()


def gradients(net: AlexNet) -> dict[str, Tensor]:
    """Returns the gradients of a training step's loss, on the CPU, and the logits."""
    net.zero_grad()
    logits = net(IMAGES, KEY)
    F.cross_entropy(logits, LABELS.to(logits.device)).backward()
    parameters = {name: p.grad.cpu() for name, p in net.named_parameters() if p.grad is not None}
    return {"logits": logits.detach().cpu(), **parameters}


def assert_same_step(net: AlexNet, other: AlexNet) -> None:
    ours, theirs = gradients(net), gradients(other)
    assert set(ours) == set(theirs) == {"logits", *dict(net.named_parameters())}
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def move_a_network() -> None:
    from tests.support import pretend_device as pretend  # in the process of the fixture, as in the next

    net = double_net()
    moved = copy.deepcopy(net).to(pretend.DEVICE)
    assert moved.devices == [pretend.DEVICE] * 2
    assert moved(IMAGES, KEY).device == pretend.DEVICE
    assert_same_step(moved, net)
    assert moved.cpu().devices == [CPU] * 2
    assert_same_step(moved, net)


def send_two_devices_to_one() -> None:
    from tests.support import pretend_device as pretend

    two = double_net(["cpu", pretend.DEVICE])
    assert two.devices == [CPU, pretend.DEVICE]
    for device in (pretend.DEVICE, CPU):
        one = two.to(device)
        assert one.devices == [device] * 2
        pretend.COPIES.clear()
        assert one.eval().features(IMAGES.to(device), "fc7").device == device
        assert not [copied for copied in pretend.COPIES if copied[2] != IMAGES.shape]
        assert_same_step(one.train(), double_net())


@pytest.mark.parametrize("check", [move_a_network, send_two_devices_to_one])
def test_on_a_second_device(check: Callable[[], None], pretend_process: Executor) -> None:
    pretend_process.submit(check).result()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_copies_share_nothing_with_the_original(copied: Callable[[AlexNet], AlexNet]) -> None:
    net = double_net()
    other = copied(net)
    assert_same_step(other, net)
    before = gradients(net)["logits"]
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(gradients(net)["logits"], before)
    assert gradients(other)["logits"].abs().max() == 0


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-2), (torch.bfloat16, 6e-2), (torch.float32, 1e-5)])
def test_types_follow_the_parameters(dtype: torch.dtype, tolerance: float) -> None:
    """Tolerances: a few roundings of the type, relative to the largest logit."""
    net = double_net().eval()
    expected, logits = net(IMAGES), net.to(dtype)(IMAGES.to(dtype))
    assert logits.dtype == dtype
    assert (logits.double() - expected).abs().max() <= tolerance * expected.abs().max()


def test_without_a_c_compiler_gpus_compute_the_formulas_and_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Triton compiles its driver where it is first asked for."""

    class Driver:
        @property
        def active(self) -> object:
            raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nmore")

    monkeypatch.setattr(kernel_choice, "_triton_works", functools.cache(kernel_choice._triton_works.__wrapped__))
    monkeypatch.setitem(sys.modules, "triton.runtime.driver", SimpleNamespace(driver=Driver()))
    on_gpu = SimpleNamespace(is_cpu=False, is_cuda=True)
    monkeypatch.setattr(kernel_choice, "Tensor", SimpleNamespace)
    assert [kernel_choice.choose_kernel(on_gpu) for _ in range(2)] == ["formula", "formula"]  # type: ignore[arg-type]
    (line,) = caplog.messages
    assert line.endswith(
        "run slower, without Triton's kernels: Failed to find C compiler. Please specify via CC environment variable."
    )
