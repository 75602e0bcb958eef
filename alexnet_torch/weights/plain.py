"""The network as an ordinary nn.Sequential: one device, maps of all towers, one module for each operation."""

from collections import Counter
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.architecture import Architecture, Conv, Linear, Operation
from alexnet_torch.weights.model_file import TrainedModel
from alexnet_torch.weights.state_dicts import grouped_state_dict


def plain(net_or_model: AlexNet | TrainedModel, unit_range: bool = False) -> nn.Sequential:
    """Returns a copy of a network as an nn.Sequential of plain modules, for tools that use hooks or trace graphs.

    The modules have the names of operations and the stage's number: conv1, relu1, norm1, pool1, conv2, ..., pool5,
    flatten, fc6, relu6, drop6, fc7, relu7, drop7, fc8; where needed, `pad1` and torchvision's `avgpool`. None works in
    place or repeats. Maps have the channels of all towers; where towers read only their own, a stage has groups. The
    state dict is the grouped layout, on the first tower's device; mode and type are the network's.

    Args:
        net_or_model: the network; or a model, which has a mean image too.
        unit_range: start with a module `input`, so that it reads RGB images (N, 3, H, W) of 0..1; without it, they are
            RGB of 0..255 minus the mean image.

    Raises:
        TypeError: `net_or_model` is neither.
        ValueError: the network holds only a part of its parameters, or `unit_range` lacks a mean image.
    """
    if not isinstance(net_or_model, AlexNet | TrainedModel):
        raise TypeError(f"net_or_model must be an AlexNet or a TrainedModel, not {type(net_or_model).__name__}")
    net = net_or_model if isinstance(net_or_model, AlexNet) else net_or_model.net
    sequence, used = nn.Sequential(), Counter[str]()
    if unit_range:
        if isinstance(net_or_model, AlexNet):
            raise ValueError("unit_range needs a mean image: pass the model that load_model returns, not its network")
        sequence.add_module("input", SubtractMean(net_or_model.centre_mean().to(next(net.parameters())), 255))
    with torch.device("meta"):  # the weights are assigned below
        for name, module in _modules(net.architecture, net.num_classes, net.image_size):
            used[name] += 1
            sequence.add_module(name if used[name] == 1 else f"{name}_{used[name]}", module)
    weights, shapes = grouped_state_dict(net), {name: value.shape for name, value in sequence.state_dict().items()}
    if {name: value.shape for name, value in weights.items()} != shapes:
        raise ValueError("the network holds only a part of its parameters; load the full model in one process")
    sequence.load_state_dict(weights, assign=True)
    return sequence.train(net.training)


def _modules(net: Architecture, num_classes: int, image_size: int) -> Iterator[tuple[str, nn.Module]]:
    channels = 3
    for number, conv in enumerate(net.convs, 1):
        left, right, top, bottom = conv.padding
        is_symmetric = left == right and top == bottom
        if not is_symmetric:
            yield f"pad{number}", nn.ZeroPad2d(conv.padding)
        padding, groups = (top, left) if is_symmetric else (0, 0), _groups(net, conv)
        yield conv.name, nn.Conv2d(channels, conv.channels, conv.kernel, conv.stride, padding, groups=groups)
        for operation in conv.after:
            yield f"{operation}{number}", _operation(net, operation, conv.name)
        channels = conv.channels
        if conv is net.convs[-1] and net.adaptive_pool is not None:
            yield f"avgpool{number}", nn.AdaptiveAvgPool2d(net.adaptive_pool)
        if conv.name in net.dropout:
            yield f"drop{number}", nn.Dropout(net.dropout_rate)
    yield "flatten", nn.Flatten()
    inputs = channels * net.final_side(image_size) ** 2
    for number, linear in enumerate(net.linears, 1 + len(net.convs)):
        outputs, groups = linear.width or num_classes, _groups(net, linear)
        yield linear.name, nn.Linear(inputs, outputs) if groups == 1 else GroupedLinear(inputs, outputs, groups)
        if linear is not net.linears[-1]:
            yield f"{net.linear_activation}{number}", _operation(net, net.linear_activation, linear.name)
        if linear.name in net.dropout:
            yield f"drop{number}", nn.Dropout(net.dropout_rate)
        inputs = outputs


def _groups(net: Architecture, stage: Conv | Linear) -> int:
    return 1 if stage.reads_all_towers or stage is net.stages[0] else net.towers


def _operation(net: Architecture, operation: Operation, stage: str) -> nn.Module:
    norm, spatial = net.norm, net.spatial_norm
    if operation == "pool":
        return nn.MaxPool2d(net.pool_size, net.pool_stride, ceil_mode=net.pools_up(stage))
    if operation == "avg_pool":
        return nn.AvgPool2d(net.pool_size, net.pool_stride, ceil_mode=net.pools_up(stage), count_include_pad=False)
    if operation == "norm":
        values, groups = (norm.window, norm.alpha, norm.beta, norm.k), 1 if norm.across_towers else net.towers
        return nn.LocalResponseNorm(*values) if groups == 1 else GroupedResponseNorm(*values, groups)
    if operation == "spatial_norm":
        return SpatialResponseNorm(spatial.window, spatial.alpha, spatial.beta, spatial.k)
    return nn.Tanh() if operation == "tanh" else nn.ReLU()


class SubtractMean(nn.Module):
    """Subtracts the mean image (3, H, W), which is no parameter, from the images times a factor."""

    mean: Tensor

    def __init__(self, mean: Tensor, factor: int = 1) -> None:
        super().__init__()
        self.factor = factor
        self.register_buffer("mean", mean, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return images * self.factor - self.mean


class GroupedResponseNorm(nn.LocalResponseNorm):
    """Response normalisation within each of `groups` equal groups of channels."""

    def __init__(self, size: int, alpha: float, beta: float, k: float, groups: int) -> None:
        super().__init__(size, alpha, beta, k)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        by_group = x.unflatten(1, (self.groups, -1)).flatten(0, 1)  # (N * groups, C / groups, H, W)
        # no super(): torch.jit.script has none
        normalised: Tensor = F.local_response_norm(by_group, self.size, self.alpha, self.beta, self.k)
        return torch.flatten(normalised.unflatten(0, (-1, self.groups)), 1, 2)


class SpatialResponseNorm(nn.LocalResponseNorm):
    """Response normalisation over a square in each channel; alpha is divided by size^2 at borders too."""

    def forward(self, x: Tensor) -> Tensor:
        mean = F.avg_pool2d(x * x, self.size, 1, self.size // 2)  # counts the zeros of the padding
        return x * (self.k + self.alpha * mean) ** -self.beta


class GroupedLinear(nn.Module):
    """A linear layer in groups, whose outputs torch.tensor_split divides."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        weights, biases = self.weight.tensor_split(self.groups), self.bias.tensor_split(self.groups)
        inputs = x.unflatten(1, (self.groups, -1))  # (N, groups, inputs / groups)
        return torch.cat([F.linear(inputs[:, i], weights[i], biases[i]) for i in range(self.groups)], 1)
