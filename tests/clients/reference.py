"""The narrow network of these tests as torch's plain operations, in float64 and without any module of ours."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_torch import AlexNet

Weights = Mapping[str, Tensor]


def float64_weights(net: AlexNet) -> dict[str, Tensor]:
    """Returns parameters in the grouped layout: tower k is the k-th part of each tensor along dimension 0."""
    state, towers = net.state_dict(), range(net.architecture.towers)
    names = [name.split(".", 2)[2] for name in state if name.startswith("towers.0.")]
    whole = {name: torch.cat([state[f"towers.{k}.{name}"] for k in towers]) for name in names}
    return {name: value.detach().double().contiguous().requires_grad_() for name, value in whole.items()}


def stage_outputs(weights: Weights, images: Tensor, relu: Callable[[Tensor], Tensor] = F.relu) -> dict[str, Tensor]:
    """Returns what each operation of the paper's network puts out, by the names of `plain`'s modules.

    Args:
        weights: in the grouped layout.
        images: (N, 3, 64, 64).
        relu: the activation; another one changes its derivative.
    """
    outputs, x = {}, F.pad(images.double(), (0, 3, 0, 3))
    geometry = {"conv1": (4, 0, 1), "conv2": (1, 2, 2), "conv3": (1, 1, 1), "conv4": (1, 1, 2), "conv5": (1, 1, 2)}
    for index, (conv, (stride, padding, groups)) in enumerate(geometry.items(), start=1):
        x = F.conv2d(x, weights[f"{conv}.weight"], weights[f"{conv}.bias"], stride, padding, groups=groups)
        outputs[conv] = x
        x = outputs[f"relu{index}"] = relu(x)
        if index in (1, 2):
            halves = [F.local_response_norm(half, 5, 5e-4, 0.75, 2.0) for half in x.chunk(2, 1)]
            x = outputs[f"norm{index}"] = torch.cat(halves, 1)
        if index in (1, 2, 5):
            x = outputs[f"pool{index}"] = F.max_pool2d(x, 3, 2)
    x = x.flatten(1)
    for index in (6, 7):
        x = outputs[f"fc{index}"] = F.linear(x, weights[f"fc{index}.weight"], weights[f"fc{index}.bias"])
        x = outputs[f"relu{index}"] = relu(x)
    outputs["fc8"] = F.linear(x, weights["fc8.weight"], weights["fc8.bias"])
    return outputs


def logits(net: AlexNet, images: Tensor) -> Tensor:
    """Returns the logits (N, classes) in float64."""
    return stage_outputs(float64_weights(net), images)["fc8"].detach()


def multiply_adds(batch: int) -> int:
    """Returns the multiply-adds of all convolutions and linear layers: outputs times inputs of each output."""
    convs = 15**2 * 16 * 3 * 11**2 + 7**2 * 16 * 8 * 5**2 + 3**2 * 16 * (16 + 8 + 8) * 3**2
    return batch * (convs + 16 * 64 + 64 * 64 + 64 * 6)


def assert_near(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Asserts that float32 results differ from float64's by at most a part of the largest value, as rounding does."""
    assert actual.shape == expected.shape
    error = (actual.detach().double() - expected.detach()).abs().max() / expected.detach().abs().max()
    assert error < tolerance, f"differs by {error:.2g} of the largest value"
