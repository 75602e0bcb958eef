"""A step as one graph: the same training, and nothing in it that a CUDA graph could not replay."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd

from alexnet_torch import AlexNet, DropoutKey
from alexnet_torch.recipes.schedules import LearningRates
from alexnet_torch.training.captured_step import CapturedStep
from alexnet_torch.training.optimizers import PaperSGD, parameter_groups, set_rates
from alexnet_torch.training.precision import Precision
from alexnet_torch.training.trainer import train_step
from tests.support.nets import narrow_net, with_random_weights

PRECISION = Precision(None, torch.device("cpu"))
READS_BACK = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "unique")


@pytest.fixture(autouse=True)
def _own_compiler() -> Iterator[None]:
    """Leaves other tests their settings; fails where a step is compiled again although only numbers changed."""
    with torch._dynamo.config.patch(trace_autograd_ops=False, error_on_recompile=True):
        torch._dynamo.reset()
        yield
    torch._dynamo.reset()


def learner(net: AlexNet, frozen: bool = False) -> PaperSGD:
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(not (frozen and "conv1" in name))
    return PaperSGD(parameter_groups(net, 0.0, 5e-4))


def batch(step: int, rows: int = 4) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(step)
    return 60 * torch.randn(rows, 3, 64, 64, generator=random), torch.arange(rows) % 3


def train(net: AlexNet, step_of: Callable[[PaperSGD], Callable[..., Any]], frozen: bool = False) -> dict[str, Tensor]:
    """Returns weights, velocities, losses and errors of five steps, in which the rate changes."""
    optimizer = learner(net, frozen)
    function = step_of(optimizer)
    found: dict[str, Tensor] = {}
    for step, rate in enumerate((0.01, 0.01, 0.001, 0.001, 0.01)):
        set_rates(optimizer, LearningRates(rate, 2 * rate, {"fc6": 0.5 * rate}))
        key = DropoutKey(0, step, 0, net.dropout_keys(0, step))
        loss, wrong = function(net, optimizer, *batch(step), key, PRECISION, 4)
        found |= {f"loss {step}": loss.clone(), f"wrong {step}": wrong.clone()}
    for name, parameter in net.named_parameters():
        found[name] = parameter.detach()
        found |= {f"{name}.{key}": value for key, value in optimizer.state[parameter].items()}
    return found


def random_net() -> AlexNet:
    return with_random_weights(narrow_net()).train()


def assert_same_training(backend: str, frozen: bool) -> None:
    """Tolerance: the update's products are rounded in another order, and Inductor's sums are in another one."""
    expected = train(random_net(), lambda _: train_step, frozen)
    net = random_net()
    found = train(net, lambda optimizer: CapturedStep(net, optimizer, PRECISION, backend, None), frozen)
    assert set(found) == set(expected)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=name)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_the_graph_trains_as_the_step_and_is_made_once() -> None:
    """With frozen weights, the update of all others but not of these."""
    torch._dynamo.utils.counters.clear()
    assert_same_training("eager", True)


@pytest.mark.slow
def test_compiled_by_inductor_it_trains_as_the_step() -> None:
    torch._dynamo.utils.counters.clear()
    assert_same_training("inductor", False)


def test_nothing_in_the_graph_reads_back() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        del inputs
        graphs.append(graph)
        return graph.forward

    net = random_net()
    optimizer = learner(net)
    backend = aot_autograd(fw_compiler=keep, keep_inference_input_mutations=True)  # as Inductor has it
    captured = CapturedStep(net, optimizer, PRECISION, backend, None)
    key = DropoutKey(0, 0, 0, net.dropout_keys(0, 0))
    captured(net, optimizer, *batch(0), key, PRECISION, 4)
    (graph,) = graphs
    nodes = list(graph.graph.nodes)
    assert not [node for node in nodes if node.op == "get_attr"], "constants would be copied from the host"
    operations = [str(node.target) for node in nodes if node.op == "call_function"]
    names = [operation.split(".")[1] for operation in operations if operation.startswith("aten.")]
    assert {"convolution", "convolution_backward", "nll_loss_backward", "copy_"} <= set(names), "all of the step"
    assert not set(names) & set(READS_BACK)
    assert names.count("copy_") == 2 * len(list(net.parameters())), "weights and velocities are updated in place"


def compute_on_the_device() -> None:
    """What is compiled, in eager mode: the device refuses tensors of the host, and records what is sent or read."""
    from tests.support import pretend_device as pretend  # in the process of the fixture

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda function, **_: function)
        net = random_net().to(pretend.DEVICE)
        optimizer = learner(net)
        precision = Precision(None, pretend.DEVICE)
        captured = CapturedStep(net, optimizer, precision)
    set_rates(optimizer, LearningRates(0.01, 0.02, {}))
    for step in range(2):
        images, labels = (tensor.to(pretend.DEVICE) for tensor in batch(step))
        key = DropoutKey(0, step, 0, net.dropout_keys(0, step).to(pretend.DEVICE))
        pretend.COPIES.clear()
        loss, _ = captured(net, optimizer, images, labels, key, precision, 4)
        sent = [copied[2] for copied in pretend.COPIES]
        assert sent == ([(len(optimizer.param_groups),)] if step == 0 else []), "only new learning rates are sent"
    assert float(loss.cpu()) > 0


def test_nothing_in_it_is_made_on_the_host(pretend_process: Executor) -> None:
    pretend_process.submit(compute_on_the_device).result()


@pytest.mark.slow
def test_a_smaller_batch_is_another_graph() -> None:
    net = random_net()
    optimizer = learner(net)
    set_rates(optimizer, LearningRates(0.01, 0.02, {}))
    captured = CapturedStep(net, optimizer, PRECISION, "eager", None)
    with torch._dynamo.config.patch(error_on_recompile=False):
        for step, rows in enumerate((4, 3, 4, 3)):
            key = DropoutKey(0, step, 0, net.dropout_keys(0, step))
            loss, _ = captured(net, optimizer, *batch(step, rows), key, PRECISION, rows)
            assert loss.isfinite()
