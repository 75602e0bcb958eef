"""Modules of the plain network that torch does not have, built from torch's operations."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UnitRangeInput(nn.Module):
    """Converts images of 0..1 to what the network reads: times 255, minus the mean image.

    Args:
        mean: (3, H, W) floating-point, 0..255; a buffer that is not in the state dict.
    """

    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Returns (N, 3, H, W) for RGB images (N, 3, H, W) of 0..1."""
        return images * 255 - self.mean


class GroupedResponseNorm(nn.LocalResponseNorm):
    """Response normalisation in which no window reaches into another group of channels.

    Args:
        size, alpha, beta, k: as for nn.LocalResponseNorm.
        groups: the number of groups, which are of equal size.
    """

    def __init__(self, size: int, alpha: float, beta: float, k: float, groups: int) -> None:
        super().__init__(size, alpha, beta, k)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Returns (N, C, H, W) for maps (N, C, H, W)."""
        by_group = x.unflatten(1, (self.groups, -1)).flatten(0, 1)  # (N * groups, C / groups, H, W)
        normalised: Tensor = F.local_response_norm(by_group, self.size, self.alpha, self.beta, self.k)
        return torch.flatten(normalised.unflatten(0, (-1, self.groups)), 1, 2)

    def extra_repr(self) -> str:
        """Returns the arguments."""
        return f"{super().extra_repr()}, groups={self.groups}"


class SpatialResponseNorm(nn.Module):
    """Response normalisation over a square within each channel, as in the 2012 source.

    Args:
        size: the side of the square, odd; it is clipped at the borders.
        alpha: divided by size^2.
        beta, k: as for nn.LocalResponseNorm.
    """

    def __init__(self, size: int, alpha: float, beta: float, k: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        """Returns (N, C, H, W) for maps (N, C, H, W)."""
        # avg_pool2d counts the zeros of the padding: the divisor is size^2 at the borders too
        mean = F.avg_pool2d(x * x, self.size, 1, self.size // 2)
        return x * (self.k + self.alpha * mean) ** -self.beta

    def extra_repr(self) -> str:
        """Returns the arguments."""
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class GroupedLinear(nn.Module):
    """A linear layer in which each group of outputs reads its own group of inputs.

    Args:
        inputs: a multiple of `groups`.
        outputs: if not a multiple of `groups`, the first groups have one more, as torch.tensor_split gives them.
        groups: the number of groups.
    """

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Returns (N, outputs) for (N, inputs)."""
        weights, biases = self.weight.tensor_split(self.groups), self.bias.tensor_split(self.groups)
        inputs = x.unflatten(1, (self.groups, -1))  # (N, groups, inputs / groups)
        parts = [F.linear(inputs[:, group], weights[group], biases[group]) for group in range(self.groups)]
        return torch.cat(parts, 1)

    def extra_repr(self) -> str:
        """Returns the sizes."""
        outputs, inputs = self.weight.shape
        return f"in_features={inputs * self.groups}, out_features={outputs}, groups={self.groups}"
