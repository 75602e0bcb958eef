"""Caffe's files as Caffe would write them, of a narrow AlexNet with random weights.

Protobuf's wire format is written by hand: what is read shall not come of the reader's own description.
"""

import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from alexnet_torch.model.architecture import Architecture

CLASSES, SIZE = 7, 67  # pixels, at which Caffe's last map, too, is 1x1
WIDTHS = {"conv1": 16, "conv2": 32, "conv3": 24, "conv4": 24, "conv5": 16, "fc6": 48, "fc7": 40}
GROUPS = {"conv2": 2, "conv4": 2, "conv5": 2}


def narrow(net: Architecture) -> Architecture:
    return replace(
        net,
        convs=tuple(replace(conv, channels=WIDTHS[conv.name]) for conv in net.convs),
        linears=(*(replace(linear, width=WIDTHS[linear.name]) for linear in net.linears[:-1]), net.linears[-1]),
    )


def weights_of_caffe() -> dict[str, Tensor]:
    """Random weights by Caffe's names, with which every unit has a say; conv1's channels are BGR."""
    random = torch.Generator().manual_seed(0)
    sizes = {"conv1": (11, 3), "conv2": (5, 8), "conv3": (3, 32), "conv4": (3, 12), "conv5": (3, 12)}
    shapes: dict[str, tuple[int, ...]] = {s: (WIDTHS[s], inputs, k, k) for s, (k, inputs) in sizes.items()}
    shapes |= {"fc6": (48, 16), "fc7": (40, 48), "fc8": (CLASSES, 40)}
    weights = {}
    for stage, shape in shapes.items():
        fan_in = int(np.prod(shape[1:]))
        weights[f"{stage}.weight"] = torch.randn(shape, generator=random) * (2 / fan_in) ** 0.5
        weights[f"{stage}.bias"] = torch.randn(shape[0], generator=random)
    return weights


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def packed(array: np.ndarray) -> bytes:
    return field(5, array.astype("<f4").tobytes())


def one_by_one(array: np.ndarray) -> bytes:
    return b"".join(varint(5 << 3 | 5) + struct.pack("<f", value) for value in array.ravel().tolist())


def with_shape(array: np.ndarray) -> bytes:
    return field(7, field(1, b"".join(map(varint, array.shape))))


def with_four_sizes(array: np.ndarray) -> bytes:
    sizes = (1,) * (4 - array.ndim) + array.shape
    return b"".join(field(number, size) for number, size in enumerate(sizes, 1))


Blob = Callable[[np.ndarray], bytes]
Names = dict[str, int]
V2 = {"list": 100, "name": 1, "type": 2, "blobs": 7}
V1 = {"list": 2, "name": 4, "type": 5, "blobs": 6}


def caffemodel(
    weights: dict[str, Tensor], numbers: Names = V2, blob: Blob | None = None, pool_first: bool = False
) -> bytes:
    """A NetParameter: layers in order, those without weights too; with the fields `diff` and `top`, never read."""
    blob = blob or (lambda array: with_shape(array) + packed(array) + field(6, b"\0" * 8))
    lrn, pooling = (15, 17) if numbers is V1 else (b"LRN", b"Pooling")

    def layer(name: str, kind: int | bytes, *blobs: np.ndarray) -> bytes:
        body = field(numbers["name"], name.encode()) + field(3, b"top") + field(numbers["type"], kind)
        return field(numbers["list"], body + b"".join(field(numbers["blobs"], blob(array)) for array in blobs))

    net = field(1, b"AlexNet")
    for name in dict.fromkeys(key.split(".")[0] for key in weights):
        kind: int | bytes = 4 if numbers is V1 else b"Convolution"
        net += layer(name, kind, weights[f"{name}.weight"].numpy(), weights[f"{name}.bias"].numpy())
        if name == "conv1":
            between = [layer("norm1", lrn), layer("pool1", pooling)]
            net += b"".join(reversed(between) if pool_first else between)
    return net
