"""The weights of ONNX files: initialisers of the graph's Conv and Gemm nodes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from alexnet_torch.errors import UserError
from alexnet_torch.weights.caffe_file import refuse_pooling_first
from alexnet_torch.weights.grouped import Layer
from alexnet_torch.weights.model_file import from_strings


def load(path: Path) -> onnx.ModelProto:
    """An ONNX file, with the data files that it names beside it.

    Raises:
        UserError: it is none, or is damaged.
    """
    try:
        return onnx.load(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name an ONNX file") from error
    except Exception as error:  # DecodeError of the protobuf runtime, or a data file that does not fit
        raise UserError(f"{path}: is damaged, or no ONNX file ({error})") from error


def described(model: onnx.ModelProto) -> dict[str, Any] | None:
    """What the file says of its network, if this package wrote it (see `weights.describe`).

    Raises:
        ValueError: it is damaged.
    """
    return from_strings({p.key: p.value for p in model.metadata_props})


def towered_weights(model: onnx.ModelProto) -> dict[str, Tensor]:
    """The weights by tower in a graph that this package wrote."""
    found = {}
    for tensor in model.graph.initializer:
        _, towers, name = tensor.name.partition("towers.")
        if towers:
            found[towers + name] = _tensor(tensor)
    return found


def has_norm(model: onnx.ModelProto) -> bool:
    """Whether the graph has response normalisation as Caffe has it; PyTorch's is written as other nodes."""
    return any(node.op_type == "LRN" for node in model.graph.node)


def read_layers(model: onnx.ModelProto, path: Path) -> list[Layer]:
    """The graph's convolutions and linear layers in its order.

    Args:
        model: whose graph is one path from images to classes.
        path: of the file, for messages.

    Raises:
        UserError: a layer's weights are computed rather than stored, it has no bias, or the graph is
            CaffeNet's.
    """
    refuse_pooling_first(path, [node.op_type for node in model.graph.node], "LRN", "MaxPool")
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        names = node.input[1:3]
        if len(names) != 2 or not all(name in stored for name in names):
            raise UserError(f"{path}: {node.op_type} {node.name or node.output[0]} has no stored weight and bias")
        weight_name, bias_name = names
        weight, bias = _tensor(stored[weight_name]), _tensor(stored[bias_name])
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Gemm":
            weight, bias = _gemm(weight, bias, attributes)
        layers.append(Layer(weight_name, weight_name, bias_name, weight, bias.reshape(-1)))
    return layers


def _gemm(weight: Tensor, bias: Tensor, attributes: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """A Gemm's weight as (out, in) and its bias, its factors in them."""
    turned = weight if attributes.get("transB", 0) else weight.T.contiguous()
    return turned * attributes.get("alpha", 1.0), bias * attributes.get("beta", 1.0)


def _tensor(stored: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(stored).copy()).float()
