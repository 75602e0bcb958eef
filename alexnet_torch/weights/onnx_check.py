"""Runs an imported network and its ONNX graph on the same random images."""

from pathlib import Path

import onnx
import onnxruntime
import torch
from onnx import helper
from torch import Tensor, nn

from alexnet_torch.errors import UserError

TOLERANCE = 1e-3
"""Of the largest logit: ten times the difference that float32 sums in another order have shown."""


def check_with_onnxruntime(
    path: Path, names: tuple[str, str] | None, net: nn.Module, inputs: Tensor, graph_inputs: Tensor
) -> str:
    """Compares the logits of a network with those of the graph that it was read from.

    Args:
        path: the ONNX file.
        names: the graph's names of the images and of the logits; None for its only input and output.
        net: the network, on the CPU, in evaluation mode.
        inputs: one random image (1, 3, S, S), as the network reads it.
        graph_inputs: the same image as the graph reads it.

    Returns:
        a message with the largest difference.

    Raises:
        UserError: onnxruntime cannot run the graph, or the logits differ by more than `TOLERANCE`.
    """
    model = onnx.load(path)
    images, logits = names or (model.graph.input[0].name, model.graph.output[0].name)
    if logits not in [output.name for output in model.graph.output]:
        model.graph.output.append(helper.make_tensor_value_info(logits, onnx.TensorProto.FLOAT, None))
    batch = next(value for value in model.graph.input if value.name == images).type.tensor_type.shape.dim[0].dim_value
    rows = max(batch, 1)  # 0 where it is open
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        (graph_logits,) = session.run([logits], {images: graph_inputs.expand(rows, -1, -1, -1).numpy()})
    except Exception as error:  # onnxruntime's exceptions have no common class
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: onnxruntime cannot run it ({reason}); name an AlexNet weight file") from error
    with torch.no_grad():
        expected = net(inputs)[0]
    difference = (torch.from_numpy(graph_logits).reshape(rows, -1)[0] - expected).abs().max().item()
    largest = expected.abs().max().item()
    if not difference <= TOLERANCE * max(largest, 1e-6):  # also if either is not a number
        raise UserError(
            f"{path}: for a random image onnxruntime computes logits that differ by {difference:.3g} from those of the "
            f"imported network, whose largest is {largest:.3g}; this graph cannot be imported"
        )
    return f"{path}: onnxruntime computes the same logits for a random image, to {difference:.1g} of {largest:.3g}"
