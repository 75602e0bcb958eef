"""Reads ONNX files: the network of any graph, the description and weights of those that this package wrote."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from alexnet_torch.errors import UserError
from alexnet_torch.model.presets import CAFFE
from alexnet_torch.model.tower import has_tower
from alexnet_torch.weights.file_network import FileNetwork, NormStep, add_network_name
from alexnet_torch.weights.model_file import description_from_metadata
from alexnet_torch.weights.onnx_network import read_network

_EXPORTERS_NAMES = ("", "main_graph", "torch_jit", "torch-jit-export")  # of every graph, whatever it computes


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
    return {
        name: torch.from_numpy(numpy_helper.to_array(tensor).copy()).float()
        for name, tensor in tensors.items()
        if has_tower(name)
    }


def read_graph(model: onnx.ModelProto) -> tuple[FileNetwork, str | None]:
    """Returns the network of any other graph, and which images it reads, if its normalisation says so.

    Caffe's normalisation, an LRN node with its constants, means Caffe's images; PyTorch exports its own as other
    nodes.

    Raises:
        ValueError: it is not an AlexNet; the message says what the file seems to be, and names the node.
    """
    if not model.graph.node:
        raise ValueError("it contains no graph")
    name = "" if model.graph.name in _EXPORTERS_NAMES else model.graph.name
    with add_network_name(name):
        network = replace(read_network(model), name=name)
    norm = (CAFFE.norm.window, CAFFE.norm.alpha, CAFFE.norm.beta, CAFFE.norm.k)
    is_caffes = "caffe" in model.producer_name or any(
        isinstance(step, NormStep)
        and step.name.startswith("LRN ")
        and (step.window, step.alpha, step.beta, step.k) == norm
        for step in network.steps
    )
    return network, "caffe" if is_caffes else None
