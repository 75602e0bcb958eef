"""Reads the network of an ONNX graph: follows the images from node to node, to the logits."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import torch
from onnx import helper

from alexnet_torch.weights.file_network import (
    ActivationStep,
    AveragePoolStep,
    ConvStep,
    FileNetwork,
    LinearStep,
    NormStep,
    Padding,
    PoolStep,
    Step,
    check_is_alexnet,
    shortest_decimal,
)
from alexnet_torch.weights.grouped import FileLayer
from alexnet_torch.weights.onnx_constants import Constants
from alexnet_torch.weights.onnx_norm import match_response_norm

_NO_CHANGE = {"Identity", "Dropout"}
_SAME_ORDER = {"Flatten", "Reshape", "Squeeze"}  # other shapes of the same values in the same order
_AT_THE_END = {"Softmax", "LogSoftmax"}
_LAYERS = {"Conv", "Gemm", "MatMul"}


def node_name(node: onnx.NodeProto) -> str:
    """Returns a node's type and name, for messages: "MaxPool pool1"."""
    return f"{node.op_type} {node.name or node.output[0]}"


def read_network(model: onnx.ModelProto) -> FileNetwork:
    """Returns the network of a graph that is one path from the images to the logits.

    Args:
        model: the model, with its data.

    Raises:
        ValueError: the graph has something that no AlexNet has; the message names the node.
    """
    constants, graph = Constants(model), model.graph
    _check_layers(graph, constants)
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ValueError(f"its graph has {len(inputs)} inputs and {len(graph.output)} outputs; must be 1 and 1")
    walk = _Walk(graph, constants, inputs[0].name)
    while walk.value != graph.output[0].name:
        walk.advance()
    sides = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim][2:]  # 0 where it is open
    if len(set(sides)) > 1:
        raise ValueError(f"its images are {sides[1]} pixels wide and {sides[0]} high; must be square")
    return FileNetwork(tuple(walk.steps), (sides and sides[0]) or None, inputs[0].name, walk.logits)


def _check_layers(graph: onnx.GraphProto, constants: Constants) -> None:
    """Refuses a graph with other layers than AlexNet's; the message lists its layers."""
    computing = [node for node in graph.node if not all(output in constants for output in node.output)]
    known = {*_CONVERSIONS, *_NO_CHANGE, *_SAME_ORDER, *_AT_THE_END, *_LAYERS, "Add", "Cast"}
    convs = sum(node.op_type == "Conv" for node in computing)
    linears = sum(node.op_type in ("Gemm", "MatMul") for node in computing)
    check_is_alexnet(convs, linears, [node.op_type for node in computing if node.op_type not in known])


class _Walk:
    """The path from the images to the output.

    Attributes:
        value: the name of the value reached.
        logits: the name of the value before softmax.
        steps: the steps so far.
    """

    def __init__(self, graph: onnx.GraphProto, constants: Constants, images: str) -> None:
        self.value = self.logits = images
        self.steps: list[Step] = []
        self._constants, self._reshaped, self._ended = constants, "", ""
        self._producers = {output: node for node in graph.node for output in node.output}
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                if node.op_type != "Shape":  # leads to shapes, which the layers determine
                    self._consumers.setdefault(name, []).append(node)

    def advance(self) -> None:
        """Moves to the output of the next node, or past the nodes of a response normalisation."""
        consumers = self._consumers.get(self.value, [])
        norm = match_response_norm(self.value, consumers, self._producers, self._constants)
        if norm is not None:
            self._append(norm[0])
            self.value = self.logits = norm[1]
            return
        if len(consumers) != 1:
            types = ", ".join(map(node_name, consumers)) or "nothing"
            raise ValueError(f"{self._where()} leads to {types}; an AlexNet has one path from images to logits")
        node = consumers[0]
        if node.op_type in _AT_THE_END:
            self._ended = node_name(node)
        elif node.op_type in _SAME_ORDER and node.input[0] == self.value:
            self._reshaped = node_name(node)
        elif node.op_type == "Add" and self.steps and isinstance(self.steps[-1], ConvStep | LinearStep):
            self.steps[-1] = _with_bias(self.steps[-1], node, self._other_input(node))
        elif node.op_type in _CONVERSIONS:
            self._append(_CONVERSIONS[node.op_type](_Node(node, self._constants)))
        elif node.op_type not in _NO_CHANGE and not _casts_to_floats(node):
            raise ValueError(f"{node_name(node)} cannot be represented in an AlexNet")
        self.value = node.output[0]
        if not self._ended:
            self.logits = self.value

    def _append(self, step: Step) -> None:
        if self._ended:
            raise ValueError(f"{step.name} follows {self._ended}, which must be the last")
        if self._reshaped and not isinstance(step, LinearStep | ActivationStep):
            raise ValueError(f"{step.name} follows {self._reshaped}; only linear layers may")
        self.steps.append(step)

    def _where(self) -> str:
        producer = self._producers.get(self.value)
        return node_name(producer) if producer else f"the input {self.value}"

    def _other_input(self, node: onnx.NodeProto) -> np.ndarray:
        others = [name for name in node.input if name != self.value]
        if len(others) != 1 or others[0] not in self._constants:
            raise ValueError(f"{node_name(node)} adds a value that is not constant")
        return self._constants[others[0]]


def _casts_to_floats(node: onnx.NodeProto) -> bool:
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    return node.op_type == "Cast" and any(each.name == "to" and each.i in floats for each in node.attribute)


def _with_bias(step: ConvStep | LinearStep, node: onnx.NodeProto, bias: np.ndarray) -> Step:
    """Returns a layer with the bias that an Add node adds to its output."""
    outputs = len(step.layer.bias)
    expected = (outputs, 1, 1) if isinstance(step, ConvStep) else (outputs,)
    if bias.shape[-len(expected) :] != expected or bias.size != outputs:
        raise ValueError(f"{node_name(node)} adds {bias.shape}, which is not a bias of {outputs} outputs")
    added = torch.from_numpy(bias.reshape(-1).copy()).float()
    return replace(step, layer=replace(step.layer, bias=step.layer.bias + added))


class _Node:
    """A node whose first input depends on the images.

    Attributes:
        name: type and name, for messages.
        attributes: their values by name; those with their default may be missing.
    """

    def __init__(self, node: onnx.NodeProto, constants: Constants) -> None:
        self._node, self._constants, self.name = node, constants, node_name(node)
        self.attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}

    def constant(self, index: int) -> torch.Tensor:
        """Returns an input that must be constant, as float32."""
        name = self._node.input[index]
        if name not in self._constants:
            raise ValueError(f"{self.name} has the input {name}, which is not constant")
        return torch.from_numpy(np.array(self._constants[name])).float()

    def layer(self, weight: torch.Tensor, bias_factor: float = 1.0) -> FileLayer:
        """Returns a layer with this weight; without a bias in the file, one of zeros."""
        name, has_bias = self._node.input[1], len(self._node.input) > 2 and self._node.input[2] != ""
        bias = self.constant(2).reshape(-1) * bias_factor if has_bias else torch.zeros(len(weight))
        if len(bias) not in (1, len(weight)):
            raise ValueError(f"{self.name} has {len(weight)} outputs and a bias of {len(bias)}")
        bias_name = self._node.input[2] if has_bias else f"{name} (no bias)"
        return FileLayer(name, name, bias_name, weight, bias.expand(len(weight)))

    def symmetric(self, name: str, default: int | None = None) -> int:
        """Returns an attribute that must be the same vertically and horizontally."""
        values = self.attributes.get(name, [default])
        if len(set(values)) != 1 or values[0] is None:
            raise ValueError(f"{self.name} has {name} {values}; must be the same in both directions")
        return int(values[0])

    def padding(self) -> Padding:
        """Returns the padding of a convolution or pooling."""
        automatic = self.attributes.get("auto_pad", b"NOTSET")
        if automatic in (b"SAME_UPPER", b"SAME_LOWER"):
            return "same_upper" if automatic == b"SAME_UPPER" else "same_lower"
        pads = [0] * 4 if automatic == b"VALID" else self.attributes.get("pads", [0] * 4)
        if len(pads) != 4:
            raise ValueError(f"{self.name} has pads {pads}; must be of two directions")
        top, left, bottom, right = pads
        return left, right, top, bottom

    def refuse_dilation(self) -> None:
        """Raises a ValueError if a kernel or window has gaps."""
        if self.symmetric("dilations", 1) != 1:
            raise ValueError(f"{self.name} is dilated; nothing in an AlexNet is")


def _convert_conv(node: _Node) -> Step:
    node.refuse_dilation()
    layer, stride, groups = node.layer(node.constant(1)), node.symmetric("strides", 1), node.attributes.get("group", 1)
    return ConvStep(node.name, layer, stride, node.padding(), groups)


def _convert_gemm(node: _Node) -> Step:
    if node.attributes.get("transA", 0):
        raise ValueError(f"{node.name} transposes its input; no AlexNet's linear layer does")
    weight = node.constant(1) * node.attributes.get("alpha", 1.0)  # (out, in) if transB
    weight = weight if node.attributes.get("transB", 0) else weight.T.contiguous()
    return LinearStep(node.name, node.layer(weight, node.attributes.get("beta", 1.0)))


def _convert_lrn(node: _Node) -> Step:
    defaults = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0}  # ONNX's
    constants = (shortest_decimal(node.attributes.get(name, default)) for name, default in defaults.items())
    return NormStep(node.name, node.attributes["size"], *constants)


def _convert_max_pool(node: _Node) -> Step:
    node.refuse_dilation()
    size, stride = node.symmetric("kernel_shape"), node.symmetric("strides", 1)
    return PoolStep(node.name, size, stride, node.padding(), bool(node.attributes.get("ceil_mode", 0)))


def _convert_average_pool(node: _Node) -> Step:
    if node.padding() != (0, 0, 0, 0):
        raise ValueError(f"{node.name} averages with padding; must be max-pooling")
    return AveragePoolStep(node.name, node.symmetric("kernel_shape"), node.symmetric("strides", 1))


_CONVERSIONS: dict[str, Callable[[_Node], Step]] = {
    "Conv": _convert_conv,
    "Gemm": _convert_gemm,
    "MatMul": lambda node: LinearStep(node.name, node.layer(node.constant(1).T.contiguous())),
    "Relu": lambda node: ActivationStep(node.name, "relu"),
    "Tanh": lambda node: ActivationStep(node.name, "tanh"),
    "LRN": _convert_lrn,
    "MaxPool": _convert_max_pool,
    "AveragePool": _convert_average_pool,
    "GlobalAveragePool": lambda node: AveragePoolStep(node.name, None, 1),
}
