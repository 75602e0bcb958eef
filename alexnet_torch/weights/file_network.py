"""The network that a weight file describes: its layers and operations, in order.

ONNX graphs and Caffe's files say how their weights are used: strides, padding, pooling, normalisation.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np

from alexnet_torch.model.architecture import PAPER, Activation
from alexnet_torch.weights.grouped import FileLayer

Padding = tuple[int, int, int, int] | Literal["same_upper", "same_lower"]
"""Padding at (left, right, top, bottom), or as much as gives ceil(side / stride) outputs, the odd one at the end
("same_upper") or at the start ("same_lower")."""


@dataclass(frozen=True)
class Step:
    """A step of a network.

    Attributes:
        name: the node's type and name in the file, for messages, such as "MaxPool pool1".
    """

    name: str


@dataclass(frozen=True)
class ConvStep(Step):
    """A convolution."""

    layer: FileLayer
    stride: int
    padding: Padding
    groups: int


@dataclass(frozen=True)
class LinearStep(Step):
    """A linear layer."""

    layer: FileLayer


@dataclass(frozen=True)
class ActivationStep(Step):
    """An activation."""

    kind: Activation


@dataclass(frozen=True)
class NormStep(Step):
    """Response normalisation across all channels; alpha is in PyTorch's convention, divided by the window."""

    window: int
    alpha: float
    beta: float
    k: float


@dataclass(frozen=True)
class PoolStep(Step):
    """Max-pooling; `ceil` keeps windows that reach past the right and bottom edge."""

    size: int
    stride: int
    padding: Padding
    ceil: bool


@dataclass(frozen=True)
class AveragePoolStep(Step):
    """Average pooling without padding; a size of None is the full map."""

    size: int | None
    stride: int


@dataclass(frozen=True)
class FileNetwork:
    """A network from a file.

    Attributes:
        steps: first to last, without those that do nothing at test time (dropout) or keep the order of the logits
            (softmax).
        image_size: side of the images in pixels; None if the file leaves it open.
        images, logits: the file's names of the first and of the last value.
        name: what the file calls the network, for messages; empty if it does not.
    """

    steps: tuple[Step, ...]
    image_size: int | None = None
    images: str = ""
    logits: str = ""
    name: str = ""

    @property
    def layers(self) -> dict[str, FileLayer]:
        """The layers by stage, first to last."""
        layers = [step.layer for step in self.steps if isinstance(step, ConvStep | LinearStep)]
        return dict(zip(PAPER.stage_names, layers, strict=True))


def check_is_alexnet(convs: int, linears: int, others: Sequence[str] = ()) -> None:
    """Refuses a network with other numbers of layers than AlexNet's.

    Args:
        convs, linears: the numbers of convolutions and of linear layers.
        others: the types of other nodes, which no AlexNet has, for the message.

    Raises:
        ValueError: the numbers differ; the message says what the file has.
    """
    expected = len(PAPER.convs), len(PAPER.linears)
    if (convs, linears) != expected:
        besides = f", and {', '.join(sorted(set(others)))}" if others else ""
        counts = f"{convs} convolution{'s' * (convs != 1)} and {linears} linear layer{'s' * (linears != 1)}{besides}"
        raise ValueError(f"it has {counts}, not AlexNet's {expected[0]} and {expected[1]}")


def shortest_decimal(value: float) -> float:
    """Returns the shortest decimal number with the same float32 value: 0.0001 for 9.999999747378752e-05."""
    return float(str(np.float32(value)))


@contextmanager
def add_network_name(name: str) -> Iterator[None]:
    """Adds the name of the file's network to the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"it seems to be {name}: {error}" if name else str(error)) from error
