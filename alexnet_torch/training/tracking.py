"""What is shown of a run elsewhere: in TensorBoard, and by --track in Trackio, Weights & Biases or MLflow."""

import importlib.util
import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard._proto_graph import node_proto
from torch.utils.tensorboard.summary import hparams

from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.figures import filter_grid
from alexnet_torch.evaluation.published import published_points
from alexnet_torch.files import reading, utf8_text, write_json
from alexnet_torch.model.architecture import POOLS, Architecture
from alexnet_torch.model.exchange import shard_sizes
from alexnet_torch.model.tower import stage_of, tower_of
from alexnet_torch.recipes.settings import deciding
from alexnet_torch.run_folder import TRACKING

logger = logging.getLogger(__name__)

PROJECT = "alexnet_torch"  # the name of the project, or MLflow's experiment, that has the runs


def require_tracker(name: str | None) -> None:
    if name is not None and importlib.util.find_spec(name) is None:
        raise UserError(f"--track {name}: needs the package {name}; run pip install {name}, or leave out --track")


class Tracker:
    """Sends a run's records to the tracker `name`, in one tracked run; one that fails is told in a line and left."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self._name, path, ids = name, folder / TRACKING, dict[str, str]()  # of this run, by tracker
        if path.exists():
            with reading(path, "move it elsewhere, and a new run is tracked"):
                ids = dict(json.loads(path.read_text()))
        try:
            self._run: Any = _start(name, folder.resolve(), dict(settings), ids)
        except Exception as error:  # each package has errors of its own
            raise UserError(f"--track {name}: does not start ({_line(error)}); fix it, or leave out --track") from error
        write_json(path, ids)

    def log(self, split: str, record: Mapping[str, Any]) -> None:
        metrics = {f"{split}/{name}": value for name, value in record.items() if isinstance(value, float)}
        # W&B drops steps before those that it has, as that of the best weights
        if split == "test" and self._name == "wandb":
            self._call("summary.update", metrics)
        else:
            self._call("log", metrics, step=int(record["step"]))

    def close(self) -> None:
        self._call("finish")

    def _call(self, method: str, *given: Any, **named: Any) -> None:
        try:
            if self._run is not None:
                attrgetter(method)(self._run)(*given, **named)
        except Exception as error:  # none is worth a training
            self._run = None
            logger.warning("--track %s: failed (%s); training goes on without it", self._name, _line(error))


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or repr(error)


def _start(name: str, folder: Path, settings: dict[str, Any], ids: dict[str, str]) -> Any:
    module, is_new = importlib.import_module(name), name not in ids
    if name == "mlflow":
        if is_new:
            module.set_experiment(PROJECT)
        run = module.start_run(run_name=folder.name) if is_new else module.start_run(run_id=ids[name])
        ids[name] = run.info.run_id
        if is_new:
            module.log_params(settings)  # MLflow refuses another value later
        return SimpleNamespace(log=module.log_metrics, finish=module.end_run)  # as W&B's runs
    run_id = ids.setdefault(name, secrets.token_hex(4))
    own = {"name": folder.name, "id": run_id, "dir": str(folder)}
    own = own if name == "wandb" else {"name": f"{folder.name}-{run_id}"}
    return module.init(project=PROJECT, config=settings, resume="allow", **own)


_BEST_ERROR, _RATIO = "val/best_top1_error", "weights/update_ratio_"
_FINAL_ERRORS = (_BEST_ERROR, "test/top1_error", "test/top5_error")  # in the table of runs (HPARAMS)
# TIME SERIES groups scalars by the part before the slash, and opens the first groups: what is about speed comes last
_GROUPS = {"images_per_second": "work", "data_wait": "work"}


class TensorBoardWriter(SummaryWriter):
    """torch's writer, for a run that goes on from a step: TensorBoard hides later events, of an interrupted run."""

    def __init__(self, folder: Path, step: int, settings: Mapping[str, Any], architecture: Architecture) -> None:
        # a run that was killed before its first checkpoint starts again at step 0
        has_events = any(folder.glob("events.out.tfevents.*"))
        super().__init__(str(folder), purge_step=step + 1 if step else 0 if has_events else None)
        self._first_stage = architecture.convs[0].name
        self.add_custom_scalars(_layout(architecture.stage_names))
        columns = {
            name: value if isinstance(value, bool | int | float) else utf8_text(str(value or "none"))
            for name, value in deciding(settings).items()
            if not (name == "max_steps" and value is None)  # a column has one type
        }
        for summary in hparams(columns, dict.fromkeys(_FINAL_ERRORS, 0.0))[:2]:  # without the end of the session
            self._get_file_writer().add_summary(summary)

    def write_record(self, split: str, record: dict[str, Any]) -> None:
        """Writes all floats of a metrics record as <split>/<name> or work/<name>."""
        for name, value in record.items():
            if isinstance(value, float) and name != "epoch":  # which is a straight line
                self.add_scalar(f"{_GROUPS.get(name, split)}/{name}", value, record["step"])

    def write_graph(self, architecture: Architecture, num_classes: int, image_size: int) -> None:
        graph = GraphDef(node=network_graph(architecture, num_classes, image_size))
        self._get_file_writer().add_event(Event(graph_def=graph.SerializeToString()))

    def write_weights(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Draws the first stage's filters, and writes a histogram of each stage's weights, of 100,000 at most."""
        for name, value in ((name, value) for name, value in weights.items() if value.ndim > 1):  # without biases
            stage, tag = stage_of(name), f"{stage_of(name)}/tower{tower_of(name)}"
            self.add_histogram(f"weights/{tag}/values", value.flatten()[:: 1 + value.numel() // 100_000], step)
            if stage == self._first_stage and value.ndim == 4:
                self.add_image(f"weights/{tag}", filter_grid(value), step)

    def write_ratios(self, ratios: Mapping[str, float], best_error: float, step: int) -> None:
        for stage, ratio in ratios.items():
            self.add_scalar(f"{_RATIO}{stage}", ratio, step)
        self.add_scalar(_BEST_ERROR, best_error, step)

    def write_published(self, batch_size: int) -> None:
        """Writes losses of published AlexNets as runs of their own, at the steps of a batch size."""
        for source in dict.fromkeys(point.source for point in published_points()):
            with SummaryWriter(f"{self.log_dir}/published {source.partition(':')[0]}") as writer:
                for point in (each for each in published_points() if each.source == source):
                    writer.add_scalar(f"{point.split}/loss", point.loss, point.images // batch_size)


def _layout(stages: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    learning = {
        "loss (nats)": ["train/loss", "val/loss"],
        "top-1 error": ["train/top1_error", "val/top1_error", _BEST_ERROR],
        "learning rate": ["train/lr"],
        "update / weight, by stage": [f"{_RATIO}{stage}" for stage in stages],
    }
    speed = {"images/s": ["work/images_per_second"], "share of time waiting for images": ["work/data_wait"]}
    charts = {"training and validation": learning, "speed": speed}
    return {title: {name: ["Multiline", tags] for name, tags in group.items()} for title, group in charts.items()}


def network_graph(architecture: Architecture, num_classes: int, image_size: int) -> list[NodeDef]:
    """Returns a network's graph: nodes named T<tower>.<stage>/<operation>, as boxes are small."""
    towers, nodes = architecture.towers, [_node("images", "Images", [], (3, image_size, image_size))]
    outputs = ["images"] * towers  # what each tower's next stage reads
    sides = dict(architecture.stage_sides(image_size))

    def add(stage: str, operation: str, reads_all: bool, shapes: Sequence[Sequence[int]]) -> None:
        inputs = [list(dict.fromkeys(outputs)) if reads_all else [output] for output in outputs]
        for tower, shape in enumerate(shapes):
            outputs[tower] = f"T{tower}.{stage}/{operation}"
            nodes.append(_node(outputs[tower], operation, inputs[tower], shape))

    for conv in architecture.convs:
        side = sides[conv.name]
        add(conv.name, "convolution", conv.reads_all_towers, [(conv.channels // towers, side, side)] * towers)
        for operation in conv.after:
            side = sides[f"{conv.name}'s pooling"] if operation in POOLS else side
            reads_all = operation == "norm" and architecture.norm.across_towers
            add(conv.name, operation, reads_all, [(conv.channels // towers, side, side)] * towers)
    for linear in architecture.linears:
        widths = [(width,) for width in shard_sizes(linear.width or num_classes, towers)]
        add(linear.name, "linear", linear.reads_all_towers, widths)
        if linear is not architecture.linears[-1]:
            add(linear.name, architecture.linear_activation, False, widths)
        if linear.name in architecture.dropout:
            add(linear.name, "dropout", False, widths)
    return [*nodes, _node("logits", "Logits", outputs, (num_classes,))]


def _node(name: str, operation: str, inputs: list[str], shape: Sequence[int]) -> NodeDef:
    return node_proto(name, operation, inputs, outputsize=(-1, *shape))  # -1: any number of images
