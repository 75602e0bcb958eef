"""The network as TensorBoard draws it: a box for each stage of each tower, which opens to show its operations."""

from collections.abc import Sequence

from tensorboard.compat.proto.attr_value_pb2 import AttrValue
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

from alexnet_torch.model.architecture import Architecture, Conv
from alexnet_torch.model.exchange import shard_sizes

_ANY = -1  # the number of images


def network_graph(architecture: Architecture, num_classes: int, image_size: int) -> Event:
    """Returns the event of a network's graph, drawn from its description: no pass through the network is needed.

    A node's name is T<tower>.<stage>/<operation>, since a box has room for about ten letters. Its
    shape is that of its output for any number of images.
    """
    graph = _Graph(architecture.towers)
    graph.add("images", "Images", [], (_ANY, 3, image_size, image_size))
    outputs = ["images"] * architecture.towers  # what each tower's next stage reads
    sides = dict(architecture.stage_sides(image_size))
    for conv in architecture.convs:
        outputs = graph.add_conv(conv, outputs, sides, architecture.norm.across_towers)
    for linear in architecture.linears:
        is_last = linear is architecture.linears[-1]
        widths = shard_sizes(linear.width or num_classes, architecture.towers)
        after: list[str] = [] if is_last else [architecture.linear_activation]
        after += ["dropout"] if linear.name in architecture.dropout else []
        shapes = [(_ANY, width) for width in widths]
        outputs = graph.add_stage(linear.name, ["linear", *after], outputs, linear.reads_all_towers, shapes)
    graph.add("logits", "Logits", outputs, (_ANY, num_classes))
    return Event(graph_def=GraphDef(node=graph.nodes).SerializeToString())


class _Graph:
    """Nodes of all towers' operations, in order."""

    def __init__(self, towers: int) -> None:
        self.nodes: list[NodeDef] = []
        self._towers = towers

    def add(self, name: str, operation: str, inputs: Sequence[str], shape: Sequence[int]) -> str:
        """Adds a node; returns its name."""
        dims = [TensorShapeProto.Dim(size=size) for size in shape]
        shapes = AttrValue(list=AttrValue.ListValue(shape=[TensorShapeProto(dim=dims)]))
        attributes = {"_output_shapes": shapes}
        self.nodes.append(NodeDef(name=name, op=operation, input=inputs, attr=attributes))
        return name

    def add_conv(self, conv: Conv, inputs: list[str], sides: dict[str, int], norm_across: bool) -> list[str]:
        """Adds a convolution stage in all towers; returns the names of its outputs, by tower."""
        channels, side = conv.channels // self._towers, sides[conv.name]
        outputs = self.add_stage(
            conv.name, ["convolution"], inputs, conv.reads_all_towers, [(_ANY, channels, side, side)] * self._towers
        )
        for operation in conv.after:
            side = sides[f"{conv.name}'s pooling"] if operation == "pool" else side
            across = operation == "norm" and norm_across
            shape = (_ANY, channels, side, side)
            outputs = self.add_stage(conv.name, [operation], outputs, across, [shape] * self._towers)
        return outputs

    def add_stage(
        self,
        stage: str,
        operations: list[str],
        inputs: list[str],
        reads_all: bool,
        shapes: Sequence[Sequence[int]],
    ) -> list[str]:
        """Adds operations of a stage in all towers, of one shape in each; the first may read all towers."""
        outputs = []
        for tower, shape in enumerate(shapes):
            sources = list(dict.fromkeys(inputs)) if reads_all else [inputs[tower]]
            for operation in operations:
                sources = [self.add(f"T{tower}.{stage}/{operation}", operation, sources, shape)]
            outputs += sources
        return outputs
