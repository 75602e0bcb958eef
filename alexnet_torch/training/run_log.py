"""What a run writes into its folder, and says: by the first rank alone, and the others learn if it fails."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.distributed.sharded_state import Held
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.parameter_names import tower_of
from alexnet_torch.run_folder import METRICS, TENSORBOARD
from alexnet_torch.training.run_state import State
from alexnet_torch.training.writers import Board, Metrics, Progress


class _Files(NamedTuple):
    metrics: Metrics
    board: Board
    progress: Progress


class RunLog:
    """A run's folder while it is written.

    All ranks call its methods together, those that take no step of the bar. An OSError on the first rank is
    `OtherRankFailed` on the others.

    Args:
        output: the run's folder, made if need be.
        ranks: the run's.
        state: how far the run is.
        total: steps of the whole run.
        batches: steps in an epoch.
    """

    def __init__(self, output: Path, ranks: Ranks, state: State, total: int, batches: int) -> None:
        self._ranks = ranks
        self._files: _Files | None = None
        with ranks.main_only() as (first, _):
            if first:
                output.mkdir(parents=True, exist_ok=True)
                metrics = Metrics(output / METRICS, state.metrics_size)
                board = Board(output / TENSORBOARD, state.step)
                self._files = _Files(metrics, board, Progress(total, state.step, batches))

    def _write(self, work: Callable[[_Files], object]) -> None:
        with self._ranks.main_only():
            if self._files:
                work(self._files)

    def advance(self) -> None:
        """One step is done."""
        if self._files:
            self._files.progress.advance()

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._files:
            self._files.progress.say(text)

    def begin(self, net: Callable[[], AlexNet], filters: dict[str, Tensor]) -> None:
        """The network's graph and its filters before the first step.

        Args:
            net: makes one with all towers in this process, on the first rank.
            filters: as for `Board.filters`.
        """

        def work(files: _Files) -> None:
            files.board.graph(net())
            files.board.filters(filters, 0)

        self._write(work)

    def samples(self, images: Tensor) -> None:
        """Some of the first batch (N, H, W, 3) uint8."""
        self._write(lambda files: files.board.samples(images, 1))

    def train(self, values: dict[str, Any]) -> None:
        """A report of some steps."""

        def work(files: _Files) -> None:
            files.metrics.write(values)
            files.board.scalars(values)
            files.progress.train(values)

        self._write(work)

    def validation(self, values: dict[str, Any], best: bool, filters: dict[str, Tensor]) -> None:
        """A validation, whether it is the best so far, and the filters that it was of."""

        def work(files: _Files) -> None:
            files.metrics.write(values)
            files.board.scalars(values)
            files.board.filters(filters, values["step"])
            files.progress.validation(values, best)

        self._write(work)

    def test(self, values: dict[str, Any], text: str) -> None:
        """The test of the best weights, and in words."""

        def work(files: _Files) -> None:
            files.metrics.write(values)
            files.board.scalars(values)
            files.progress.say(text)

        self._write(work)

    def saved(self, save: Callable[[int], object]) -> None:
        """Has a checkpoint saved.

        Args:
            save: given the size of metrics.jsonl in bytes, all of it on the disk.
        """
        self._write(lambda files: save(files.metrics.sync()))

    def close(self) -> None:
        """Leaves everything as it stands."""
        if self._files:
            for one in self._files:
                one.close()


def filters_of(whole: Held, stage: str) -> dict[str, Tensor]:
    """A stage's weights, tower by tower, by the names that pictures of them have.

    Args:
        whole: of all towers; empty on ranks that are not the first.
        stage: a convolution.
    """
    of_stage = [name for name in whole if name.endswith(f".{stage}.weight")]
    return {f"{stage}/tower{tower_of(name)}": whole[name]["value"] for name in of_stage}
