"""Reads Caffe's files: the weights of a .caffemodel and the mean image of a .binaryproto.

Both are protobuf messages. The few fields read here are declared below, with their numbers in
Caffe's caffe.proto; the protobuf runtime decodes them.
"""

from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from alexnet_torch.errors import UserError

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
    "ConvolutionParameter": [
        ("pad", 3, "uint32", True),
        ("kernel_size", 4, "uint32", True),
        ("group", 5, "uint32", False),
        ("stride", 6, "uint32", True),
        ("pad_h", 9, "uint32", False),
        ("pad_w", 10, "uint32", False),
        ("stride_h", 13, "uint32", False),
        ("stride_w", 14, "uint32", False),
        ("dilation", 18, "uint32", True),
    ],
    "LRNParameter": [
        ("local_size", 1, "uint32", False),
        ("alpha", 2, "float", False),
        ("beta", 3, "float", False),
        ("norm_region", 4, "int32", False),
        ("k", 5, "float", False),
    ],
    "PoolingParameter": [
        ("pool", 1, "int32", False),
        ("kernel_size", 2, "uint32", False),
        ("stride", 3, "uint32", False),
        ("pad", 4, "uint32", False),
        ("kernel_h", 5, "uint32", False),
        ("kernel_w", 6, "uint32", False),
        ("stride_h", 7, "uint32", False),
        ("stride_w", 8, "uint32", False),
        ("pad_h", 9, "uint32", False),
        ("pad_w", 10, "uint32", False),
        ("global_pooling", 12, "bool", False),
        ("round_mode", 13, "int32", False),
    ],
    "LayerParameter": [
        ("name", 1, "string", False),
        ("type", 2, "string", False),
        ("bottom", 3, "string", True),
        ("top", 4, "string", True),
        ("blobs", 7, "BlobProto", True),
        ("convolution_param", 106, "ConvolutionParameter", False),
        ("lrn_param", 118, "LRNParameter", False),
        ("pooling_param", 121, "PoolingParameter", False),
    ],
    # until 2014; its type is an enumeration, stored as an integer
    "V1LayerParameter": [
        ("bottom", 2, "string", True),
        ("top", 3, "string", True),
        ("name", 4, "string", False),
        ("type", 5, "int32", False),
        ("blobs", 6, "BlobProto", True),
        ("convolution_param", 10, "ConvolutionParameter", False),
        ("lrn_param", 18, "LRNParameter", False),
        ("pooling_param", 19, "PoolingParameter", False),
    ],
    "NetParameter": [
        ("name", 1, "string", False),
        ("layers", 2, "V1LayerParameter", True),
        ("layer", 100, "LayerParameter", True),
    ],
}


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
                field.options.packed = repeated and kind in ("float", "double", "int64")  # as in caffe.proto
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}"))


def read_net(path: Path) -> Any:
    """Reads a .caffemodel: its NetParameter.

    Raises:
        UserError: the file is not a .caffemodel.
    """
    return _parse(path, "NetParameter")


def read_mean_image(path: Path) -> np.ndarray:
    """Reads the mean image of a .binaryproto, such as Caffe's imagenet_mean: (S, S, 3) float32 RGB, 0..255.

    Raises:
        UserError: the file contains no square image of three channels.
    """
    mean = blob_to_array(path, "the mean", _parse(path, "BlobProto"))
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


def blob_to_array(path: Path, name: str, blob: Any) -> np.ndarray:
    """Returns a BlobProto's values, float32.

    Args:
        path, name: the file and the blob's name, for messages.
        blob: the BlobProto.

    Raises:
        UserError: the number of values does not fit the shape.
    """
    shape = tuple(blob.shape.dim) or (blob.num, blob.channels, blob.height, blob.width)
    while len(shape) > 1 and shape[0] == 1:  # old files pad a linear weight's two sizes and a bias's one with 1s
        shape = shape[1:]
    values = np.array(blob.data or blob.double_data, np.float32)
    if values.size != np.prod(shape):
        raise UserError(f"{path}: {name} has shape {shape} but {values.size} values; copy the file again")
    return values.reshape(shape)
