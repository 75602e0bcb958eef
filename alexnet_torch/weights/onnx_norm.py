"""Recognises `nn.LocalResponseNorm` in an ONNX graph, which PyTorch exports as some ten nodes."""

from collections.abc import Mapping, Sequence

import onnx
from onnx import helper

from alexnet_torch.weights.file_network import NormStep, shortest_decimal
from alexnet_torch.weights.onnx_constants import Constants

_SHAPES = {"Reshape", "Unsqueeze", "Squeeze", "Identity", "Cast"}


def match_response_norm(
    value: str, consumers: Sequence[onnx.NodeProto], producers: Mapping[str, onnx.NodeProto], constants: Constants
) -> tuple[NormStep, str] | None:
    """Returns the normalisation x / (k + alpha * average(x^2))^beta of a value x, and the name of its output.

    Args:
        value: x, (N, C, H, W).
        consumers: the nodes that read x.
        producers: the node that computes each value.
        constants: the graph's.

    Returns:
        None where x is not normalised in this way.

    Raises:
        ValueError: it is, but not by the average over a window of neighbouring channels.
    """
    divisions = [node for node in consumers if node.op_type == "Div" and node.input[0] == value]
    if len(divisions) != 1:
        return None
    (division,) = divisions
    found: dict[str, float] = {}
    name, window, padding = division.input[1], 0, [0]
    for _ in range(16):  # at most: PyTorch exports up to nine
        node = producers.get(name)
        if node is None:
            return None
        if _is_square(node, value, constants):
            break
        if node.op_type in ("Pow", "Add", "Mul"):
            data, number = _data_and_number(node, constants)
            if node.op_type in found or number is None:
                return None
            found[node.op_type], name = number, data
            continue
        if node.op_type == "AveragePool":
            window = _window(node)
        elif node.op_type == "Pad":
            padding = _padding(node, constants)
        elif node.op_type not in (*_SHAPES, "If"):
            return None
        name = _captured(node, producers) if node.op_type == "If" else node.input[0]
    else:
        return None
    if set(found) != {"Pow", "Add", "Mul"} or sorted(padding)[-2:] != sorted((window // 2, (window - 1) // 2)):
        return None
    label = f"response normalisation {division.name or division.output[0]}"
    return NormStep(label, window, found["Mul"], found["Pow"], found["Add"]), division.output[0]


def _is_square(node: onnx.NodeProto, value: str, constants: Constants) -> bool:
    if node.op_type == "Mul":
        return list(node.input) == [value, value]
    return node.op_type == "Pow" and node.input[0] == value and _data_and_number(node, constants)[1] == 2


def _data_and_number(node: onnx.NodeProto, constants: Constants) -> tuple[str, float | None]:
    """Returns the input that depends on the images, and the number that is the other input; None if it is none."""
    first, second = node.input
    data, other = (second, first) if first in constants and node.op_type != "Pow" else (first, second)
    if other not in constants or constants[other].size != 1:
        return data, None
    return data, shortest_decimal(constants[other].item())


def _window(node: onnx.NodeProto) -> int:
    """Returns the channels that an average is over; 0 if it is over pixels too."""
    kernel = next(helper.get_attribute_value(each) for each in node.attribute if each.name == "kernel_shape")
    return int(kernel[0]) if set(kernel[1:]) == {1} else 0


def _padding(node: onnx.NodeProto, constants: Constants) -> list[int]:
    """Returns the numbers of zeros that a Pad node adds; -1 for a padding that depends on the images."""
    return [int(value) for value in constants[node.input[1]]] if node.input[1] in constants else [-1]


def _captured(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> str:
    """Returns the value that the branches of an If node read: PyTorch squeezes a dimension where there is one."""
    graphs = [helper.get_attribute_value(attribute) for attribute in node.attribute]
    names = {name for graph in graphs for inner in graph.node for name in inner.input if name in producers}
    return names.pop() if len(names) == 1 else ""
