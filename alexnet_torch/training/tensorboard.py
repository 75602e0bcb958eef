"""What TensorBoard shows of a run: curves in common charts, settings and final errors, the graph, pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from alexnet_torch.evaluation.figures import filter_grid
from alexnet_torch.model.architecture import Architecture
from alexnet_torch.training.tensorboard_graph import network_graph
from alexnet_torch.training.tensorboard_hparams import BEST_ERROR, TEST_RUN, experiment, session_start

_NOT_DRAWN = {"epoch"}  # a straight line
# The tab TIME SERIES groups scalars by the part before the slash, opens the first two groups and closes the others:
# loss and errors of training and validation come first in alphabetical order, what is about weights and speed last.
_GROUPS = {"images_per_second": "work", "data_wait": "work"}


class TensorBoardWriter:
    """TensorBoard: scalars with the layout of their charts, settings, the graph, conv1's filters, sample images.

    Args:
        folder: where the events go.
        step: the step from which the run continues; TensorBoard hides events of later steps, which an
            interrupted run wrote.
        settings: the run's, by option, for the table of runs (HPARAMS).
        stages: the names of the network's stages.
    """

    def __init__(self, folder: Path, step: int, settings: Mapping[str, Any], stages: tuple[str, ...]) -> None:
        self._folder = folder
        # a run that was killed before its first checkpoint starts again at step 0
        has_events = any(folder.glob("events.out.tfevents.*"))
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else 0 if has_events else None)
        self._writer.add_custom_scalars(_layout(stages))
        for summary in (experiment(settings), session_start(settings)):
            self._writer._get_file_writer().add_summary(summary)

    def write_scalars(self, record: dict[str, Any]) -> None:
        """Writes all floats of a metrics record as <split>/<name> or work/<name>, except those that make no curve."""
        _write_scalars(self._writer, record)

    def write_best_error(self, error: float, step: int) -> None:
        """Writes the lowest top-1 error of the validations so far, that of model.pt."""
        self._writer.add_scalar(BEST_ERROR, error, step)

    def write_update_ratios(self, ratios: Mapping[str, float], step: int) -> None:
        """Writes |update| / |weights| of the last step, by stage."""
        for stage, ratio in ratios.items():
            self._writer.add_scalar(_ratio_tag(stage), ratio, step)

    def write_test(self, record: dict[str, Any]) -> None:
        """Writes the test of the best weights as points of the run "test" in the validation's charts."""
        folder = self._folder / TEST_RUN
        for events in folder.glob("events.out.tfevents.*"):  # of a shorter run that was resumed
            events.unlink()
        with SummaryWriter(str(folder)) as writer:
            _write_scalars(writer, record)

    def write_graph(self, architecture: Architecture, num_classes: int, image_size: int) -> None:
        """Writes the network's graph, with a box for each stage of each tower."""
        self._writer._get_file_writer().add_event(network_graph(architecture, num_classes, image_size))

    def write_filters(self, filters: Mapping[str, Tensor], step: int) -> None:
        """Writes the first stage's filters (filters, 3, height, width) of each tower, by their picture's name.

        TensorBoard shows the pictures of ten steps, with a slider.
        """
        for name, weights in filters.items():
            self._writer.add_image(f"weights/{name}", filter_grid(weights), step)

    def write_samples(self, images: Tensor, step: int) -> None:
        """Writes the first images of a batch (N, H, W, 3) uint8, cropped and mirrored."""
        self._writer.add_images("train/samples", images[:16], step, dataformats="NHWC")

    def close(self) -> None:
        """Writes pending events."""
        self._writer.close()


def _write_scalars(writer: SummaryWriter, record: dict[str, Any]) -> None:
    for name, value in record.items():
        if isinstance(value, float) and name not in _NOT_DRAWN:
            writer.add_scalar(f"{_GROUPS.get(name, record['split'])}/{name}", value, record["step"])


def _ratio_tag(stage: str) -> str:
    return f"weights/update_ratio_{stage}"


def _layout(stages: tuple[str, ...]) -> dict[str, dict[str, list[Any]]]:
    """Returns the charts of the tab CUSTOM SCALARS: titles, and the scalars that each draws together."""
    learning = {
        "loss (nats)": ["train/loss", "val/loss"],
        "top-1 error": ["train/top1_error", "val/top1_error", BEST_ERROR],
        "learning rate": ["train/lr"],
        "update / weight, by stage": [_ratio_tag(stage) for stage in stages],
    }
    speed = {"images/s": ["work/images_per_second"], "share of time waiting for images": ["work/data_wait"]}
    charts = {"training and validation": learning, "speed": speed}
    return {title: {name: ["Multiline", tags] for name, tags in group.items()} for title, group in charts.items()}
