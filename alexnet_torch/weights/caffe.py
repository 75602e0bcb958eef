"""Reads Caffe's files, which are protobuf messages: the network of a .caffemodel, the mean image of a .binaryproto."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from torch import Tensor

from alexnet_torch.files import reading
from alexnet_torch.model.architecture import Architecture
from alexnet_torch.model.presets import PRESETS
from alexnet_torch.weights.state_dicts import require_alexnet

# "name number type" as in Caffe's caffe.proto; *: repeated, =: the default; enumerations are integers
_MESSAGES = {
    "BlobShape": "dim 1 int64*",
    # num to width: in files older than `shape`
    "BlobProto": "num 1 int32, channels 2 int32, height 3 int32, width 4 int32, data 5 float*, shape 7 BlobShape, "
    "double_data 8 double*",
    "ConvolutionParameter": "pad 3 uint32*, group 5 uint32=1, stride 6 uint32*, pad_h 9 uint32, pad_w 10 uint32, "
    "stride_h 13 uint32, stride_w 14 uint32, dilation 18 uint32*",
    "LRNParameter": "local_size 1 uint32=5, alpha 2 float=1, beta 3 float=0.75, norm_region 4 int32, k 5 float=1",
    "PoolingParameter": "pool 1 int32, kernel_size 2 uint32, stride 3 uint32=1, pad 4 uint32, kernel_h 5 uint32, "
    "kernel_w 6 uint32, stride_h 7 uint32, stride_w 8 uint32, pad_h 9 uint32, pad_w 10 uint32, "
    "global_pooling 12 bool, round_mode 13 int32",
    "LayerParameter": "name 1 string, type 2 string, blobs 7 BlobProto*, convolution_param 106 ConvolutionParameter, "
    "lrn_param 118 LRNParameter, pooling_param 121 PoolingParameter",
    # until 2014; its type is an enumeration
    "V1LayerParameter": "name 4 string, type 5 int32, blobs 6 BlobProto*, convolution_param 10 ConvolutionParameter, "
    "lrn_param 18 LRNParameter, pooling_param 19 PoolingParameter",
    "NetParameter": "layers 2 V1LayerParameter*, layer 100 LayerParameter*",
}
_V1_TYPES = {4: "Convolution", 14: "InnerProduct", 15: "LRN", 17: "Pooling", 18: "ReLU"}
_V1_TYPES |= dict.fromkeys((1, 5, 6, 8, 9, 12, 20, 21, 22, 24, 29, 32, 36), "Data")  # or what else computes nothing
_COMPUTES_NOTHING = re.compile(r"\w*Data|Input|Dropout|Split|Flatten|Softmax\w*|Accuracy|Silence")
_FIX = "copy it again, or name a file that Caffe wrote"


def read_network(path: Path) -> tuple[dict[str, Tensor], Architecture]:
    """Returns the weights of a .caffemodel, of BGR images, by layer, and the preset with its layers."""
    net = _parse(path, "NetParameter")
    layers = [(layer, layer.type) for layer in net.layer]
    layers += [(layer, _V1_TYPES.get(layer.type, f"type {layer.type}")) for layer in net.layers]
    layers = [(layer, kind) for layer, kind in layers if not _COMPUTES_NOTHING.fullmatch(kind)]
    kinds = [kind for _, kind in layers]
    require_alexnet(kinds.count("Convolution"), kinds.count("InnerProduct"))
    architecture = _preset([(layer.name, _step(layer, kind)) for layer, kind in layers])
    state: dict[str, Tensor] = {}
    with reading(path, _FIX):
        for layer, kind in layers:
            if kind in ("Convolution", "InnerProduct"):
                weight, *bias = (torch.from_numpy(_array(blob)) for blob in layer.blobs[:2])
                state[f"{layer.name}.weight"] = weight
                state[f"{layer.name}.bias"] = bias[0].flatten() if bias else torch.zeros(len(weight))
    return state, architecture


def _preset(layers: list[tuple[str, str]]) -> Architecture:
    for net in (PRESETS["caffenet"], PRESETS["caffe"]):
        norm = net.norm
        norm_step = _described("LRN", local_size=norm.window, alpha=norm.alpha, beta=norm.beta, k=norm.k)
        pool_step = _described("Pooling", kernel_size=net.pool_size, stride=net.pool_stride)
        expected = []
        for conv in net.convs:
            groups = 1 if conv.reads_all_towers or conv is net.convs[0] else net.towers
            sizes = {"stride": {conv.stride}, "pad": {*conv.padding}, "group": groups, "dilation": {1}}
            expected.append(_described("Convolution", **sizes))
            expected += [{"relu": "ReLU", "norm": norm_step, "pool": pool_step}[each] for each in conv.after]
        expected += ["InnerProduct", "ReLU", "InnerProduct", "ReLU", "InnerProduct"]
        if [step for _, step in layers] == expected:
            return net
    pairs = zip([*layers, ("the end", "nothing")], [*expected, "nothing"], strict=False)
    name, step, other = next((name, step, other) for (name, step), other in pairs if step != other)
    raise ValueError(f"its layers are not those of caffe: {name} is {step}, not {other}")


def _step(layer: Any, kind: str) -> str:
    settings, values = getattr(layer, f"{kind.lower()}_param", None), dict[str, object]()
    for field in settings.DESCRIPTOR.fields if settings is not None else ():
        value = getattr(settings, field.name)
        if isinstance(value, int | float):
            values[field.name] = round(value, 7)  # of float32
        else:  # one number for both sides, or two
            values[field.name] = {*value} or {int(field.name != "pad")}
    return _described(kind, **values)


def _described(kind: str, **settings: object) -> str:
    values = ", ".join(f"{name} {value}" for name, value in sorted(settings.items()) if value)
    return f"{kind} of {values}" if values else kind


def read_mean_image(path: Path) -> np.ndarray:
    """Reads the mean image of a .binaryproto: (3, S, S) float32 BGR, 0..255."""
    return _array(_parse(path, "BlobProto"))


def _parse(path: Path, message: str) -> Any:
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for name, declarations in _MESSAGES.items():
        declared = file.message_type.add(name=name)
        for declaration in declarations.split(", "):
            field_name, number, kind = declaration.split()
            kind, _, default = kind.partition("=")
            label = kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL
            field = declared.field.add(name=field_name, number=int(number), label=label)
            if (kind := kind.rstrip("*")) in _MESSAGES:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                field.type = getattr(kinds, f"TYPE_{kind.upper()}")
            if default:
                field.default_value = default
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message_class: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{message}"))
    with reading(path, _FIX):
        return message_class.FromString(path.read_bytes())


def _array(blob: Any) -> np.ndarray:
    shape = tuple(blob.shape.dim) or (blob.num, blob.channels, blob.height, blob.width)
    while len(shape) > 1 and shape[0] == 1:  # old files pad a linear weight's two sizes and a bias's one with 1s
        shape = shape[1:]
    return np.array(blob.data or blob.double_data, np.float32).reshape(shape)
