"""Reads the network of a .caffemodel: its layers in order, with their weights and settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from alexnet_torch.model.tower import parameter_name
from alexnet_torch.weights.caffe_file import blob_to_array, read_net
from alexnet_torch.weights.file_network import (
    ActivationStep,
    AveragePoolStep,
    ConvStep,
    FileNetwork,
    LinearStep,
    NormStep,
    PoolStep,
    Step,
    add_network_name,
    check_is_alexnet,
    shortest_decimal,
)
from alexnet_torch.weights.grouped import FileLayer

_V1_TYPES = {  # the values of V1LayerParameter's enumeration
    **{1: "Accuracy", 3: "Concat", 4: "Convolution", 5: "Data", 6: "Dropout", 7: "EuclideanLoss", 8: "Flatten"},
    **{9: "HDF5Data", 12: "ImageData", 14: "InnerProduct", 15: "LRN", 17: "Pooling", 18: "ReLU", 19: "Sigmoid"},
    **{20: "Softmax", 21: "SoftmaxWithLoss", 22: "Split", 23: "TanH", 24: "WindowData", 25: "Eltwise"},
    **{29: "MemoryData", 32: "DummyData", 36: "Silence"},
}
_INPUTS = {"Data", "ImageData", "HDF5Data", "WindowData", "MemoryData", "DummyData", "Input", "AnnotatedData"}
_NO_CHANGE = {"Dropout", "Split", "Flatten", "Softmax", "SoftmaxWithLoss", "Accuracy", "Silence"}


def read_network(path: Path) -> FileNetwork:
    """Reads the network of a .caffemodel; conv1's channel order is Caffe's, BGR.

    Raises:
        UserError: the file is damaged or not a .caffemodel.
        ValueError: the network has something that no AlexNet has; the message names the layer.
    """
    net = read_net(path)
    layers = [(layer, layer.type) for layer in net.layer]
    layers += [(layer, _V1_TYPES.get(layer.type, f"type {layer.type}")) for layer in net.layers]
    layers = [(layer, kind) for layer, kind in layers if kind not in _INPUTS]
    if not any(layer.blobs for layer, _ in layers):
        raise ValueError("it contains no layer with weights, as a .caffemodel of 2013 or later does")
    kinds = [kind for _, kind in layers]
    others = [kind for kind in kinds if kind not in (*_CONVERSIONS, *_NO_CHANGE)]
    with add_network_name(net.name):
        check_is_alexnet(kinds.count("Convolution"), kinds.count("InnerProduct"), others)
        _check_one_path(layers)
        steps = tuple(_step(path, layer, kind) for layer, kind in layers if kind not in _NO_CHANGE)
    return FileNetwork(steps, name=net.name)


def _step(path: Path, layer: Any, kind: str) -> Step:
    if kind not in _CONVERSIONS:
        raise ValueError(f"{kind} {layer.name} cannot be represented in an AlexNet")
    return _CONVERSIONS[kind](_Layer(path, layer, f"{kind} {layer.name}"))


def _check_one_path(layers: list[tuple[Any, str]]) -> None:
    """Refuses a network in which a layer does not read what the layer before it writes."""
    reached: set[str] = set()
    for layer, kind in layers:
        bottoms = set(layer.bottom)
        if reached and bottoms and not bottoms & reached:
            raise ValueError(f"{kind} {layer.name} does not read the layer before it; an AlexNet has one path")
        if kind not in ("Accuracy", "Silence"):  # read beside the path
            reached = set(layer.top) or reached


class _Layer:
    """A layer of a file, and its name for messages."""

    def __init__(self, path: Path, layer: Any, name: str) -> None:
        self._path, self._layer, self.name = path, layer, name
        self.conv, self.lrn, self.pooling = layer.convolution_param, layer.lrn_param, layer.pooling_param

    def weights(self) -> FileLayer:
        """Returns the weight and the bias; one of zeros if the file has none."""
        name, blobs = self._layer.name, self._layer.blobs
        if len(blobs) not in (1, 2):
            raise ValueError(f"{self.name} has {len(blobs)} blobs, not a weight and a bias")
        names = parameter_name(name, "weight"), parameter_name(name, "bias")
        arrays = [blob_to_array(self._path, *each) for each in zip(names, blobs, strict=False)]
        weight = torch.from_numpy(arrays[0])
        bias = torch.from_numpy(arrays[1].reshape(-1)) if len(arrays) == 2 else torch.zeros(len(weight))
        return FileLayer(name, *names, weight, bias)

    def symmetric(self, settings: Any, name: str, default: int, *others: str) -> int:
        """Returns a setting that must be the same vertically and horizontally.

        Args:
            settings: the layer's parameter message.
            name: the setting for both directions, which may be repeated.
            default: Caffe's, without the setting.
            others: the names for one direction.
        """
        value = getattr(settings, name)
        values = [value] if isinstance(value, int) else list(value)
        if isinstance(value, int) and not settings.HasField(name):
            values = []
        values += [getattr(settings, other) for other in others if settings.HasField(other)]
        if len(set(values)) > 1:
            raise ValueError(f"{self.name} has {name} {values}; must be the same in both directions")
        return int(values[0]) if values else default


def _convert_convolution(layer: _Layer) -> Step:
    settings = layer.conv
    if layer.symmetric(settings, "dilation", 1) != 1:
        raise ValueError(f"{layer.name} is dilated; no AlexNet's convolution is")
    pad, stride = layer.symmetric(settings, "pad", 0, *_PADS), layer.symmetric(settings, "stride", 1, *_STRIDES)
    return ConvStep(layer.name, layer.weights(), stride, (pad, pad, pad, pad), settings.group or 1)


_PADS, _STRIDES = ("pad_h", "pad_w"), ("stride_h", "stride_w")
_MAX, _AVERAGE = 0, 1  # of PoolingParameter.pool


def _convert_pooling(layer: _Layer) -> Step:
    settings = layer.pooling
    size = layer.symmetric(settings, "kernel_size", 0, "kernel_h", "kernel_w")
    stride, pad = layer.symmetric(settings, "stride", 1, *_STRIDES), layer.symmetric(settings, "pad", 0, *_PADS)
    if settings.pool == _AVERAGE and not pad:
        return AveragePoolStep(layer.name, None if settings.global_pooling else size, stride)
    if settings.pool != _MAX or settings.global_pooling or size == 0:
        raise ValueError(f"{layer.name} is not max-pooling with a window, as an AlexNet's is")
    rounds_up = settings.round_mode == 0
    return PoolStep(layer.name, size, stride, (pad, pad, pad, pad), rounds_up)


def _convert_lrn(layer: _Layer) -> Step:
    settings = layer.lrn
    if settings.norm_region != 0:
        raise ValueError(f"{layer.name} normalises within channels; an AlexNet does across channels")
    defaults = {"alpha": 1.0, "beta": 0.75, "k": 1.0}  # caffe.proto's
    constants = (
        shortest_decimal(getattr(settings, name)) if settings.HasField(name) else value
        for name, value in defaults.items()
    )
    return NormStep(layer.name, settings.local_size or 5, *constants)


_CONVERSIONS: dict[str, Callable[[_Layer], Step]] = {
    "Convolution": _convert_convolution,
    "InnerProduct": lambda layer: LinearStep(layer.name, layer.weights()),
    "ReLU": lambda layer: ActivationStep(layer.name, "relu"),
    "TanH": lambda layer: ActivationStep(layer.name, "tanh"),
    "LRN": _convert_lrn,
    "Pooling": _convert_pooling,
}
