"""Reads Caffe's files: the weights of a .caffemodel and the mean image of a .binaryproto.

Both are protobuf messages. The few fields read here are declared below, with their numbers in
Caffe's caffe.proto; the protobuf runtime decodes them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from alexnet_torch.errors import UserError
from alexnet_torch.model.parameter_names import parameter_name
from alexnet_torch.weights.grouped import FileLayer

# message: (field, number, type, repeated); a type is a scalar of descriptor.proto or a message above
MESSAGES: dict[str, list[tuple[str, int, str, bool]]] = {
    "BlobShape": [("dim", 1, "int64", True)],
    "BlobProto": [
        ("num", 1, "int32", False),  # these four in files older than `shape`
        ("channels", 2, "int32", False),
        ("height", 3, "int32", False),
        ("width", 4, "int32", False),
        ("data", 5, "float", True),
        ("shape", 7, "BlobShape", False),
        ("double_data", 8, "double", True),
    ],
    "LayerParameter": [("name", 1, "string", False), ("type", 2, "string", False), ("blobs", 7, "BlobProto", True)],
    # until 2014; its type is an enumeration, stored as an integer
    "V1LayerParameter": [("name", 4, "string", False), ("type", 5, "int32", False), ("blobs", 6, "BlobProto", True)],
    "NetParameter": [("layers", 2, "V1LayerParameter", True), ("layer", 100, "LayerParameter", True)],
}
_V1_LRN, _V1_POOLING = 15, 17  # values of that enumeration


def message_class(name: str) -> Any:
    """Creates the protobuf class of one of `MESSAGES`."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for message, declared in MESSAGES.items():
        fields = file.message_type.add(name=message).field
        for field_name, number, kind, repeated in declared:
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            field = fields.add(name=field_name, number=number, label=label)
            if kind in MESSAGES:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                field.type = getattr(kinds, f"TYPE_{kind.upper()}")
                field.options.packed = repeated and kind != "string"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}"))


def read_layers(path: Path) -> list[FileLayer]:
    """Reads the layers with weights of a .caffemodel, in its order; conv1's channel order is Caffe's, BGR.

    Raises:
        UserError: the file is not a .caffemodel, or is CaffeNet's; or a layer has no bias; or its
            number of values does not fit its shape.
    """
    net = _parse(path, "NetParameter")
    refuse_caffenet(path, [layer.type for layer in net.layer], "LRN", "Pooling")
    refuse_caffenet(path, [layer.type for layer in net.layers], _V1_LRN, _V1_POOLING)
    layers = []
    for layer in (*net.layer, *net.layers):
        if not layer.blobs:
            continue
        if len(layer.blobs) != 2:
            found = f"layer {layer.name} has {len(layer.blobs)} blobs, not a weight and a bias"
            raise UserError(f"{path}: {found}; name an AlexNet weight file")
        names = parameter_name(layer.name, "weight"), parameter_name(layer.name, "bias")
        weight, bias = (_blob_to_array(path, name, blob) for name, blob in zip(names, layer.blobs, strict=True))
        layers.append(FileLayer(layer.name, *names, torch.from_numpy(weight), torch.from_numpy(bias.reshape(-1))))
    if not layers:
        raise UserError(f"{path}: contains no layer with weights; name a .caffemodel of 2013 or later")
    return layers


def refuse_caffenet(path: Path, layer_types: Sequence[Any], norm: Any, pool: Any) -> None:
    """Refuses CaffeNet: its weights have AlexNet's shapes, but it pools before it normalises.

    Args:
        path: the file, for the message.
        layer_types: the types of its layers, in order.
        norm, pool: the types of a response normalisation and of a pooling layer.
    """
    if norm in layer_types and pool in layer_types and layer_types.index(pool) < layer_types.index(norm):
        reason = "pools before it normalises, as CaffeNet does and AlexNet does not"
        raise UserError(f"{path}: {reason}; name an AlexNet weight file")


def read_mean_image(path: Path) -> np.ndarray:
    """Reads the mean image of a .binaryproto, such as Caffe's imagenet_mean: (S, S, 3) float32 RGB, 0..255.

    Raises:
        UserError: the file contains no square image of three channels.
    """
    mean = _blob_to_array(path, "the mean", _parse(path, "BlobProto"))
    if mean.ndim != 3 or mean.shape[0] != 3 or mean.shape[1] != mean.shape[2]:
        raise UserError(f"{path}: the mean's shape is {mean.shape}, not (3, S, S); name a square mean image")
    return np.ascontiguousarray(mean[::-1].transpose(1, 2, 0))


def _parse(path: Path, message: str) -> Any:
    try:
        return message_class(message).FromString(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a file that Caffe wrote") from error
    except DecodeError as error:
        raise UserError(f"{path}: is damaged or not a Caffe file ({error}); copy it again") from error


def _blob_to_array(path: Path, name: str, blob: Any) -> np.ndarray:
    shape = tuple(blob.shape.dim) or (blob.num, blob.channels, blob.height, blob.width)
    while len(shape) > 1 and shape[0] == 1:  # old files pad a linear weight's two sizes and a bias's one with 1s
        shape = shape[1:]
    values = np.array(blob.data or blob.double_data, np.float32)
    if values.size != np.prod(shape):
        raise UserError(f"{path}: {name} has shape {shape} but {values.size} values; copy the file again")
    return values.reshape(shape)
