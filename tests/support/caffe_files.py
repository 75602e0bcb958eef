"""Writes Caffe's files as Caffe does, of a narrow AlexNet with random weights.

Encodes protobuf's wire format by hand, so that tests of the reader do not depend on its message declarations.
"""

import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from alexnet_torch.model.architecture import Architecture
from alexnet_torch.model.parameter_names import stage_of

CLASSES, SIZE = 7, 67  # at 67 pixels Caffe's last feature map is 1x1, as the paper's is
WIDTHS = {"conv1": 16, "conv2": 32, "conv3": 24, "conv4": 24, "conv5": 16, "fc6": 48, "fc7": 40}
GROUPS = {"conv2": 2, "conv4": 2, "conv5": 2}


def narrow(architecture: Architecture) -> Architecture:
    *hidden, last = architecture.linears
    return replace(
        architecture,
        convs=tuple(replace(conv, channels=WIDTHS[conv.name]) for conv in architecture.convs),
        linears=(*(replace(linear, width=WIDTHS[linear.name]) for linear in hidden), last),
    )


def random_caffe_weights() -> dict[str, Tensor]:
    """Returns weights under Caffe's names with which every unit affects the logits; conv1's channels are BGR."""
    generator = torch.Generator().manual_seed(0)
    kernels = {"conv1": (3, 11, 11), "conv2": (8, 5, 5), "conv3": (32, 3, 3), "conv4": (12, 3, 3), "conv5": (12, 3, 3)}
    shapes: dict[str, tuple[int, ...]] = {stage: (WIDTHS[stage], *kernel) for stage, kernel in kernels.items()}
    shapes |= {"fc6": (48, 16), "fc7": (40, 48), "fc8": (CLASSES, 40)}
    weights = {}
    for stage, shape in shapes.items():
        fan_in = int(np.prod(shape[1:]))
        weights[f"{stage}.weight"] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        weights[f"{stage}.bias"] = torch.randn(shape[0], generator=generator)
    return weights


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def packed_data(array: np.ndarray) -> bytes:
    return field(5, array.astype("<f4").tobytes())


def unpacked_data(array: np.ndarray) -> bytes:
    return b"".join(varint(5 << 3 | 5) + struct.pack("<f", value) for value in array.ravel().tolist())


def with_shape(array: np.ndarray) -> bytes:
    return field(7, field(1, b"".join(map(varint, array.shape))))


def with_four_sizes(array: np.ndarray) -> bytes:
    sizes = (1,) * (4 - array.ndim) + array.shape
    return b"".join(field(number, size) for number, size in enumerate(sizes, 1))


BlobEncoder = Callable[[np.ndarray], bytes]
FieldNumbers = dict[str, int]
V2 = {"list": 100, "name": 1, "type": 2, "blobs": 7}  # NetParameter.layer
V1 = {"list": 2, "name": 4, "type": 5, "blobs": 6}  # NetParameter.layers, until 2014


def caffemodel(
    weights: dict[str, Tensor],
    numbers: FieldNumbers = V2,
    encode_blob: BlobEncoder | None = None,
    pool_first: bool = False,
) -> bytes:
    """Encodes a NetParameter: layers in order, some without weights; with `diff` and `top`, which nobody reads."""
    encode_blob = encode_blob or (lambda array: with_shape(array) + packed_data(array) + field(6, b"\0" * 8))
    lrn, pooling = (15, 17) if numbers is V1 else (b"LRN", b"Pooling")

    def layer(name: str, kind: int | bytes, *blobs: np.ndarray) -> bytes:
        body = field(numbers["name"], name.encode()) + field(3, b"top") + field(numbers["type"], kind)
        return field(numbers["list"], body + b"".join(field(numbers["blobs"], encode_blob(array)) for array in blobs))

    net = field(1, b"AlexNet")
    for name in dict.fromkeys(map(stage_of, weights)):
        kind: int | bytes = 4 if numbers is V1 else b"Convolution"
        net += layer(name, kind, weights[f"{name}.weight"].numpy(), weights[f"{name}.bias"].numpy())
        if name == "conv1":
            norm_pool = [layer("norm1", lrn), layer("pool1", pooling)]
            net += b"".join(reversed(norm_pool) if pool_first else norm_pool)
    return net
