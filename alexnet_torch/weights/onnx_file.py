"""Reads the weights of ONNX files: initialisers of the graph's Conv and Gemm nodes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from alexnet_torch.errors import UserError
from alexnet_torch.model.parameter_names import has_tower
from alexnet_torch.weights.caffe_file import refuse_caffenet
from alexnet_torch.weights.grouped import FileLayer
from alexnet_torch.weights.model_file import description_from_metadata


def load_onnx(path: Path) -> onnx.ModelProto:
    """Loads an ONNX file, and the data files beside it that it names.

    Raises:
        UserError: it is damaged or not an ONNX file.
    """
    try:
        return onnx.load(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name an ONNX file") from error
    except Exception as error:  # DecodeError of the protobuf runtime, or a data file that does not fit
        raise UserError(f"{path}: is damaged or not an ONNX file ({error}); copy it again") from error


def read_description(model: onnx.ModelProto) -> dict[str, Any] | None:
    """Returns the model's description (see `describe_model`); None if this package did not write the file.

    Raises:
        ValueError: the description is damaged.
    """
    return description_from_metadata({entry.key: entry.value for entry in model.metadata_props})


def read_tower_weights(model: onnx.ModelProto) -> dict[str, Tensor]:
    """Returns the weights by tower of a graph that this package wrote, where they are `PixelNet.net`'s."""
    tensors = {tensor.name.removeprefix("net."): tensor for tensor in model.graph.initializer}
    return {name: _to_float_tensor(tensor) for name, tensor in tensors.items() if has_tower(name)}


def has_lrn(model: onnx.ModelProto) -> bool:
    """Whether the graph has Caffe's response normalisation, an LRN node; PyTorch exports its own as other nodes."""
    return any(node.op_type == "LRN" for node in model.graph.node)


def read_layers(model: onnx.ModelProto, path: Path) -> list[FileLayer]:
    """Returns the graph's convolutions and linear layers, in its order.

    Args:
        model: a model whose graph is one path from images to classes.
        path: the model's file, for messages.

    Raises:
        UserError: a layer's weights are computed, not stored; or it has no bias; or the graph is CaffeNet's.
    """
    refuse_caffenet(path, [node.op_type for node in model.graph.node], "LRN", "MaxPool")
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        names = node.input[1:3]
        if len(names) != 2 or not all(name in stored for name in names):
            raise UserError(
                f"{path}: {node.op_type} {node.name or node.output[0]} has no stored weight and bias; name another file"
            )
        weight_name, bias_name = names
        weight, bias = _to_float_tensor(stored[weight_name]), _to_float_tensor(stored[bias_name])
        if node.op_type == "Gemm":
            attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
            weight, bias = _gemm_to_linear(weight, bias, attributes)
        layers.append(FileLayer(weight_name, weight_name, bias_name, weight, bias.reshape(-1)))
    return layers


def _gemm_to_linear(weight: Tensor, bias: Tensor, attributes: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Returns a Gemm's weight as (out, in) and its bias, multiplied by its factors alpha and beta."""
    weight = weight if attributes.get("transB", 0) else weight.T.contiguous()
    return weight * attributes.get("alpha", 1.0), bias * attributes.get("beta", 1.0)


def _to_float_tensor(tensor: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(tensor).copy()).float()
