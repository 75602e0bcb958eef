"""A captured step: the same training as without it, in whatever order rates and sizes of batches change."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from alexnet_torch import AlexNet, DropoutKey
from alexnet_torch.recipes.recipe import LearningRates, OptimizerName
from alexnet_torch.training import step
from alexnet_torch.training.optimizers import build_optimizer, parameter_groups, set_rates
from alexnet_torch.training.step import CapturedStep, Precision, StepResult, train_step
from tests.support.nets import narrow_net, with_random_weights

PRECISION = Precision("fp32", torch.device("cpu"))
RATES = (0.01,) * 6 + (0.001,) * 2 + (0.002,) * 5
ROWS = (4, 4, 3, 4, 4, 4, 4, 4, 4, 4, 4, 3, 4)


def batch(number: int, rows: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(number)
    return 60 * torch.randn(rows, 3, 64, 64, generator=random), torch.arange(rows) % 3


def train(optimizer_name: OptimizerName, captured: bool) -> dict[str, Tensor]:
    """Returns weights, the optimizer's tensors, losses and errors of steps in which rates and sizes change."""
    net: AlexNet = with_random_weights(narrow_net()).train()
    optimizer = build_optimizer(optimizer_name, parameter_groups(net, 0.0, 5e-4), 0.9)
    run_step: Callable[..., StepResult] = partial(train_step, net, optimizer, PRECISION)
    run_step = CapturedStep(run_step, optimizer, 4) if captured else run_step
    found: dict[str, Tensor] = {}
    for number, (rate, rows) in enumerate(zip(RATES, ROWS, strict=True)):
        set_rates(optimizer, LearningRates(rate, 2 * rate, {"fc6": 0.5 * rate}))
        key = DropoutKey(0, number, 0, net.dropout_keys(0, number))
        loss, wrong = run_step(*batch(number, rows), key, rows)
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
