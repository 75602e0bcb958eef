"""Caffe's files: the weights of a .caffemodel and the mean image of a .binaryproto.

Both are protobuf messages; the few fields read here are described below, with their numbers in
Caffe's caffe.proto, for the protobuf runtime to decode.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from alexnet_torch.errors import UserError
from alexnet_torch.weights.grouped import Layer

# message: (field, number, type, repeated); types are scalars of descriptor.proto or messages above
MESSAGES: dict[str, list[tuple[str, int, str, bool]]] = {
    "BlobShape": [("dim", 1, "int64", True)],
    "BlobProto": [
        ("num", 1, "int32", False),  # these four before there was `shape`
        ("channels", 2, "int32", False),
        ("height", 3, "int32", False),
        ("width", 4, "int32", False),
        ("data", 5, "float", True),
        ("shape", 7, "BlobShape", False),
        ("double_data", 8, "double", True),
    ],
    "LayerParameter": [("name", 1, "string", False), ("type", 2, "string", False), ("blobs", 7, "BlobProto", True)],
    # until 2014; its type is an enumeration, on the wire an integer
    "V1LayerParameter": [("name", 4, "string", False), ("type", 5, "int32", False), ("blobs", 6, "BlobProto", True)],
    "NetParameter": [("layers", 2, "V1LayerParameter", True), ("layer", 100, "LayerParameter", True)],
}


_V1_LRN, _V1_POOLING = 15, 17


def message_class(name: str) -> Any:
    """The protobuf class of one of `MESSAGES`."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for message, described in MESSAGES.items():
        fields = file.message_type.add(name=message).field
        for field, number, kind, repeated in described:
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            added = fields.add(name=field, number=number, label=label)
            if kind in MESSAGES:
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                added.type = getattr(kinds, f"TYPE_{kind.upper()}")
                added.options.packed = repeated and kind != "string"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}"))


def read_layers(path: Path) -> list[Layer]:
    """The layers with weights of a .caffemodel, in its order; conv1's input channels are as Caffe has them, BGR.

    Raises:
        UserError: the file is no .caffemodel, or is CaffeNet's; or a layer has no bias, or another
            number of values than its shape says.
    """
    net = _parse(path, "NetParameter")
    refuse_pooling_first(path, [layer.type for layer in net.layer], "LRN", "Pooling")
    refuse_pooling_first(path, [layer.type for layer in net.layers], _V1_LRN, _V1_POOLING)
    layers = []
    for layer in (*net.layer, *net.layers):
        if not layer.blobs:
            continue
        if len(layer.blobs) != 2:
            raise UserError(f"{path}: layer {layer.name} has {len(layer.blobs)} blobs, not a weight and a bias")
        names = f"{layer.name}.weight", f"{layer.name}.bias"
        weight, bias = (_array(path, name, blob) for name, blob in zip(names, layer.blobs, strict=True))
        layers.append(Layer(layer.name, *names, torch.from_numpy(weight), torch.from_numpy(bias.reshape(-1))))
    if not layers:
        raise UserError(f"{path}: holds no layer with weights; name a .caffemodel of 2013 or later")
    return layers


def refuse_pooling_first(path: Path, kinds: Sequence[Any], norm: Any, pool: Any) -> None:
    """Refuses CaffeNet, whose weights have AlexNet's shapes but which pools before it normalises.

    Args:
        path: of the file, for the message.
        kinds: of its layers, in order.
        norm, pool: the kinds that are a response normalisation and a pooling.
    """
    if norm in kinds and pool in kinds and kinds.index(pool) < kinds.index(norm):
        raise UserError(f"{path}: pools before it normalises, as CaffeNet does and AlexNet does not; name an AlexNet's")


def read_mean(path: Path) -> np.ndarray:
    """The mean image of a .binaryproto, such as Caffe's imagenet_mean: (S, S, 3) float32 RGB, 0..255.

    Raises:
        UserError: the file holds no square image of three channels.
    """
    values = _array(path, "the mean", _parse(path, "BlobProto"))
    if values.ndim != 3 or values.shape[0] != 3 or values.shape[1] != values.shape[2]:
        raise UserError(f"{path}: the mean is {values.shape}, not (3, S, S)")
    return np.ascontiguousarray(values[::-1].transpose(1, 2, 0))


def _parse(path: Path, message: str) -> Any:
    try:
        return message_class(message).FromString(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a file of Caffe's") from error
    except DecodeError as error:
        raise UserError(f"{path}: is damaged, or no file of Caffe's ({error})") from error


def _array(path: Path, name: str, blob: Any) -> np.ndarray:
    shape = tuple(blob.shape.dim) or (blob.num, blob.channels, blob.height, blob.width)
    while len(shape) > 1 and shape[0] == 1:  # the four had ones before a linear layer's two, or a bias's one
        shape = shape[1:]
    values = np.array(blob.data or blob.double_data, np.float32)
    if values.size != np.prod(shape):
        raise UserError(f"{path}: {name} is of shape {shape} and has {values.size} values")
    return values.reshape(shape)
