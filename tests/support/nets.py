"""Narrow networks for tests of what surrounds the network, and random weights for tests of what it computes."""

from dataclasses import replace

import torch
from torch import nn

from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.architecture import Architecture
from alexnet_torch.recipes.catalogue import demo
from alexnet_torch.recipes.recipe import Recipe


def narrow(architecture: Architecture, channels: int = 16, width: int = 64) -> Architecture:
    """Returns the architecture with few channels and narrow hidden linear stages."""
    convs = tuple(replace(conv, channels=channels) for conv in architecture.convs)
    *hidden, last = architecture.linears
    return replace(architecture, convs=convs, linears=(*(replace(linear, width=width) for linear in hidden), last))


def narrow_recipe(recipe: Recipe, width: int = 64) -> Recipe:
    """Returns the recipe with a narrow network."""
    return replace(recipe, architecture=narrow(recipe.architecture, width=width))


def narrow_demo() -> Recipe:
    """Returns the demo recipe with a narrow network: what is tested is not how well it learns."""
    return narrow_recipe(demo())


def narrow_net(num_classes: int = 3, image_size: int = 64, seed: int = 0) -> AlexNet:
    """Returns a network of the paper's two towers with few channels."""
    return AlexNet(narrow_demo().architecture, num_classes, image_size, seed=seed)


def with_random_weights(net: AlexNet, gain: float = 1.0, bias_std: float = 0.1) -> AlexNet:
    """Sets normally distributed weights, with which every unit matters and no tanh is saturated.

    With the paper's initial weights the logits depend on the biases only.
    """
    torch.manual_seed(0)
    for parameter in net.parameters():
        std = gain * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else bias_std
        nn.init.normal_(parameter, 0.0, std)
    return net


def count_parameters(net: nn.Module) -> int:
    """Returns the number of weights and biases."""
    return sum(parameter.numel() for parameter in net.parameters())
