"""What a run writes into its folder and prints: only on the main rank, and all ranks learn if it fails."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.distributed.sharded_state import ParameterStates
from alexnet_torch.files import naming
from alexnet_torch.model.architecture import Architecture
from alexnet_torch.model.tower import kind_of, stage_of, tower_of
from alexnet_torch.run_folder import METRICS, TENSORBOARD
from alexnet_torch.training.run_state import RunState
from alexnet_torch.training.tensorboard import TensorBoardWriter
from alexnet_torch.training.tracking import Tracking
from alexnet_torch.training.writers import MetricsFile, ProgressBar


class _Writers(NamedTuple):
    metrics: MetricsFile
    tensorboard: TensorBoardWriter
    progress: ProgressBar
    tracking: Tracking

    def write_metrics(self, record: dict[str, Any]) -> None:
        self.metrics.write(record)
        self.tensorboard.write_scalars(record)
        self.tracking.log(record)


class WeightsLog(NamedTuple):
    """What is recorded of the weights at a validation; empty except on the main rank."""

    is_best: bool  # whether their error is the lowest so far
    filters: dict[str, Tensor]  # from `filters_by_tower`
    update_ratios: dict[str, float]  # |update| / |weights| of the last step, by stage


class RunLog:
    """Writes a run's metrics and pictures into its folder, created if missing, and prints its progress.

    All ranks call its methods together, except `advance`, `print` and `close`. An OSError on the main rank is
    `OtherRankFailed` on the others.

    Args:
        output: the run's folder.
        state: how far the run is, from which it continues.
        last_step: steps in the run.
        settings: the run's settings, by option.
        stages: the names of the network's stages.
    """

    def __init__(
        self,
        output: Path,
        ranks: Ranks,
        state: RunState,
        last_step: int,
        settings: Mapping[str, Any],
        stages: tuple[str, ...],
    ) -> None:
        self._ranks, self._output = ranks, output
        self._writers: _Writers | None = None  # on the main rank only
        with ranks.control.main_only() as is_main:
            if is_main:
                output.mkdir(parents=True, exist_ok=True)
                metrics = MetricsFile(output / METRICS, state.metrics_size)
                tensorboard = TensorBoardWriter(output / TENSORBOARD, state.step, settings, stages)
                tracking = Tracking(settings.get("track"), output, settings)
                self._writers = _Writers(metrics, tensorboard, ProgressBar(last_step, state.step), tracking)

    def _write(self, *writes: Callable[[_Writers], object]) -> None:
        # TensorBoard's writer names no file in its errors; the others do themselves
        with naming(self._output / TENSORBOARD), self._ranks.control.main_only():
            if self._writers:
                for write in writes:
                    write(self._writers)

    def advance(self) -> None:
        """Moves the progress bar by one step."""
        if self._writers:
            self._writers.progress.advance()

    def print(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._writers:
            self._writers.progress.print(text)

    def log_start(
        self, architecture: Architecture, num_classes: int, image_size: int, filters: dict[str, Tensor]
    ) -> None:
        """Writes the network's graph, and its filters before the first step."""
        self._write(
            lambda writers: writers.tensorboard.write_graph(architecture, num_classes, image_size),
            lambda writers: writers.tensorboard.write_filters(filters, 0),
        )

    def log_samples(self, images: Tensor) -> None:
        """Writes some images of the first batch (N, H, W, 3) uint8."""
        self._write(lambda writers: writers.tensorboard.write_samples(images, 1))

    def log_train(self, record: dict[str, Any]) -> None:
        """Writes and shows the metrics of some training steps."""
        self._write(
            lambda writers: writers.write_metrics(record),
            lambda writers: writers.progress.show_train(record),
        )

    def log_validation(self, record: dict[str, Any], best_error: float, weights: WeightsLog) -> None:
        """Writes and prints a validation's metrics, and writes what the validated weights look like."""
        step, is_best = record["step"], weights.is_best
        self._write(
            lambda writers: writers.write_metrics(record),
            lambda writers: writers.tensorboard.write_best_error(best_error, step),
            lambda writers: writers.tensorboard.write_update_ratios(weights.update_ratios, step),
            lambda writers: writers.tensorboard.write_filters(weights.filters, step),
            lambda writers: writers.progress.show_validation(record, is_best),
        )

    def log_test(self, record: dict[str, Any], text: str) -> None:
        """Writes the metrics of the best weights' test, and prints them as `text`."""
        self._write(
            lambda writers: writers.metrics.write(record),
            lambda writers: writers.tensorboard.write_test(record),
            lambda writers: writers.tracking.log(record),
            lambda writers: writers.progress.print(text),
        )

    def sync(self) -> int:
        """Puts metrics.jsonl on the disk. Returns its size in bytes on the main rank, 0 on the others."""
        sizes: list[int] = []
        self._write(lambda writers: sizes.append(writers.metrics.sync()))
        return sum(sizes)

    def close(self) -> None:
        """Closes the files and leaves the bar as it is."""
        with naming(self._output / TENSORBOARD):
            for writer in self._writers or ():
                writer.close()


def filters_by_tower(gathered: ParameterStates, stage: str) -> dict[str, Tensor]:
    """Returns each tower's weights of a convolution stage, by the name of their picture, such as "conv1/tower0"."""
    names = [name for name in gathered if (stage_of(name), kind_of(name)) == (stage, "weight")]
    return {f"{stage}/tower{tower_of(name)}": gathered[name]["value"] for name in names}
