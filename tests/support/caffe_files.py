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
V2 = {"list": 100, "bottom": 3, "top": 4, "name": 1, "type": 2, "blobs": 7}  # NetParameter.layer
V2 |= {"convolution": 106, "lrn": 118, "pooling": 121}
V1 = {"list": 2, "bottom": 2, "top": 3, "name": 4, "type": 5, "blobs": 6}  # NetParameter.layers, until 2014
V1 |= {"convolution": 10, "lrn": 18, "pooling": 19}
_V1_TYPES = {"Convolution": 4, "Data": 5, "Dropout": 6, "InnerProduct": 14, "LRN": 15, "Pooling": 17, "ReLU": 18}
_V1_TYPES |= {"SoftmaxWithLoss": 21, "Sigmoid": 19}

Layers = tuple[tuple[str, str, dict[str, int]], ...]
BVLC_ALEXNET: Layers = (
    ("Data", "data", {}),
    *(("Convolution", "conv1", {"stride": 4}), ("ReLU", "relu1", {}), ("LRN", "norm1", {}), ("Pooling", "pool1", {})),
    *(("Convolution", "conv2", {"pad": 2}), ("ReLU", "relu2", {}), ("LRN", "norm2", {}), ("Pooling", "pool2", {})),
    *(("Convolution", "conv3", {"pad": 1}), ("ReLU", "relu3", {})),
    *(("Convolution", "conv4", {"pad": 1}), ("ReLU", "relu4", {})),
    *(("Convolution", "conv5", {"pad": 1}), ("ReLU", "relu5", {}), ("Pooling", "pool5", {})),
    *(("InnerProduct", "fc6", {}), ("ReLU", "relu6", {}), ("Dropout", "drop6", {})),
    *(("InnerProduct", "fc7", {}), ("ReLU", "relu7", {}), ("Dropout", "drop7", {})),
    *(("InnerProduct", "fc8", {}), ("SoftmaxWithLoss", "loss", {})),
)
"""Layers of models/bvlc_alexnet/train_val.prototxt of Caffe: type, name and convolution settings."""


def caffenet() -> Layers:
    """Returns bvlc_alexnet's layers with pooling before normalisation, as in bvlc_reference_caffenet."""
    layers = list(BVLC_ALEXNET)
    for norm in (3, 7):
        layers[norm : norm + 2] = reversed(layers[norm : norm + 2])
    return tuple(layers)


def _float(number: int, value: float) -> bytes:
    return varint(number << 3 | 5) + struct.pack("<f", value)


def caffemodel(
    weights: dict[str, Tensor],
    numbers: FieldNumbers = V2,
    encode_blob: BlobEncoder | None = None,
    layers: Layers = BVLC_ALEXNET,
    alpha: float = 1e-4,
) -> bytes:
    """Encodes a NetParameter: layers in order, with their settings; with `diff`, which nobody reads."""
    encode_blob = encode_blob or (lambda array: with_shape(array) + packed_data(array) + field(6, b"\0" * 8))
    net, value = field(1, b"AlexNet"), b"data"
    for kind, name, settings in layers:
        in_place = kind in ("ReLU", "Dropout", "Sigmoid")
        bottom, value = value, value if in_place else name.encode()
        body = field(numbers["name"], name.encode()) + field(numbers["top"], value)
        body += field(numbers["type"], _V1_TYPES[kind] if numbers is V1 else kind.encode())
        if kind != "Data":
            body += field(numbers["bottom"], bottom)
        if kind == "Convolution":
            convolution = field(5, GROUPS.get(name, 1)) + field(3, settings.get("pad", 0))
            body += field(numbers["convolution"], convolution + field(6, settings.get("stride", 1)))
        elif kind == "LRN":
            body += field(numbers["lrn"], field(1, 5) + _float(2, alpha) + _float(3, 0.75))
        elif kind == "Pooling":
            window = field(2, settings.get("size", 3)) + field(3, 2)
            body += field(numbers["pooling"], field(1, settings.get("pool", 0)) + window)
        for parameter in ("weight", "bias"):
            if f"{name}.{parameter}" in weights:
                body += field(numbers["blobs"], encode_blob(weights[f"{name}.{parameter}"].numpy()))
        net += field(numbers["list"], body)
    return net
