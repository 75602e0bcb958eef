"""Label smoothing and gradient accumulation, against torch's loss and the step of the whole batch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_torch import DropoutKey
from alexnet_torch.training.step import Precision, train_step
from tests.support.nets import narrow_net, with_random_weights


def weights_and_result(parts: int, label_smoothing: float = 0.0) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    net = with_random_weights(narrow_net()).double().train()
    random = torch.Generator().manual_seed(1)
    images, labels = 60 * torch.randn(7, 3, 64, 64, dtype=torch.float64, generator=random), torch.arange(7) % 3
    optimizer, precision = torch.optim.SGD(net.parameters(), lr=0.01), Precision("fp32", torch.device("cpu"))
    loss, wrong = train_step(net, optimizer, precision, images, labels, DropoutKey(0, 3), 7, label_smoothing, parts)
    return net.state_dict(), loss, wrong


def test_parts_of_a_batch_are_the_step_of_the_whole_batch() -> None:
    torch.testing.assert_close(weights_and_result(3), weights_and_result(1), rtol=1e-12, atol=1e-12)


def test_label_smoothing_is_torchs() -> None:
    net = with_random_weights(narrow_net()).double().train()
    random = torch.Generator().manual_seed(1)
    images, labels = 60 * torch.randn(7, 3, 64, 64, dtype=torch.float64, generator=random), torch.arange(7) % 3
    expected = F.cross_entropy(net(images, DropoutKey(0, 3)), labels, label_smoothing=0.3)
    assert weights_and_result(1, 0.3)[1].item() == pytest.approx(expected.item())
