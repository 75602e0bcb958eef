"""A training step as one graph, which a GPU replays in one launch: `--compile` on one GPU."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.evaluation.metrics import count_wrong
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.dropout import DropoutKey
from alexnet_torch.training.optimizers import PaperSGD
from alexnet_torch.training.precision import Precision

Graph = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""Of images, labels, dropout keys and the images of the batch: the step's part of the loss, and its errors."""


def compile_step(
    net: AlexNet, optimizer: torch.optim.Optimizer, precision: Precision, ranks: Ranks
) -> "CapturedStep | None":
    """Returns a compiled step where the work is that of one GPU in one process; else compiles only the network.

    On a CPU there is nothing to launch. fp16 is left out, because whether its scaler skips an update is not known
    before the step; and Adam, whose update is torch's.
    """
    is_one_gpu = {device.type for device in net.devices} == {"cuda"} and len(set(net.devices)) == 1
    if is_one_gpu and ranks.world.size == 1 and not precision.scaler.is_enabled() and isinstance(optimizer, PaperSGD):
        return CapturedStep(net, optimizer, precision)
    net.compile_stages()
    return None


class CapturedStep:
    """`train_step` with forward pass, loss, backward pass and update compiled together.

    Nothing in it depends on a number of the host that changes from step to step, except the images, the labels and the
    keys of the masks: learning rates are on the device, and change there when the schedule says so. So CUDA graphs can
    replay it. A batch of another size, as the last one of an epoch, is another graph.

    Args:
        net: an AlexNet in training mode, with all towers on one device.
        optimizer: of its parameters.
        precision: without a scaler.
        backend: of torch.compile.
        mode: of torch.compile; "reduce-overhead" for CUDA graphs, which other devices ignore.
    """

    def __init__(
        self,
        net: AlexNet,
        optimizer: PaperSGD,
        precision: Precision,
        backend: str | Callable[..., object] = "inductor",
        mode: str | None = "reduce-overhead",
    ) -> None:
        # the backward pass and the update are traced with the forward pass; without it each would be a graph of its own
        torch._dynamo.config.trace_autograd_ops = True
        device = net.devices[0]
        self._optimizer, self._rates = optimizer, torch.zeros(len(optimizer.param_groups), device=device)
        self._known: list[float] | None = None  # what the rates on the device are
        torch._dynamo.mark_static_address(self._rates)
        graph = _step_of(net, optimizer, precision, self._rates)
        self._graph: Graph = torch.compile(graph, fullgraph=True, dynamic=False, backend=backend, mode=mode)

    def __call__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        images: Tensor,
        labels: Tensor,
        dropout: DropoutKey,
        precision: Precision,
        batch_size: int,
    ) -> tuple[Tensor, Tensor]:
        """As `train_step`, with the network, optimizer and precision of the constructor, and `dropout.values` given.

        The results are in memory that the next step overwrites.
        """
        del net, optimizer, precision
        assert dropout.values is not None
        assert dropout.first_row == 0
        rates = [group["lr"] for group in self._optimizer.param_groups]
        if rates != self._known:
            self._rates.copy_(torch.tensor(rates))
            self._known = rates
        return self._run(images, labels, dropout.values, batch_size)

    def _run(self, images: Tensor, labels: Tensor, keys: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
        torch.compiler.cudagraph_mark_step_begin()
        return self._graph(images, labels, keys, batch_size)


def _step_of(net: AlexNet, optimizer: PaperSGD, precision: Precision, rates: Tensor) -> Graph:
    """Returns the function to compile; `rates` (groups,) are the learning rates of the optimizer's groups."""
    updates = []
    for index, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            if not parameter.requires_grad:  # --freeze
                continue
            velocity = optimizer.negative_velocity(parameter)
            torch._dynamo.mark_static_address(velocity)
            updates.append((parameter, velocity, index, group["weight_decay"], group["momentum"]))
    parameters = [update[0] for update in updates]
    (kind,), dtype = precision.device_types, precision.dtype

    def step(images: Tensor, labels: Tensor, keys: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
        with torch.autocast(kind, dtype=dtype, enabled=dtype is not None):  # torch.compile knows no other context
            logits = net(images, DropoutKey(0, 0, 0, keys))  # (n, classes)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            loss = F.cross_entropy(logits, labels, reduction="sum") / batch_size
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for (parameter, velocity, index, decay, momentum), gradient in zip(updates, gradients, strict=True):
                # the rule of PaperSGD, with the rate on the device
                velocity.mul_(momentum).add_((gradient + decay * parameter) * rates[index])
                parameter.sub_(velocity)
        return loss.detach(), count_wrong(logits.detach(), labels, 1)

    return step
