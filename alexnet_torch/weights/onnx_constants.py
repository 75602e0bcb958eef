"""The constants of an ONNX graph: stored tensors, and what nodes compute from only these."""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}


class Constants(Mapping[str, np.ndarray]):
    """The constant values of a graph by name; nodes that compute them are evaluated when a value is asked for.

    Args:
        model: the model, with its data.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._opsets = list(model.opset_import)
        self._nodes: dict[str, onnx.NodeProto] = {}
        for node in model.graph.node:  # in an order in which every node follows its inputs
            has_graph = any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute)
            if not has_graph and node.op_type not in RANDOM and all(name in self for name in node.input if name):
                self._nodes |= dict.fromkeys(node.output, node)

    def __contains__(self, name: object) -> bool:
        return name in self._stored or name in self._nodes

    def __iter__(self) -> Iterator[str]:
        return iter((*self._stored, *self._nodes))

    def __len__(self) -> int:
        return len(self._stored) + len(self._nodes)

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns a value.

        Raises:
            KeyError: it depends on the images.
            ValueError: onnx cannot compute it.
        """
        if name in self._stored:
            return numpy_helper.to_array(self._stored[name])
        node = self._nodes[name]
        inputs = {source: self[source] for source in node.input if source}
        values = [helper.make_tensor_value_info(source, 0, None) for source in inputs]
        outputs = [helper.make_tensor_value_info(name, 0, None)]
        graph = helper.make_graph([node], "constant", values, outputs)
        try:
            (value,) = ReferenceEvaluator(helper.make_model(graph, opset_imports=self._opsets)).run(None, inputs)
        except Exception as error:  # the evaluator raises what its operators raise
            raise ValueError(f"{node.op_type} {name} cannot be computed ({error})") from error
        return np.asarray(value)
